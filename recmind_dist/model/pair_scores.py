"""Inner products of many pairs of rows without a copy of either side for every pair."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor


def pair_scores(h_SD: Tensor, left_b: Tensor, right_b: Tensor) -> Tensor:
    """⟨h[left], h[right]⟩ of each pair, inside autograd. Shape: [b]."""
    out: Tensor = _PairScores.apply(h_SD, left_b, right_b)  # type: ignore[no-untyped-call]
    return out


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(h, left, right)
        if h.device.type == "cpu":
            return torch.from_numpy(_dots(h.detach().contiguous().numpy(), left.numpy(), right.numpy()))
        return (h.index_select(0, left) * h.index_select(0, right)).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        h, left, right = ctx.saved_tensors
        grad = grads[0].contiguous()
        if h.device.type == "cpu":
            arrays = h.detach().contiguous().numpy(), left.numpy(), right.numpy()
            return torch.from_numpy(_dots_backward(*arrays, grad.numpy())), None, None
        back = torch.zeros_like(h).index_add_(0, left, grad[:, None] * h.index_select(0, right))
        return back.index_add_(0, right, grad[:, None] * h.index_select(0, left)), None, None


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _dots(h, left, right):  # type: ignore[no-untyped-def]
    out = np.empty(len(left), np.float32)
    for k in range(len(left)):
        a, b = h[left[k]], h[right[k]]
        total = np.float32(0.0)
        for d in range(h.shape[1]):
            total += a[d] * b[d]
        out[k] = total
    return out


@njit(cache=True, nogil=True, fastmath={"contract"})
def _dots_backward(h, left, right, grad):  # type: ignore[no-untyped-def]
    out = np.zeros_like(h)
    for k in range(len(left)):
        g, a, b, to_a, to_b = grad[k], h[left[k]], h[right[k]], out[left[k]], out[right[k]]
        for d in range(h.shape[1]):
            to_a[d] += g * b[d]
            to_b[d] += g * a[d]
    return out
