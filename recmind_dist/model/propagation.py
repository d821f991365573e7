"""One LightGCN hop: a sum over sampled neighbours, scaled so that its expectation is the full graph's.

Source: arXiv:2002.02126 eq. 3. The operator is linear, so its backward is its transpose.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.fetch_ahead import fetch_row_ahead

_AHEAD = 32
"""Rows are fetched for edges so far ahead, instead of waited for one after the other."""


class Block(Protocol):
    """One bipartite hop, CSR over local ids (see `sampling.Hop`)."""

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
        if x.device.type == "cpu":
            arrays = (block.indptr.numpy(), block.indices.numpy(), block.dst_scale.numpy(), src_scale.numpy())
            return torch.from_numpy(_gather_sum(*arrays, x.detach().contiguous().numpy()))
        weighted: Tensor = _sparse(block) @ (x * src_scale[:, None])
        return weighted * block.dst_scale[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad, block, src_scale = grads[0], ctx.block, ctx.src_scale
        if grad.device.type == "cpu":
            arrays = (block.indptr.numpy(), block.indices.numpy(), block.dst_scale.numpy(), src_scale.numpy())
            return torch.from_numpy(_scatter_sum(*arrays, grad.contiguous().numpy(), block.num_src)), None, None
        back: Tensor = _sparse(block).t() @ (grad * block.dst_scale[:, None])
        return back * src_scale[:, None], None, None


def _sparse(block: Block) -> Tensor:
    ones = torch.ones(len(block.indices), device=block.indices.device)
    return torch.sparse_csr_tensor(block.indptr, block.indices.long(), ones, (block.num_dst, block.num_src))


@njit(cache=True, nogil=True, fastmath=False)
def _gather_sum(indptr, indices, dst_scale, src_scale, x):  # type: ignore[no-untyped-def]
    num_dst, dim = len(indptr) - 1, x.shape[1]
    out = np.zeros((num_dst, dim), np.float32)
    address, stride = x.ctypes.data, 4 * dim
    for v in range(num_dst):
        row = out[v]
        for e in range(indptr[v], indptr[v + 1]):
            if e + _AHEAD < len(indices):
                fetch_row_ahead(address, stride, indices[e + _AHEAD])
            u = indices[e]
            scale, source = src_scale[u], x[u]
            for d in range(dim):
                row[d] += scale * source[d]
        for d in range(dim):
            row[d] *= dst_scale[v]
    return out


@njit(cache=True, nogil=True, fastmath=False)
def _scatter_sum(indptr, indices, dst_scale, src_scale, grad, num_src):  # type: ignore[no-untyped-def]
    """Rows are written before they are added to, not zeroed all at first: samplers number nodes in the order of their edges,
    so most rows are met for the first time one after the other.
    """
    num_dst, dim = len(indptr) - 1, grad.shape[1]
    out = np.empty((num_src, dim), np.float32)
    address, stride = out.ctypes.data, 4 * dim
    begun = min(num_dst, num_src)
    out[:begun] = 0.0
    for v in range(num_dst):
        row = grad[v]
        for e in range(indptr[v], indptr[v + 1]):
            if e + _AHEAD < len(indices):
                fetch_row_ahead(address, stride, indices[e + _AHEAD])
            u = np.int64(indices[e])
            scale, target = dst_scale[v] * src_scale[u], out[u]
            if u < begun:
                for d in range(dim):
                    target[d] += scale * row[d]
                continue
            out[begun:u] = 0.0
            begun = u + 1
            for d in range(dim):
                target[d] = scale * row[d]
    out[begun:] = 0.0
    return out
