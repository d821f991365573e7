"""This rank's rows of a sparse matrix over all nodes, times everybody's rows of x.

Other ranks' rows of x pass by, one rank's at a time.

Legend: R rows of the matrix, E entries, n rows of this rank, D dims, P ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import rows_by_rank
from recmind_dist.distributed.context import DistContext
from recmind_dist.kernels.gather_sum import CsrMatrix

_ENTRIES_AT_ONCE = 1 << 23
_MOST_COLUMNS, _NUMBERS_AT_ONCE = 64, 1 << 25


@dataclass(frozen=True)
class _Block:
    """The columns of one rank.

    Attributes:
        matrix: of all rows, or of some.
        rows: [r] those, ascending; None: all. Row starts of all rows for each rank would be as many
            as there are nodes.
    """

    matrix: CsrMatrix
    rows: Tensor | None = None

    @staticmethod
    def of(matrix: CsrMatrix) -> "_Block":
        """Without the rows that have no entry, where those are most."""
        sizes = matrix.indptr.diff()
        rows = sizes.nonzero().squeeze(1)
        if 2 * len(rows) >= matrix.num_rows:
            return _Block(matrix)
        starts = torch.cat([matrix.indptr[:-1][rows], matrix.indptr[-1:]])
        return _Block(replace(matrix, indptr=starts), rows.to(torch.int32))

    def matmul(self, x_CD: Tensor, num_rows: int, wanted: Tensor | None) -> Tensor:
        """The block times a rank's rows. Shape: [R, D], or [u, D]."""
        if wanted is not None:
            return self._whole(num_rows).rows(wanted).matmul(x_CD)
        part = self.matrix.matmul(x_CD)
        if self.rows is None:
            return part
        return part.new_zeros(num_rows, part.shape[1]).index_copy_(0, self.rows.long(), part)

    def add_matmul(self, total: Tensor, x_CD: Tensor, num_rows: int, wanted: Tensor | None) -> None:
        """Adds the product to [R, D], or to [u, D]."""
        if wanted is not None:
            total.add_(self.matmul(x_CD, num_rows, wanted))
        elif self.rows is None:
            self.matrix.matmul(x_CD, total)
        elif len(self.rows):
            total.index_add_(0, self.rows, self.matrix.matmul(x_CD))

    def _whole(self, num_rows: int) -> CsrMatrix:
        if self.rows is None:
            return self.matrix
        sizes = self.matrix.indptr.new_zeros(num_rows)
        sizes[self.rows.long()] = self.matrix.indptr.diff()
        indptr = torch.zeros(num_rows + 1, dtype=sizes.dtype, device=sizes.device)
        torch.cumsum(sizes, 0, dtype=sizes.dtype, out=indptr[1:])
        return replace(self.matrix, indptr=indptr)


