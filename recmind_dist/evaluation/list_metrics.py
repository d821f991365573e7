"""What lists are like: novelty, popularity, long tail, serendipity, diversity, calibration,
coverage, and the Gini index of exposure. docs/metrics.md defines them.

Legend: v users, k ranked items, I items, G categories, T columns of features, L list metrics.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmind_dist.evaluation.groups import Groups, popularity_codes
from recmind_dist.graph import EdgeRows
from recmind_dist.types import IntArray

POPULARITY_METRICS = ("novelty", "popularity", "tail", "serendipity")
"""The metrics of `popularity_metrics`, in their order."""
MIXED_IN = 0.01
"""Share of a user's own categories in the list's, so that no logarithm is infinite (α of Steck)."""
Blocks = Iterable[tuple[Tensor, Tensor]]
"""Ids [b], ascending, and unit features [b, T] of items, block by block."""


@dataclass(frozen=True)
class ItemFacts:
    """Of all items, on a device. Each [I], float64.

    Attributes:
        degree: training edges.
        information: −log2 of the share of users who have it, in bits; at degree 0 as at 1.
        obvious: how likely popularity shows it: 1 for the most popular item, 1 / I for the last,
            the mean for equally popular ones; 0 without training edges.
        tail: 1 in the long tail.
    """

    degree: Tensor
    information: Tensor
    obvious: Tensor
    tail: Tensor

    @staticmethod
    def of(degree_I: IntArray, num_users: int, device: torch.device) -> "ItemFacts":
        """From training degrees."""
        degree = torch.from_numpy(degree_I).to(device).double()
        _, of, counts = torch.unique(degree, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()  # ranks from the least popular
        obvious = (last - (counts - 1) / 2)[of] / max(len(degree), 1) * (degree > 0)
        tail = torch.from_numpy(popularity_codes(degree_I) == 2).to(device).double()
        information = -torch.log2(degree.clamp(min=1) / max(num_users, 1))
        return ItemFacts(degree, information, obvious, tail)


def popularity_metrics(ranked_vk: Tensor, hits_vk: Tensor, facts: ItemFacts, k: int) -> Tensor:
    """Means over the first k items of each list, of which there may be fewer. Shape: [v, 4].

    Args:
        ranked_vk: item ids, −1 for none.
        hits_vk: which of them are held out.
    """
    items, filled = ranked_vk[:, :k].clamp(min=0), ranked_vk[:, :k] >= 0
    place = torch.arange(items.shape[1], device=items.device, dtype=torch.float64)
    likely = 1 - place / max(len(facts.degree), 1)  # of the item at a place of this list
    surprise = (likely - facts.obvious[items]).clamp(min=0) * hits_vk[:, :k]
    columns = [facts.information[items], facts.degree[items], facts.tail[items], surprise]
    size = filled.sum(1).clamp(min=1)
    return torch.stack([(column * filled).sum(1) / size for column in columns], 1)


def diversity(ranked_vk: Tensor, blocks: Blocks, width: int, ks: Sequence[int]) -> Tensor:
    """Mean 1 − cosine over pairs of the first K items, for each K; 0 without a pair.

    By sums of vectors, as Σ_{i≠j} ⟨x_i, x_j⟩ = |Σ x_i|² − n at unit length, so that items may pass
    by. Collective where `blocks` are. Shape: [v, len(ks)].

    Args:
        width: T.
    """
    sums = ranked_vk.new_zeros((len(ks), len(ranked_vk), width), dtype=torch.float32)
    counts = ranked_vk.new_zeros((len(ks), len(ranked_vk)), dtype=torch.float64)
    for ids, x_bT in blocks:
        if not len(ids) or not len(ranked_vk):
            continue
        at = torch.searchsorted(ids, ranked_vk.contiguous()).clamp_(max=len(ids) - 1)
        here = ids[at] == ranked_vk
        at = torch.where(here, at, len(ids))
        padded = torch.cat([x_bT, x_bT.new_zeros(1, width)]).float()
        for row, k in enumerate(ks):
            sums[row] += torch.nn.functional.embedding_bag(at[:, :k], padded, mode="sum")
            counts[row] += here[:, :k].sum(1)
    same = (sums.double().square().sum(2) - counts) / (counts * (counts - 1)).clamp(min=1)
    return torch.where(counts > 1, 1 - same, 0.0).clamp(min=0.0).T


@dataclass(frozen=True)
class Categories:
    """Of items, on a device: those of item i are group[indptr[i]:indptr[i + 1]]."""

    num: int
    indptr: Tensor
    group: Tensor

    @staticmethod
    def of(groups: Groups, device: torch.device) -> "Categories":
        """From groups of items."""
        indptr, group = (torch.from_numpy(x).to(device) for x in (groups.indptr, groups.group))
        return Categories(len(groups.labels), indptr, group)

    def shares(self, row: Tensor, item: Tensor, size: int) -> Tensor:
        """Share of each category among the items of each of `size` rows; an item counts for its
        categories in equal parts, one without any not at all. Shape: float64 [size, G].

        Args:
            row, item: [n] one item of a row each.
        """
        count = self.indptr[item + 1] - self.indptr[item]
        each = torch.repeat_interleave(torch.arange(len(item), device=item.device), count)
        inside = torch.arange(len(each), device=item.device) - (count.cumsum(0) - count)[each]
        group = self.group[self.indptr[item[each]] + inside]
        sums = torch.zeros(size * self.num, dtype=torch.float64, device=item.device)
        sums.index_add_(0, row[each] * self.num + group, count.double().reciprocal()[each])
        sums = sums.view(size, self.num)
        return sums / sums.sum(1, keepdim=True).clamp(min=1e-12)

    def blocks(self, size: int = 65_536) -> Blocks:
        """Items that have any as unit vectors of their categories."""
        has_any = self.indptr.diff().nonzero().squeeze(1)
        for item in torch.split(has_any, size):
            row = torch.arange(len(item), device=item.device)
            yield item, torch.nn.functional.normalize(self.shares(row, item, len(item)).float())


def miscalibration(history_vG: Tensor, ranked_vk: Tensor, categories: Categories, k: int) -> Tensor:
    """Kullback-Leibler divergence of the first k items' categories from the history's, in nats; 0
    without a history. Shape: [v].
    """
    filled = ranked_vk[:, :k] >= 0
    row = torch.arange(len(ranked_vk), device=ranked_vk.device)[:, None].expand_as(filled)[filled]
    listed = categories.shares(row, ranked_vk[:, :k][filled], len(ranked_vk))
    mixed = (1 - MIXED_IN) * listed + MIXED_IN * history_vG
    apart: Tensor = torch.special.xlogy(history_vG, history_vG / mixed.clamp(min=1e-300))
    return apart.sum(1)


def history_shares(rows: EdgeRows, users: IntArray, categories: Categories) -> Tensor:
    """Of the training items of some of this rank's users. Shape: [v, G]."""
    place, edges = rows.edges_of(users)
    device = categories.indptr.device
    items = rows.indices[edges].astype("int64") - rows.graph.num_users
    row, item = (torch.from_numpy(x).to(device) for x in (place, items))
    return categories.shares(row, item, len(users))


def slots(ranked_vk: Tensor, num_items: int, k: int) -> Tensor:
    """How many lists have each item among their first k. Shape: int64 [I]."""
    shown = ranked_vk[:, :k]
    return torch.bincount(shown[shown >= 0], minlength=num_items)


def coverage(slots_I: Tensor) -> float:
    """Share of the catalogue that is in some list."""
    return float((slots_I > 0).double().mean())


def gini(slots_I: Tensor) -> float:
    """Gini index of exposure over the catalogue: 0 where all items have as much, 1 − 1 / I where
    one has all.
    """
    x = slots_I.double().sort().values
    place = torch.arange(1, len(x) + 1, dtype=torch.float64, device=x.device)
    weight = 2 * place - len(x) - 1
    return float((weight * x).sum() / (len(x) * x.sum()).clamp(min=1.0))
