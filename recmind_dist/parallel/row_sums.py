"""Sums of gathered rows, the inner loop of full propagation: `out[to] = alpha · add[v] + beta · Σ x[indices]`."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit

from recmind_dist.parallel.threads import run_together
from recmind_dist.row_code import sum_of_rows, tiles
from recmind_dist.types import FloatArray, Int32Array, IntArray


def sum_rows(
    indptr: IntArray, indices: Int32Array, x: FloatArray, rows: IntArray, into: IntArray, out: FloatArray, add: FloatArray,
    alpha: FloatArray, beta: FloatArray,
) -> None:  # fmt: skip
    """`out[into[k]] = alpha[v] · add[v] + beta[v] · Σ_{e of row v} x[indices[e]]` for v = rows[k].

    On as many threads as torch has, which share the edges, not the rows.

    Args:
        indptr: [n + 1]; indices: [edges]; x: [N, D]; rows, into: [k]; out: [.., D]; add: [n, D]; alpha, beta: [n].
    """
    threads = torch.get_num_threads()
    bounds = _bounds(indptr, rows, threads)
    work: list[tuple[Any, ...]] = [
        (indptr, indices, x, rows, into, out, add, alpha, beta, column, width, first, last)
        for first, last in pairwise(bounds)
        for column, width in tiles(x.shape[1])
    ]
    run_together(_sum_rows, work)


def _bounds(indptr: IntArray, rows: IntArray, parts: int) -> list[int]:
    """Where runs of rows with like numbers of edges begin and end."""
    if parts == 1:
        return [0, len(rows)]
    edges = np.cumsum(indptr[rows + 1] - indptr[rows] + 1)
    inner = np.searchsorted(edges, np.arange(1, parts) * (edges[-1] if len(edges) else 0) / parts).tolist()
    return [0, *inner, len(rows)]


@njit(cache=True, nogil=True)
def _sum_rows(indptr, indices, x, rows, into, out, add, alpha, beta, column, width, first, last):  # type: ignore[no-untyped-def]
    """Columns [column, column + len(width))."""
    start = x.ctypes.data + 4 * column
    edges = indices.ctypes.data
    stride = 4 * x.shape[1]
    for k in range(first, last):
        v = rows[k]
        target = out[into[k], column : column + len(width)]
        sum_of_rows(
            start, stride, edges, indptr[v], indptr[v + 1], len(indices), None, beta[v], target.ctypes.data, width
        )
        a, own = alpha[v], add[v, column : column + len(width)]
        for d in range(len(width)):
            target[d] += a * own[d]
