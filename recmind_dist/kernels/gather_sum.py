"""Weighted sums of gathered rows, `y = A x` for a sparse A: one hop of propagation.

`torch.nn.functional.embedding_bag` does the work on a CPU, in float32, bfloat16 and float16, and on
CUDA where sums must be the same bits run for run; elsewhere on CUDA, and in float64 on a CPU,
torch's sparse CSR product (cuSPARSE, MKL). The backward is the same sum through the transposed
matrix: embedding_bag's own adds edge by edge, an order of magnitude slower.

Legend: R rows and C columns of A, E entries, D columns of x.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional

_INT32_MAX = torch.iinfo(torch.int32).max
_ENTRIES_AT_ONCE = 1 << 24  # of a product: weights in double precision take eight bytes each


@cache
def _silence_beta() -> None:
    """Once a process, not for each matrix of each batch."""
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")


def _sparse_csr(
    indptr: Tensor, indices: Tensor, weight: Tensor | None, num_cols: int, dtype: torch.dtype
) -> Tensor:
    """Torch's sparse CSR tensor over the same memory."""
    if weight is None:
        weight = torch.ones(len(indices), dtype=dtype, device=indices.device)
    _silence_beta()
    shape = (len(indptr) - 1, num_cols)
    return torch.sparse_csr_tensor(indptr, indices, weight, shape, check_invariants=False)


@dataclass(frozen=True)
class CsrMatrix:
    """A sparse matrix in CSR form.

    Attributes:
        indptr: [R + 1] start of each row's entries; int32, or int64 above 2^31 entries.
        indices: [E] the columns, of the dtype of `indptr`.
        weight: [E] float32 values; None stands for ones.
        num_cols: C.
    """

    indptr: Tensor
    indices: Tensor
    weight: Tensor | None
    num_cols: int

    @staticmethod
    def of_arrays(
        indptr: np.ndarray, indices: np.ndarray, weight: np.ndarray | None, num_cols: int
    ) -> "CsrMatrix":
        """Takes numpy arrays, whose integers become int32 where they fit."""
        dtype = np.int32 if len(indices) <= _INT32_MAX else np.int64
        return CsrMatrix(
            torch.from_numpy(np.ascontiguousarray(indptr, dtype)),
            torch.from_numpy(np.ascontiguousarray(indices, dtype)),
            None if weight is None else torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
            num_cols,
        )

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.indptr) - 1

    def to(self, device: torch.device) -> "CsrMatrix":
        """Moves every tensor."""
        weight = None if self.weight is None else self.weight.to(device, non_blocking=True)
        indptr = self.indptr.to(device, non_blocking=True)
        return CsrMatrix(indptr, self.indices.to(device, non_blocking=True), weight, self.num_cols)

    def matmul(self, x_CD: Tensor, total: Tensor | None = None) -> Tensor:
        """A x, outside autograd, or `total` [R, D], to which it is added. Shape: [R, D]."""
        if not len(self.indices):  # embedding_bag refuses a table without rows
            return x_CD.new_zeros(self.num_rows, x_CD.shape[1]) if total is None else total
        if x_CD.is_cuda and not torch.are_deterministic_algorithms_enabled():
            product = self._sparse.to(x_CD.dtype) @ x_CD
            return product if total is None else total.add_(product)
        if len(self.indices) <= _ENTRIES_AT_ONCE:
            product = self._sums_of(slice(0, self.num_rows), x_CD)
            return product if total is None else total.add_(product)
        out = x_CD.new_zeros(self.num_rows, x_CD.shape[1]) if total is None else total
        for rows in self._row_parts():
            out[rows] += self._sums_of(rows, x_CD)
        return out

    def _row_parts(self) -> Iterator[slice]:
        """Rows of some `_ENTRIES_AT_ONCE` entries together, or a row of more."""
        start = 0
        while start < self.num_rows:
            end = min(int(self.indptr[start]) + _ENTRIES_AT_ONCE, len(self.indices))
            stop = int(torch.searchsorted(self.indptr, end, right=True)) - 1
            yield slice(start, max(stop, start + 1))
            start = max(stop, start + 1)

    def _sums_of(self, rows: slice, x_CD: Tensor) -> Tensor:
        """Some rows of A x. Shape: [rows, D]."""
        indptr, weight = self.indptr[rows.start : rows.stop + 1], self.weight
        entries = slice(None)
        if rows.stop - rows.start < self.num_rows:
            entries = slice(int(indptr[0]), int(indptr[-1]))
            indptr = indptr - indptr[0]
        indices = self.indices[entries]
        weight = None if weight is None else weight[entries].to(x_CD.dtype)
        # embedding_bag has fast loops for single precision alone
        if x_CD.dtype == torch.float64 and x_CD.device.type == "cpu":
            return _sparse_csr(indptr, indices, weight, self.num_cols, x_CD.dtype) @ x_CD
        with torch.no_grad():
            return functional.embedding_bag(
                indices,
                x_CD,
                indptr,
                mode="sum",
                per_sample_weights=weight,
                include_last_offset=True,
            )

    @cached_property
    def _sparse(self) -> Tensor:
        """As torch's sparse CSR tensor, over the same memory.

        cuSPARSE takes .11 ms for a hop of Gowalla (D 64) on an H100 where embedding_bag takes 1.43,
        and 2.7 ms for 40 M entries where embedding_bag takes 18.1.
        """
        return _sparse_csr(self.indptr, self.indices, self.weight, self.num_cols, torch.float32)

    def rows(self, rows: Tensor) -> "CsrMatrix":
        """The matrix of some of the rows, in their order. Shape: [len(rows), C]."""
        starts, counts = self.indptr[rows], self.indptr.diff()[rows]
        indptr = torch.zeros(len(rows) + 1, dtype=self.indptr.dtype, device=rows.device)
        torch.cumsum(counts, 0, dtype=indptr.dtype, out=indptr[1:])
        entry = torch.arange(int(indptr[-1]), dtype=indptr.dtype, device=rows.device)
        entry += torch.repeat_interleave(starts - indptr[:-1], counts)
        weight = None if self.weight is None else self.weight.index_select(0, entry)
        return CsrMatrix(indptr, self.indices.index_select(0, entry), weight, self.num_cols)

    def transposed(self) -> "CsrMatrix":
        """Aᵀ, whose rows keep the order that the entries have here."""
        if self.indptr.device.type == "cpu" and self.indptr.dtype == torch.int32:
            weight = None if self.weight is None else self.weight.numpy()
            indptr, row, values = _transposed(
                self.indptr.numpy(), self.indices.numpy(), weight, self.num_cols
            )
            values = None if weight is None else values
            return CsrMatrix.of_arrays(indptr, row, values, self.num_rows)
        return self.transposed_by_sort()

    def transposed_by_sort(self, row: Tensor | None = None) -> "CsrMatrix":
        """The torch twin of `transposed`, for other devices; the host does not wait.

        Args:
            row: [E] the row of each entry, if it is known.
        """
        column, order = torch.sort(self.indices, stable=True)
        starts = torch.arange(self.num_cols + 1, dtype=column.dtype, device=order.device)
        fits = self.indptr.dtype == torch.int32
        indptr = torch.searchsorted(column, starts, out_int32=fits)
        if row is None:
            every = torch.arange(self.num_rows, device=order.device)
            row = torch.repeat_interleave(every, self.indptr.diff(), output_size=len(order))
        weight = None if self.weight is None else self.weight[order]
        return CsrMatrix(indptr, row[order].to(column.dtype), weight, self.num_rows)

    def without(self, entries: Tensor) -> "CsrMatrix":
        """The matrix with weight 0 at these entries; the structure is shared, not copied."""
        assert self.weight is not None, "entries without a weight cannot be hidden"
        if not len(entries):
            return self
        return replace(self, weight=self.weight.index_fill(0, entries, 0.0))


