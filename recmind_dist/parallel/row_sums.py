"""Sums of gathered rows, the inner loop of full propagation: `out[to] = alpha · add[v] + beta · Σ x[indices]`.

Each row's sum stays in vector registers over all its edges, and rows of x are fetched into the cache ahead of their use:
written as a plain loop the sum goes to memory and back with every few edges, and the loop waits for each row in turn. Numba
gives no way to say either, so the loop over edges is written in LLVM's own terms.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from recmind_dist.fetch_ahead import prefetch
from recmind_dist.parallel.threads import run_together
from recmind_dist.types import FloatArray, Int32Array, IntArray

AHEAD = 32
"""Rows of x are fetched for edges so far ahead: `indices` holds as many more entries, of any row, behind its last edge."""
_WIDEST = 64  # columns summed at once: eight registers of AVX2, four of AVX-512
_LINE_BYTES = 64


def sum_rows(
    indptr: IntArray, indices: Int32Array, x: FloatArray, rows: IntArray, into: IntArray, out: FloatArray, add: FloatArray,
    alpha: FloatArray, beta: FloatArray,
) -> None:  # fmt: skip
    """`out[into[k]] = alpha[v] · add[v] + beta[v] · Σ_{e of row v} x[indices[e]]` for v = rows[k].

    On as many threads as torch has, which share the edges, not the rows.

    Args:
        indptr: [n + 1]; indices: [edges + AHEAD]; x: [N, D]; rows, into: [k]; out: [.., D]; add: [n, D]; alpha, beta: [n].
    """
    threads = torch.get_num_threads()
    columns = range(0, x.shape[1], _WIDEST)
    bounds = _bounds(indptr, rows, threads)
    work: list[tuple[Any, ...]] = [
        (indptr, indices, x, rows, into, out, add, alpha, beta, c, (0,) * min(_WIDEST, x.shape[1] - c), first, last)
        for first, last in pairwise(bounds)
        for c in columns
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
    """`width`: a tuple as long as the columns summed at once, so that their number is part of its type."""
    start = x.ctypes.data + 4 * column
    edges = indices.ctypes.data
    stride = 4 * x.shape[1]
    for k in range(first, last):
        v = rows[k]
        target = out[into[k], column : column + len(width)]
        _gather_sum(start, stride, edges, indptr[v], indptr[v + 1], beta[v], target.ctypes.data, width)
        a, own = alpha[v], add[v, column : column + len(width)]
        for d in range(len(width)):
            target[d] += a * own[d]


@intrinsic
def _gather_sum(typing, x, stride, indices, start, stop, scale, out, width):  # type: ignore[no-untyped-def]
    """out[:] = scale · Σ_{start <= e < stop} x[indices[e]], of addresses in bytes; `width` numbers wide, in registers."""
    signature = types.void(
        types.uintp, types.intp, types.uintp, types.intp, types.intp, types.float32, types.uintp, width
    )
    return signature, _gather_sum_code


def _gather_sum_code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    width = signature.args[-1].count
    byte, int32, int64, vector = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VectorType(ir.FloatType(), width)
    x, stride, indices, start, stop, scale, out, _ = arguments
    x_bytes, edges = builder.inttoptr(x, byte.as_pointer()), builder.inttoptr(indices, int32.as_pointer())

    def row(edge: Any) -> Any:
        source = builder.sext(builder.load(builder.gep(edges, [edge])), int64)
        return builder.gep(x_bytes, [builder.mul(source, stride)])

    before, loop, done = builder.block, builder.append_basic_block("edge"), builder.append_basic_block("summed")
    nothing = ir.Constant(vector, [0.0] * width)
    builder.cbranch(builder.icmp_signed("<", start, stop), loop, done)
    builder.position_at_end(loop)
    edge, total = builder.phi(int64), builder.phi(vector)
    ahead = row(builder.add(edge, int64(AHEAD)))
    for line in range(0, 4 * width, _LINE_BYTES):
        prefetch(builder, builder.gep(ahead, [int64(line)]))
    added = builder.fadd(total, builder.load(builder.bitcast(row(edge), vector.as_pointer()), align=4))
    following = builder.add(edge, int64(1))
    edge.add_incoming(start, before)
    edge.add_incoming(following, loop)
    total.add_incoming(nothing, before)
    total.add_incoming(added, loop)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, done)
    builder.position_at_end(done)
    found = builder.phi(vector)
    found.add_incoming(nothing, before)
    found.add_incoming(added, loop)
    spread = ir.Constant(ir.VectorType(int32, width), [0] * width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scale, int32(0))
    scales = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), spread)
    builder.store(builder.fmul(found, scales), builder.inttoptr(out, vector.as_pointer()), align=4)
    return context.get_dummy_value()
