"""Recall, NDCG, HitRate and MRR at K of each user, so that differences can be bootstrapped over
users.

For a user with n held-out items and hits at positions j (1-based) of the ranked list:
    Recall@K  = hits in the first K / n        (denominator n, as in LightGCN, not min(K, n))
    NDCG@K    = Σ_{hits j ≤ K} 1/log2(j + 1) / Σ_{j ≤ min(K, n)} 1/log2(j + 1)
    HitRate@K = 1 if there is a hit in the first K
    MRR@K     = 1 / position of the first hit if that is ≤ K, else 0
Users without held-out items have no metrics and count in no mean.
Shapes: u users, v users with held-out items, k ranked items.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recmind_dist.types import BoolArray, IntArray

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankingMetrics:
    """Metrics of each user with held-out items."""

    users: IntArray
    """[v] their rows in the ranking."""
    per_user: dict[str, Float64Array]
    """[v] by metric, such as "recall@20"."""

    def means(self) -> dict[str, float]:
        """Mean over users; empty if no user has held-out items."""
        if not len(self.users):
            return {}
        return {name: float(values.mean()) for name, values in self.per_user.items()}


def ranking_metrics(
    ranked: IntArray, held_indptr: IntArray, held_indices: IntArray, ks: Sequence[int]
) -> RankingMetrics:
    """Measures ranked lists against held-out items.

    Args:
        ranked: [u, k] item ids, best first, −1 for none; no item twice in a row
        held_indptr: [u + 1]
        held_indices: held-out item ids of each user, numbered as in `ranked`
        ks: cut-offs, none above k
    """
    if max(ks) > ranked.shape[1]:
        raise ValueError(
            f"metrics at {max(ks)} of a ranking of {ranked.shape[1]}: rank at least {max(ks)} items"
        )
    hits, counts = hits_of(np.asarray(ranked, dtype=np.int64), held_indptr, held_indices)
    users = np.flatnonzero(counts)
    hits, counts = hits[users], counts[users]
    assert (hits.sum(axis=1) <= counts).all(), "an item is ranked twice for a user"
    per_user = {name: values for k in ks for name, values in _at(hits[:, :k], counts, k)}
    if len(users) and counts.max() == 1:  # leave-one-out
        for k in ks:
            assert (per_user[f"ndcg@{k}"] <= per_user[f"recall@{k}"]).all(), (
                "NDCG above Recall under leave-one-out"
            )
    return RankingMetrics(users, per_user)


def hits_of(
    ranked: IntArray, held_indptr: IntArray, held_indices: IntArray
) -> tuple[BoolArray, IntArray]:
    """Hits [u, k]: ranked items that are held out; and each user's distinct held-out items [u]."""
    num_users = len(held_indptr) - 1
    if ranked.shape[0] != num_users:
        raise ValueError(f"{ranked.shape[0]} rankings for {num_users} users: give one row a user")
    items = np.asarray(held_indices, dtype=np.int64)
    stride = max(int(items.max(initial=0)), int(ranked.max(initial=0))) + 1
    rows = np.repeat(np.arange(num_users, dtype=np.int64), np.diff(held_indptr))
    keys = np.unique(rows * stride + items)
    counts = np.bincount(keys // stride, minlength=num_users).astype(np.int64)
    wanted = np.arange(num_users, dtype=np.int64)[:, None] * stride + ranked
    if not len(keys):
        return np.zeros(ranked.shape, dtype=np.bool_), counts
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return (keys[index] == wanted) & (ranked >= 0), counts


def _at(hits: BoolArray, counts: IntArray, k: int) -> Iterator[tuple[str, Float64Array]]:
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(counts, k)]
    any_hit = np.asarray(hits.any(axis=1))
    gain: Float64Array = (hits * discount).sum(axis=1)
    recall: Float64Array = hits.sum(axis=1) / counts
    yield f"recall@{k}", recall
    # the two sums may be rounded differently
    ndcg: Float64Array = np.minimum(gain / ideal, 1.0)
    yield f"ndcg@{k}", ndcg
    yield f"hitrate@{k}", np.asarray(any_hit, dtype=np.float64)
    mrr: Float64Array = any_hit / (hits.argmax(axis=1) + 1.0)
    yield f"mrr@{k}", mrr
