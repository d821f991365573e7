"""One LightGCN hop: a sum over sampled neighbours, scaled so that its expectation is the full graph's.

Source: arXiv:2002.02126 eq. 3. The operator is linear, so its backward is its transpose.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from numba import njit
from torch import Tensor

from recmind_dist.fetch_ahead import fetch_row_ahead
from recmind_dist.row_code import AHEAD, add_row, put_row, sum_of_rows, tiles


class Block(Protocol):
    """One bipartite hop, CSR over local ids: int32 indices, float32 scale (see `sampling.Hop`)."""

    @property
    def indptr(self) -> Tensor: ...
    @property
    def indices(self) -> Tensor: ...
    @property
    def dst_scale(self) -> Tensor: ...
    @property
    def num_src(self) -> int: ...
    @property
    def num_dst(self) -> int: ...


def propagate(x_SD: Tensor, src_scale_S: Tensor, block: Block) -> Tensor:
    """out_v = dst_scale_v Σ_{u ∈ N(v)} src_scale_u x_u.

    Args:
        x_SD: fused states of the block's source nodes; src_scale_S: 1/√degree of each.
    Returns: [num_dst, D].
    """
    out: Tensor = _Propagate.apply(x_SD, src_scale_S, block)  # type: ignore[no-untyped-call]
    return out


class _WithRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        ctx.rows = rows
        return x.view_as(x), x[rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grads[0][ctx.rows] += grads[1]
        return grads[0], None


def with_rows(x: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
    """x and some of its rows, whose gradient is added to that of x in place, not as an array as large as x.

    Args:
        x: [N, D], to be given to one consumer alone that makes its gradient anew, such as a hop; rows: distinct.
    """
    out: tuple[Tensor, Tensor] = _WithRows.apply(x, rows)  # type: ignore[no-untyped-call]
    return out


def sampled_hops(degree_N: Tensor, blocks: Sequence[Block]) -> list[Callable[[Tensor], Tensor]]:
    """Blocks, which are from the seeds outwards, as hops in the order of the layers.

    Args:
        degree_N: training degrees of the blocks' nodes.
    """
    src_scale_N = degree_N.clamp(min=1).to(torch.float32).rsqrt()
    return [partial(_hop, src_scale_N, block) for block in reversed(blocks)]


def _hop(src_scale_N: Tensor, block: Block, x_SD: Tensor) -> Tensor:
    return propagate(x_SD, src_scale_N[: len(x_SD)], block)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, src_scale: Tensor, block: Block) -> Tensor:
        ctx.block, ctx.src_scale = block, src_scale
        if _in_numba(x):
            return _by_rows(_gather_sum, block, src_scale, x.detach(), block.num_dst)
        weighted: Tensor = _sparse(block, x.dtype) @ (x * src_scale[:, None])
        return weighted * block.dst_scale[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad, block, src_scale = grads[0], ctx.block, ctx.src_scale
        if _in_numba(grad):
            return _by_rows(_scatter_sum, block, src_scale, grad, block.num_src), None, None
        back: Tensor = _sparse(block, grad.dtype).t() @ (grad * block.dst_scale[:, None])
        return back * src_scale[:, None], None, None


def _in_numba(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _by_rows(work: Callable[..., None], block: Block, src_scale: Tensor, x: Tensor, rows: int) -> Tensor:
    """What numba's loop over the block's edges makes of x, [rows, D]."""
    x, out = x.contiguous(), x.new_empty(rows, x.shape[1])
    arrays = [t.numpy() for t in (block.indptr, block.indices, block.dst_scale, src_scale, x, out)]
    # the loops reckon with addresses
    assert block.indices.dtype == torch.int32 and block.indices.is_contiguous(), "a block's indices are int32"  # noqa: PT018
    assert src_scale.dtype == torch.float32 and src_scale.is_contiguous(), "scales are float32"  # noqa: PT018
    for column, width in tiles(x.shape[1]):
        work(*arrays, column, width)
    return out


def _sparse(block: Block, dtype: torch.dtype) -> Tensor:
    ones = torch.ones(len(block.indices), dtype=dtype, device=block.indices.device)
    return torch.sparse_csr_tensor(block.indptr, block.indices.long(), ones, (block.num_dst, block.num_src))


@njit(cache=True, nogil=True)
def _gather_sum(indptr, indices, dst_scale, src_scale, x, out, column, width):  # type: ignore[no-untyped-def]
    """Columns [column, column + len(width)) of `out`."""
    stride, edges, weights = 4 * x.shape[1], indices.ctypes.data, src_scale.ctypes.data
    source, target = x.ctypes.data + 4 * column, out.ctypes.data + 4 * column
    for v in range(len(out)):
        start, stop, row = indptr[v], indptr[v + 1], target + stride * v
        sum_of_rows(source, stride, edges, start, stop, len(indices), weights, dst_scale[v], row, width)


@njit(cache=True, nogil=True)
def _scatter_sum(indptr, indices, dst_scale, src_scale, grad, out, column, width):  # type: ignore[no-untyped-def]
    """Rows are written before they are added to, not zeroed all at first: samplers number nodes in the order of their edges,
    so most rows are met for the first time one after the other.
    """
    stride, start = 4 * grad.shape[1], 4 * column
    source, target = grad.ctypes.data + start, out.ctypes.data + start
    columns = slice(column, column + len(width))
    begun = min(len(grad), len(out))
    out[:begun, columns] = 0.0
    for v in range(len(grad)):
        for e in range(indptr[v], indptr[v + 1]):
            if e + AHEAD < len(indices):
                fetch_row_ahead(target, stride, indices[e + AHEAD], 4 * len(width))
            u = indices[e]
            scale = dst_scale[v] * src_scale[u]
            if u < begun:
                add_row(target + stride * u, source + stride * v, scale, width)
                continue
            out[begun:u, columns] = 0.0
            put_row(target + stride * u, source + stride * v, scale, width)
            begun = u + 1
    out[begun:, columns] = 0.0
