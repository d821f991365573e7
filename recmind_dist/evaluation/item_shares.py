"""Rankings over items that are dealt to ranks: blocks of items pass by, and the best are merged.

Legend: u users of this rank, i items of this rank, b of a block, I of all, C columns, P ranks, k
ranked items, h seen items.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import counts_of_ranks, rows_by_rank
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.topk import ITEM_BLOCK, PADDING, rank_items
from recmind_dist.types import IndexArray, IntArray

_MERGED_USERS = 16_384  # at a time


@dataclass(frozen=True)
class ItemShare:
    """This rank's items.

    Attributes:
        ids: [i] local item ids, ascending.
        h_iC: their final vectors.
        counts: [P] items of each rank.
    """

    ids: IntArray
    h_iC: Tensor
    counts: list[int]
    context: DistContext

    def rank_catalogue(
        self,
        h_uC: Tensor,
        k: int,
        seen_indptr: IndexArray,
        seen: IndexArray,
        norm_exponent: float,
        block: int = ITEM_BLOCK,
    ) -> Tensor:
        """Ids of the k best unseen items of all ranks for each user, −1 where there are fewer.

        Shape: int64 [u, k]. Equal scores go to the lower id. Collective: every rank must call.

        Args:
            seen_indptr, seen, norm_exponent: as for `rank_items`.
            block: items of a rank that pass by at a time.
        """
        if self.context.world_size == 1:
            return rank_items(h_uC, self.h_iC, k, seen_indptr, seen, norm_exponent)[0]
        ids = torch.full((len(h_uC), k), PADDING, dtype=torch.int64, device=h_uC.device)
        scores = torch.full((len(h_uC), k), -torch.inf, dtype=h_uC.dtype, device=h_uC.device)
        for item_ids, h_bC in self.passing_blocks(block):
            if len(item_ids) and len(h_uC):
                seen_here = _seen_of(item_ids.cpu().numpy(), seen_indptr, seen)
                places, found = rank_items(h_uC, h_bC, k, *seen_here, norm_exponent)
                _merge(ids, scores, item_ids[places], found)
        return ids.masked_fill_(scores == -torch.inf, PADDING)

    def _starts(self, block: int) -> range:
        """Where the blocks of a rank start: the same on every rank."""
        return range(0, max(self.counts), block)

    def passing_blocks(self, block: int = ITEM_BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids [b] and vectors [b, C] of the items of all ranks, this rank's first. They may be read
        until the next ones are asked for.

        Collective: every rank must iterate to the end.
        """
        all_ids = torch.from_numpy(self.ids).to(self.h_iC.device)[:, None]
        columns = self.h_iC.shape[1]
        for first in self._starts(block):
            part = slice(first, first + block)
            counts = [min(max(count - first, 0), block) for count in self.counts]
            h_bC = self.h_iC[part]
            # ids travel as the bits of further columns: one message a rank
            with_ids = torch.cat([h_bC, all_ids[part].view(h_bC.dtype)], 1)
            for _, rows in rows_by_rank(with_ids, counts, self.context):
                ids = rows[:, columns:].clone(memory_format=torch.contiguous_format)
                yield ids.view(torch.int64).squeeze(1), rows[:, :columns].contiguous()


def share_items(ids: IntArray, h_iC: Tensor, context: DistContext) -> ItemShare:
    """This rank's share. Collective: every rank must call.

    Args:
        ids, h_iC: see `ItemShare`.
    """
    return ItemShare(ids, h_iC, counts_of_ranks(len(ids), context), context)


def _seen_of(
    item_ids: IntArray, indptr: IndexArray, seen: IndexArray
) -> tuple[IntArray, IndexArray]:
    """The seen items that are among these, as CSR of their places there.

    Args:
        item_ids: [b] ascending.
        indptr: [u + 1] from 0.
    """
    place = np.minimum(np.searchsorted(item_ids, seen), len(item_ids) - 1)
    inside = item_ids[place] == seen
    before = np.r_[0, np.cumsum(inside)]
    return before[indptr], place[inside]


def _merge(ids: Tensor, scores: Tensor, more_ids: Tensor, more_scores: Tensor) -> None:
    """Keeps the k best of both in `ids` and `scores`, [u, k] each."""
    k = ids.shape[1]
    for start in range(0, len(ids), _MERGED_USERS):
        rows = slice(start, start + _MERGED_USERS)
        both = torch.cat([ids[rows], more_ids[rows]], 1)
        order = both.argsort(dim=1)
        values = torch.cat([scores[rows], more_scores[rows]], 1).gather(1, order)
        both = both.gather(1, order)
        # stable, so that of equal scores the lower id stays first
        values, order = values.sort(dim=1, descending=True, stable=True)
        ids[rows], scores[rows] = both.gather(1, order)[:, :k], values[:, :k]
