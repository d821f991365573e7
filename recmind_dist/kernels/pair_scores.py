"""Inner products of many pairs of rows, without a copy of the rows for each pair."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor


def pair_scores(h_SD: Tensor, left_b: Tensor, right_b: Tensor) -> Tensor:
    """⟨h[left], h[right]⟩ of each pair, inside autograd. Shape: [b]."""
    out: Tensor = _PairScores.apply(h_SD, left_b, right_b)  # type: ignore[no-untyped-call]
    return out


def pair_dots(h_SD: Tensor, left_b: Tensor, right_b: Tensor) -> Tensor:
    """As `pair_scores`, of contiguous rows, outside autograd."""
    if h_SD.device.type == "cpu":
        return torch.from_numpy(_dots(h_SD.numpy(), left_b.numpy(), right_b.numpy()))
    return (h_SD.index_select(0, left_b) * h_SD.index_select(0, right_b)).sum(1)


def add_pair_gradients(
    back_SD: Tensor, h_SD: Tensor, left_b: Tensor, right_b: Tensor, grad_b: Tensor
) -> None:
    """Adds to `back_SD` the gradient of `pair_dots` at `grad_b`."""
    if h_SD.device.type == "cpu":
        _add_dots_backward(
            h_SD.numpy(), left_b.numpy(), right_b.numpy(), grad_b.numpy(), back_SD.numpy()
        )
        return
    back_SD.index_add_(0, left_b, grad_b[:, None] * h_SD.index_select(0, right_b))
    back_SD.index_add_(0, right_b, grad_b[:, None] * h_SD.index_select(0, left_b))


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(h, left, right)
        return pair_dots(h.detach().contiguous(), left, right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        h, left, right = ctx.saved_tensors
        h = h.detach().contiguous()
        back = torch.zeros_like(h)
        add_pair_gradients(back, h, left, right, grads[0].contiguous())
        return back, None, None


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
def _add_dots_backward(h, left, right, grad, out):  # type: ignore[no-untyped-def]
    for k in range(len(left)):
        g, a, b, to_a, to_b = grad[k], h[left[k]], h[right[k]], out[left[k]], out[right[k]]
        for d in range(h.shape[1]):
            to_a[d] += g * b[d]
            to_b[d] += g * a[d]