@dataclass(frozen=True)
class Hop:
    """One hop of propagation from source to destination nodes, and the hop of its gradient.

    In a sampled block both are local ids, and the destinations are the first `num_dst` sources.

    Attributes:
        matrix: A, [num_dst, num_src].
        transposed: Aᵀ, made together with the batch.
    """

    matrix: CsrMatrix
    transposed: CsrMatrix

    @staticmethod
    def of(matrix: CsrMatrix) -> "Hop":
        """The hop over a matrix; makes the transpose."""
        return Hop(matrix, matrix.transposed())

    @property
    def num_dst(self) -> int:
        return self.matrix.num_rows

    @property
    def num_src(self) -> int:
        return self.matrix.num_cols

    @property
    def indptr(self) -> Tensor:
        """[num_dst + 1] start of each destination's edges."""
        return self.matrix.indptr

    @property
    def indices(self) -> Tensor:
        """[edges] the source of each edge."""
        return self.matrix.indices

    def to(self, device: torch.device) -> "Hop":
        """Moves every tensor."""
        return Hop(self.matrix.to(device), self.transposed.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """A x inside autograd: [num_src, D] → [num_dst, D]."""
        return gather_sum(x, self.matrix, self.transposed)


def gather_sum(x_CD: Tensor, matrix: CsrMatrix, transposed: CsrMatrix) -> Tensor:
    """A x inside autograd. Shape: [R, D].

    Args:
        x_CD: [C, D].
        matrix: A.
        transposed: Aᵀ.
    """
    out: Tensor = _GatherSum.apply(x_CD, matrix, transposed)  # type: ignore[no-untyped-call]
    return out


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: CsrMatrix, transposed: CsrMatrix) -> Tensor:
        ctx.transposed = transposed
        return matrix.matmul(x.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed.matmul(grads[0].contiguous()), None, None


@njit(cache=True, nogil=True)
def _transposed(indptr, indices, weight, num_cols):  # type: ignore[no-untyped-def]
    """A counting sort by column, which keeps the order of the rows."""
    out_indptr = np.zeros(num_cols + 1, np.int32)
    for e in range(len(indices)):
        out_indptr[indices[e] + 1] += 1
    for c in range(num_cols):
        out_indptr[c + 1] += out_indptr[c]
    free = out_indptr[:-1].copy()  # next free entry of each column
    row = np.empty(len(indices), np.int32)
    values = np.empty(len(indices) if weight is not None else 0, np.float32)
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            at = free[indices[e]]
            free[indices[e]] = at + 1
            row[at] = v
            if weight is not None:
                values[at] = weight[e]
    return out_indptr, row, values
