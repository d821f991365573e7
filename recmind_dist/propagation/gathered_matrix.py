"""This rank's rows of a sparse matrix over all nodes, times everybody's rows of x.

Other ranks' rows of x pass by, one rank's at a time.

Legend: R rows of the matrix, E entries, n rows of this rank, D dims, P ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import rows_by_rank
from recmind_dist.distributed.context import DistContext
from recmind_dist.kernels.gather_sum import CsrMatrix


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
        self._blocks = [matrix]
        if len(counts) > 1:
            self._split(matrix)

    def _split(self, matrix: CsrMatrix) -> None:
        device, num_rows = matrix.indices.device, matrix.num_rows
        ends = np.cumsum(self._counts).tolist()
        owner = torch.bucketize(matrix.indices, torch.tensor(ends, device=device), right=True)
        order = torch.argsort(owner, stable=True)
        row = torch.repeat_interleave(torch.arange(num_rows, device=device), matrix.indptr.diff())
        self._weight = self._weight[order]
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order), device=device)
        self._blocks, first = [], 0
        for rank, size in enumerate(torch.bincount(owner, minlength=len(ends)).tolist()):
            own = slice(first, first + size)
            indptr = torch.zeros(num_rows + 1, dtype=matrix.indptr.dtype, device=device)
            sizes = torch.bincount(row[order[own]], minlength=num_rows)
            torch.cumsum(sizes, 0, dtype=indptr.dtype, out=indptr[1:])
            start = ends[rank] - self._counts[rank]
            indices = matrix.indices[order[own]] - start
            self._blocks.append(CsrMatrix(indptr, indices, self._weight[own], self._counts[rank]))
            first += size

    def whole(self) -> CsrMatrix:
        """The matrix as it was given; a copy where there are several ranks."""
        if self._place is None:
            return self._blocks[0]
        ends = np.cumsum(self._counts).tolist()
        blocks = zip(self._blocks, ends, strict=True)
        columns = torch.cat([block.indices + end - block.num_cols for block, end in blocks])
        return CsrMatrix(self._indptr, columns[self._place], self._weight[self._place], ends[-1])

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
        blocks = self._blocks if only is None else [only]
        for rank, rows in rows_by_rank(x_nD, self._counts, self._context):
            block = blocks[rank] if wanted is None else blocks[rank].rows(wanted)
            part = block.matmul(rows)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    @contextmanager
    def without(self, entries: Tensor) -> Iterator[None]:
        """While these entries weigh nothing: in place, since a copy of all weights costs a quarter
        of a hop.
        """
        at = entries if self._place is None else self._place[entries]
        kept = self._weight[at]
        self._weight.index_fill_(0, at, 0.0)  # a number by `[at] =` would come from the host
        try:
            yield
        finally:
            self._weight[at] = kept
