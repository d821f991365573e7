"""Metrics by the training degree of the held-out item: where text helps, and where the graph does.

Strata are sets of (user, held-out item) pairs: in a stratum only its items count as held out,
against one ranking of the whole catalogue; a user counts in each stratum of their held-out items.
"""

from collections.abc import Sequence

import numpy as np

from recmind_dist.evaluation.metrics import ranking_metrics
from recmind_dist.types import IntArray

COLD_MAX = 3  # training edges; "cold" is all items up to here
ALWAYS = ("0", "1-3", "cold")


def degree_bins(max_degree: int) -> list[tuple[str, int, int]]:
    """(name, lowest, highest degree): 0, 1-3, 4-7, 8-15, … up to the bin of `max_degree`."""
    bins = [("0", 0, 0), ("1-3", 1, 3)]
    low = 4
    while low <= max_degree:
        bins.append((f"{low}-{2 * low - 1}", low, 2 * low - 1))
        low *= 2
    return bins


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
    held = np.asarray(held_indices, dtype=np.int64)
    degrees = np.asarray(item_degree)[held]
    bins = degree_bins(int(degrees.max(initial=0)))
    out: dict[str, dict[str, float | None]] = {}
    for name, low, high in [*bins[:2], ("cold", 0, COLD_MAX), *bins[2:]]:
        inside = (degrees >= low) & (degrees <= high)
        if inside.any() or name in ALWAYS:
            indptr = np.concatenate([[0], np.cumsum(inside)])[held_indptr]
            found = ranking_metrics(ranked, indptr, held[inside], ks)
            means = {
                metric: float(values.mean()) if len(values) else None
                for metric, values in found.per_user.items()
            }
            out[name] = {"users": len(found.users), "pairs": int(inside.sum()), **means}
    return out
