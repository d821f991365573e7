"""Recall, NDCG, HitRate, MRR, MAP and precision at K of each user, so that differences can be
bootstrapped over users.

For a user with n held-out items and hits at positions j (1-based) of the ranked list:
    Recall@K  = hits in the first K / n        (denominator n, as in LightGCN, not min(K, n))
    NDCG@K    = Σ_{hits j ≤ K} 1/log2(j + 1) / Σ_{j ≤ min(K, n)} 1/log2(j + 1)
    HitRate@K = 1 if there is a hit in the first K
    MRR@K     = 1 / position of the first hit if that is ≤ K, else 0
    MAP@K     = Σ_{hits j ≤ K} (hits in the first j) / j / n
    Precision@K = hits in the first K / K
Users without held-out items have no metrics and count in no mean.
Shapes: u users, v users with held-out items, h distinct held-out items, k ranked items, M metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmind_dist.report.metric_names import ACCURACY
from recmind_dist.types import IndexArray, IntArray

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


@dataclass(frozen=True)
class HeldItems:
    """Distinct held-out items of the v of u users who have any, on a device.

    Attributes:
        users: [v] rows of theirs among the u, on the host.
        user: [h] whose item it is, in [0, v), ascending.
        item: [h] ascending within a user.
        stride: above every item id.
    """

    users: IntArray
    user: Tensor
    item: Tensor
    stride: int

    @staticmethod
    def of(
        indptr: IndexArray, indices: IndexArray, stride: int, device: torch.device
    ) -> "HeldItems":
        """From CSR rows of u users, of items below `stride`."""
        counts = np.diff(indptr)
        users = np.flatnonzero(counts)
        user = np.repeat(np.arange(len(users)), counts[users])
        keys = user * stride + np.asarray(indices, dtype=np.int64)
        if not (keys[1:] > keys[:-1]).all():
            keys = np.unique(keys)
        on_device = torch.from_numpy(keys).to(device)
        return HeldItems(users, on_device // stride, on_device % stride, stride)

    def counts(self, inside: Tensor | None = None) -> Tensor:
        """Items of each user, or those that are `inside`, [h]. Shape: int64 [v]."""
        one = torch.ones_like(self.user) if inside is None else inside.to(torch.int64)
        return self.user.new_zeros(len(self.users)).index_add_(0, self.user, one)

    def hits(self, ranked_vk: Tensor) -> Tensor:
        """Which ranked items are held out. Shape: bool [v, k]."""
        if not len(self.user):
            return torch.zeros_like(ranked_vk, dtype=torch.bool)
        row = torch.arange(len(ranked_vk), device=ranked_vk.device)[:, None]
        wanted, keys = row * self.stride + ranked_vk, self.user * self.stride + self.item
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return (keys[at] == wanted) & (ranked_vk >= 0)


def metric_names(ks: Sequence[int]) -> list[str]:
    """Such as "recall@20", in the order of `metrics_of_hits`."""
    return [f"{kind}@{k}" for k in ks for kind in ACCURACY]


def metrics_of_hits(hits_vk: Tensor, counts_v: Tensor, ks: Sequence[int]) -> Tensor:
    """Metrics of each user, in the order of `metric_names`. Shape: float64 [v, M].

    Args:
        hits_vk: bool, by position in the ranking
        counts_v: held-out items, at least one each
        ks: cut-offs, none above k
    """
    places = hits_vk.shape[1]
    place = torch.arange(1, places + 1, dtype=torch.float64)
    discount = 1.0 / torch.log2(place + 1.0)  # on the CPU: the same bits on every device
    ideal = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)]).to(hits_vk.device)
    hits = hits_vk.to(torch.float64)
    found, gain = hits.cumsum(1), (hits * discount.to(hits.device)).cumsum(1)
    reciprocal = hits / place.to(hits.device)
    precise = (reciprocal * found).cumsum(1)
    columns = []
    for k in ks:
        hits_k = found[:, k - 1]
        ndcg = gain[:, k - 1] / ideal[counts_v.clamp(max=k)]
        columns += [
            hits_k / counts_v,
            ndcg.clamp(max=1.0),  # the two sums may be rounded differently
            (hits_k > 0).to(torch.float64),
            reciprocal[:, :k].amax(1),
            precise[:, k - 1] / counts_v,
            hits_k / k,
        ]
    return torch.stack(columns, 1)


def ranking_metrics(
    ranked: IntArray, held_indptr: IndexArray, held_indices: IndexArray, ks: Sequence[int]
) -> RankingMetrics:
    """Measures ranked lists against held-out items.

    Args:
        ranked: [u, k] item ids, best first, −1 for none; no item twice in a row
        held_indptr: [u + 1]
        held_indices: held-out item ids of each user, numbered as in `ranked`
        ks: cut-offs, none above k
    """
    held = held_of_ranking(ranked, held_indptr, held_indices, ks)
    hits = held.hits(torch.from_numpy(np.asarray(ranked, dtype=np.int64)[held.users]))
    return checked_metrics(held, metrics_of_hits(hits, held.counts(), ks), ks)


def held_of_ranking(
    ranked: IntArray, held_indptr: IndexArray, held_indices: IndexArray, ks: Sequence[int]
) -> HeldItems:
    """Held-out items on the CPU. Raises ValueError: they do not fit the ranking."""
    if max(ks) > ranked.shape[1]:
        raise ValueError(
            f"metrics at {max(ks)} of a ranking of {ranked.shape[1]}: rank at least {max(ks)} items"
        )
    if len(ranked) != len(held_indptr) - 1:
        raise ValueError(
            f"{len(ranked)} rankings for {len(held_indptr) - 1} users: give one row a user"
        )
    stride = max(int(np.max(held_indices, initial=0)), int(ranked.max(initial=0))) + 1
    return HeldItems.of(held_indptr, held_indices, stride, torch.device("cpu"))


def checked_metrics(held: HeldItems, metrics_vM: Tensor, ks: Sequence[int]) -> RankingMetrics:
    """Metrics by name, on the host; what cannot be is a defect."""
    values = metrics_vM.T.contiguous().cpu().numpy()
    per_user = dict(zip(metric_names(ks), values, strict=True))
    recall = per_user[f"recall@{max(ks)}"]
    assert (recall <= 1.0).all(), "an item is ranked twice for a user"
    if len(held.users) and len(held.user) == len(held.users):  # leave-one-out
        for k in ks:
            assert (per_user[f"ndcg@{k}"] <= per_user[f"recall@{k}"]).all(), (
                "NDCG above Recall under leave-one-out"
            )
    return RankingMetrics(held.users, per_user)
