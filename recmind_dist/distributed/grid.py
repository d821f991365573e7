"""Exchanges of many ranks in two legs: along a row of a grid of ranks, then along a column.

A message costs more than its bytes where they are few. Of P ranks each sends some 2 √P messages
instead of P − 1, and its bytes twice.

Legend: P ranks, at (rank // C, rank % C) of a grid of R rows and C columns.
"""

from dataclasses import dataclass
from datetime import timedelta
from math import isqrt

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.types import IntArray

FROM_RANKS = 128
"""Ranks from which ids travel in two legs: docs/scale.md."""


@dataclass(frozen=True)
class Grid:
    """This rank's row and column. One thread uses them.

    Attributes:
        row: the C ranks of its row.
        column: the R ranks of its column.
    """

    row: dist.ProcessGroup
    column: dist.ProcessGroup

    def all_to_all(self, x: Tensor, send: list[int]) -> tuple[Tensor, list[int]]:
        """As `Transport.all_to_all_single`. Collective: every rank must call."""
        sizes = np.array(send, np.int64).reshape(self.column.size(), self.row.size())
        for group in (self.row, self.column):
            x, sizes = _leg(x, sizes, group)
        return x, sizes.ravel().tolist()

    def all_reduce(self, values: Tensor) -> None:
        """Sum over ranks, in place: the same on every rank. Collective: every rank must call."""
        for group in (self.row, self.column):
            dist.all_reduce(values, group=group)


def _leg(x: Tensor, sizes: IntArray, group: dist.ProcessGroup) -> tuple[Tensor, IntArray]:
    """Sends x to the ranks of a group. Collective: every rank must call.

    Args:
        x: its parts in the order of `sizes`.
        sizes: [A, B] of the parts; those of column b go to the group's b-th rank.

    Returns: what came, and the sizes of its parts, [B, A]: a row of each rank.
    """
    starts = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
    given = np.ascontiguousarray(sizes.T)
    shift = starts.T.ravel() - (np.cumsum(given) - given.ravel())
    order = np.repeat(shift, given.ravel()) + np.arange(given.sum())
    came = torch.empty(given.shape, dtype=torch.int64)
    dist.all_to_all_single(came, torch.from_numpy(given), group=group)
    arriving = came.sum(1).tolist()
    out = x.new_empty(sum(arriving), *x.shape[1:])
    parts = x.index_select(0, torch.from_numpy(order))
    dist.all_to_all_single(out, parts, arriving, given.sum(1).tolist(), group=group)
    return out, came.numpy()


def make_grid(rank: int, world_size: int, timeout: timedelta) -> Grid | None:
    """See `grid_shape`. Collective: every rank must call."""
    shape = grid_shape(world_size)
    if shape is None:
        return None
    ranks = np.arange(world_size).reshape(shape)
    r, c = divmod(rank, shape[1])
    row, column = (
        dist.new_group(of.tolist(), timeout, "gloo", use_local_synchronization=True)
        for of in (ranks[r], ranks[:, c])
    )
    return Grid(row, column)


def grid_shape(world_size: int) -> tuple[int, int] | None:
    """Rows and columns, as even as the number of ranks allows; None where there is no grid."""
    columns = max(n for n in range(1, isqrt(world_size) + 1) if world_size % n == 0)
    if world_size < FROM_RANKS or columns == 1:
        return None
    return world_size // columns, columns
