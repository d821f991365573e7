"""Some rows of a state beside the state itself, without a gradient as large as the state."""

from typing import Any

import torch
from torch import Tensor


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
    """x and some of its rows, whose gradient is added to that of x in place.

    Args:
        x: [N, D], to be given to one consumer alone that makes its gradient anew, such as a hop.
        rows: distinct.
    """
    out: tuple[Tensor, Tensor] = _WithRows.apply(x, rows)  # type: ignore[no-untyped-call]
    return out
