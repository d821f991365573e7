"""Metrics by the training degree of the held-out item: where text helps, and where the graph does.

Strata are sets of (user, held-out item) pairs: in a stratum only its items count as held out,
against one ranking of the whole catalogue; a user counts in each stratum of their held-out items.
Shapes: u users, v users with held-out items, h of these, I items, k ranked items, M metrics.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recmind_dist.evaluation.degree_bins import ALWAYS, degree_bins, strata_bins
from recmind_dist.evaluation.metrics import (
    HeldItems,
    held_of_ranking,
    metric_names,
    metrics_of_hits,
)
from recmind_dist.types import IntArray

__all__ = ["degree_bins", "strata_metrics", "stratum_sums"]


def stratum_sums(
    ranked_vk: Tensor,
    hits_vk: Tensor,
    held: HeldItems,
    degree_I: Tensor,
    bounds: tuple[int, int],
    ks: Sequence[int],
) -> Tensor:
    """Users and pairs of a stratum, then the sums of its users' metrics. Shape: float64 [2 + M].

    Args:
        ranked_vk: item ids, −1 for none
        hits_vk: which of them are held out
        degree_I: training degrees
        bounds: lowest and highest degree
    """
    low, high = bounds
    degree = degree_I[held.item]
    counts = held.counts((degree >= low) & (degree <= high))
    users = counts.nonzero().squeeze(1)
    degree = degree_I[ranked_vk[users].clamp(min=0)]
    hits = hits_vk[users] & (degree >= low) & (degree <= high)
    values = metrics_of_hits(hits, counts[users], ks)
    sizes = torch.stack([(counts > 0).sum(), counts.sum()])
    return torch.cat([sizes.to(values.dtype), values.sum(0)])


def strata_metrics(
    ranked: IntArray,
    held_indptr: IntArray,
    held_indices: IntArray,
    item_degree: IntArray,
    ks: Sequence[int],
) -> dict[str, dict[str, float | None]]:
    """For each stratum its numbers of users and pairs, and its `ranking_metrics`.

    Args:
        item_degree: [I] training degrees; items are numbered [0, I)
    Returns:
        "0", "1-3" and "cold" always (0 users, metrics None where empty), others where not empty.
    """
    held = held_of_ranking(ranked, held_indptr, held_indices, ks)
    ranked_vk = torch.from_numpy(np.asarray(ranked, dtype=np.int64)[held.users])
    hits, degree = held.hits(ranked_vk), torch.from_numpy(np.array(item_degree))
    out: dict[str, dict[str, float | None]] = {}
    for name, low, high in strata_bins(int(degree.max())):
        sums = stratum_sums(ranked_vk, hits, held, degree, (low, high), ks).tolist()
        if sums[0] or name in ALWAYS:
            out[name] = row_of_sums(sums, ks)
    return out


def row_of_sums(sums: Sequence[float], ks: Sequence[int]) -> dict[str, float | None]:
    """Numbers of users and pairs, and means of the metrics, None without users."""
    users, pairs, *metrics = sums
    means = {
        name: value / users if users else None
        for name, value in zip(metric_names(ks), metrics, strict=True)
    }
    return {"users": int(users), "pairs": int(pairs), **means}
