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
        if wanted is not None or self.rows is None:
            total.add_(self.matmul(x_CD, num_rows, wanted))
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
    """

    def __init__(self, matrix: CsrMatrix, counts: list[int], context: DistContext) -> None:
        assert matrix.weight is not None
        self._indptr, self._counts, self._context = matrix.indptr, counts, context
        self._weight: Tensor = matrix.weight  # of the entries of all blocks, block after block
        self._place: Tensor | None = None  # [E] of an entry of the matrix among those
        self._blocks = [_Block(matrix)]
        if len(counts) > 1:
            self._split(matrix)

    def _split(self, matrix: CsrMatrix) -> None:
        device, num_rows = matrix.indices.device, matrix.num_rows
        ends = np.cumsum(self._counts).tolist()
        # as narrow as they go: of each entry, and there may be a hundred million of a rank
        bounds = torch.tensor(ends, dtype=matrix.indices.dtype, device=device)
        owner = torch.bucketize(matrix.indices, bounds, out_int32=True, right=True).to(torch.int16)
        sizes_of_ranks = torch.bincount(owner, minlength=len(ends)).tolist()
        order = torch.argsort(owner, stable=True)
        del owner
        places = torch.arange(len(order), dtype=matrix.indptr.dtype, device=device)
        self._place = torch.empty_like(places).index_copy_(0, order, places)
        del places
        self._weight = self._weight[order]
        rows = torch.arange(num_rows, dtype=matrix.indptr.dtype, device=device)
        row = torch.repeat_interleave(rows, matrix.indptr.diff())
        self._blocks, first = [], 0
        for rank, size in enumerate(sizes_of_ranks):
            own = slice(first, first + size)
            indptr = torch.zeros(num_rows + 1, dtype=matrix.indptr.dtype, device=device)
            sizes = torch.bincount(row[order[own]], minlength=num_rows)
            torch.cumsum(sizes, 0, dtype=indptr.dtype, out=indptr[1:])
            start = ends[rank] - self._counts[rank]
            indices = matrix.indices[order[own]] - start
            block = CsrMatrix(indptr, indices, self._weight[own], self._counts[rank])
            self._blocks.append(_Block.of(block))
            first += size

    def whole(self) -> CsrMatrix:
        """The matrix as it was given; a copy where there are several ranks."""
        if self._place is None:
            return self._blocks[0].matrix
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
        at = entries if self._place is None else self._place[entries].long()
        kept = self._weight[at]
        self._weight.index_fill_(0, at, 0.0)  # a number by `[at] =` would come from the host
        try:
            yield
        finally:
            self._weight[at] = kept