class GatheredMatrix:
    """This rank's rows of a matrix, split into a block of columns for each rank.

    Args:
        matrix: [R, N] whose columns are the rows of all ranks, in rank order; has weights.
        counts: [P] rows of each rank.
        fixed: its entries are never hidden, and `whole` is not asked for: four bytes less of each.
    """

    def __init__(
        self, matrix: CsrMatrix, counts: list[int], context: DistContext, fixed: bool = False
    ) -> None:
        assert matrix.weight is not None
        self._indptr, self._counts, self._context = matrix.indptr, counts, context
        self._fixed = fixed
        self._weight: Tensor = matrix.weight  # of the entries of all blocks, block after block
        self._place: Tensor | None = None  # [E] of an entry of the matrix among those
        self._blocks = [_Block(matrix)]
        if len(counts) > 1:
            self._split(matrix)

    def _split(self, matrix: CsrMatrix) -> None:
        device, num_rows, given = matrix.indices.device, matrix.num_rows, matrix.weight
        assert given is not None
        ends = torch.tensor(np.cumsum(self._counts), dtype=matrix.indices.dtype, device=device)
        sizes = torch.zeros(len(self._counts), dtype=torch.int64, device=device)
        for part in _parts(matrix):
            sizes += torch.bincount(_owners(matrix, part, ends), minlength=len(sizes))
        starts = [0, *torch.cumsum(sizes, 0).tolist()]
        columns, self._weight = torch.empty_like(matrix.indices), torch.empty_like(given)
        sizes_of_rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._counts]
        self._place = None if self._fixed else torch.empty_like(matrix.indices)
        free = list(starts)  # next free entry of each rank's block
        for part in _parts(matrix):
            owner, row_of_entry = _owners(matrix, part, ends), _rows(matrix, part)
            order = torch.argsort(owner, stable=True)
            found = torch.bincount(owner, minlength=len(sizes)).tolist()
            for rank, entries in enumerate(torch.split(order, found)):
                to = slice(free[rank], free[rank] + len(entries))
                columns[to] = matrix.indices[part][entries] - (ends[rank] - self._counts[rank])
                self._weight[to] = given[part][entries]
                rows, size = torch.unique_consecutive(row_of_entry[entries], return_counts=True)
                sizes_of_rows[rank].append((rows.to(columns.dtype), size.to(columns.dtype)))
                if self._place is not None:
                    places = torch.arange(to.start, to.stop, device=device)
                    self._place[part].index_copy_(0, entries, places.to(self._place.dtype))
                free[rank] = to.stop
        self._blocks = []
        for rank, count in enumerate(self._counts):
            own = slice(starts[rank], starts[rank + 1])
            indptr = torch.zeros(num_rows + 1, dtype=matrix.indptr.dtype, device=device)
            for rows, size in sizes_of_rows[rank]:  # a row may stand in two parts
                indptr[1:].index_add_(0, rows, size.to(indptr.dtype))
            indptr.cumsum_(0)
            self._blocks.append(
                _Block.of(CsrMatrix(indptr, columns[own], self._weight[own], count))
            )

    def whole(self) -> CsrMatrix:
        """The matrix as it was given; a copy where there are several ranks."""
        if len(self._blocks) == 1:
            return self._blocks[0].matrix
        assert self._place is not None, "entries of a fixed matrix are not in order"
        ends = np.cumsum(self._counts).tolist()
        blocks = zip((block.matrix for block in self._blocks), ends, strict=True)
        columns = torch.cat([block.indices + end - block.num_cols for block, end in blocks])
        place = self._place
        columns, weight = (x.index_select(0, place) for x in (columns, self._weight))
        return CsrMatrix(self._indptr, columns, weight, ends[-1])

    def gather_matmul(
        self, x_nD: Tensor, only: CsrMatrix | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """The matrix times everybody's rows, outside autograd. Shape: [R, D], or [u, D].

        Collective: every rank must call.

        Args:
            x_nD: this rank's rows.
            only: in a world of one, the entries whose rows of x are not zero.
            wanted: [u] rows of the matrix. Default: all.
        """
        total: Tensor | None = None
        blocks = self._blocks if only is None else [_Block(only)]
        for rank, rows in rows_by_rank(x_nD, self._counts, self._context):
            if total is None:
                total = blocks[rank].matmul(rows, len(self._indptr) - 1, wanted)
            else:
                blocks[rank].add_matmul(total, rows, len(self._indptr) - 1, wanted)
        assert total is not None
        return total

    @contextmanager
    def without(self, entries: Tensor) -> Iterator[None]:
        """While these entries weigh nothing: in place, since a copy of all weights costs a quarter
        of a hop.
        """
        assert not self._fixed, "a fixed matrix hides no entries"
        at = entries if self._place is None else self._place[entries].long()
        kept = self._weight[at]
        self._weight.index_fill_(0, at, 0.0)  # a number by `[at] =` would come from the host
        try:
            yield
        finally:
            self._weight[at] = kept


def columns_at_once(num_nodes: int, world_size: int) -> int:
    """Columns of a rank's rows to multiply at a time: from 8 to 64, fewer where that would make
    more than 32 million numbers.
    """
    return min(max(_NUMBERS_AT_ONCE * world_size // max(num_nodes, 1), 8), _MOST_COLUMNS)


def _parts(matrix: CsrMatrix) -> Iterator[slice]:
    """Its entries, some at a time: an int64 of each of a hundred million takes most of a GB."""
    for start in range(0, len(matrix.indices), _ENTRIES_AT_ONCE):
        yield slice(start, min(start + _ENTRIES_AT_ONCE, len(matrix.indices)))


def _owners(matrix: CsrMatrix, part: slice, ends: Tensor) -> Tensor:
    """The ranks of these entries' columns, int32.

    Args:
        ends: [P] where the columns of each rank end.
    """
    return torch.bucketize(matrix.indices[part], ends, out_int32=True, right=True)


def _rows(matrix: CsrMatrix, part: slice) -> Tensor:
    """The rows of these entries, as narrow as the row starts."""
    indptr = matrix.indptr
    ends = torch.tensor([part.start, part.stop - 1], dtype=indptr.dtype, device=indptr.device)
    first, last = (torch.searchsorted(indptr, ends, right=True) - 1).tolist()
    inside = indptr[first : last + 2].clamp(part.start, part.stop)
    rows = torch.arange(first, last + 1, dtype=indptr.dtype, device=indptr.device)
    return torch.repeat_interleave(rows, inside.diff())
