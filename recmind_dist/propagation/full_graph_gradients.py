"""Hops of the whole graph inside autograd: forward and backward multiply by one operator,
which is its own transpose.

Legend: as `full_graph`.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recmind_dist.kernels.gather_sum import CsrMatrix

if TYPE_CHECKING:
    from recmind_dist.propagation.full_graph import FullPropagation


class _Hop(torch.autograd.Function):
    """Every rank must apply it: forward and backward are one hop each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: "FullPropagation", hidden: Tensor) -> Tensor:
        ctx.operator, ctx.hidden = operator, hidden
        return operator.multiply(x.detach(), hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.operator.multiply(grads[0].contiguous(), ctx.hidden), None, None


def apply_hop(operator: "FullPropagation", hidden: Tensor, x: Tensor) -> Tensor:
    """One hop inside autograd. Collective: every rank must call, in forward and in backward."""
    out: Tensor = _Hop.apply(x, operator, hidden)  # type: ignore[no-untyped-call]
    return out


class _Mean(torch.autograd.Function):
    """Powers of a symmetric operator are symmetric, so the backward passes over the same matrix.

    Every rank must apply it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        operator: "FullPropagation",
        num_layers: int,
        hidden: Tensor,
        wanted: Tensor,
        items_only: bool,
        edges: CsrMatrix | None,
    ) -> Tensor:
        ctx.operator, ctx.edges, ctx.arguments = operator, edges, (num_layers, hidden, wanted)
        ctx.items_only = items_only
        source = operator.one_sided if items_only else operator
        return source.mean_of_states(x.detach(), *ctx.arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        if ctx.items_only:
            back = ctx.operator.one_sided.mean_backward(grad, *ctx.arguments)
        else:
            back = ctx.operator.mean_backward(grad, *ctx.arguments, ctx.edges)
        return back, None, None, None, None, None, None


def apply_mean(
    operator: "FullPropagation",
    hidden: Tensor,
    rows: Tensor,
    edges: CsrMatrix | None,
    x: Tensor,
    num_layers: int,
    items_only: bool,
) -> Tensor:
    """As `FullPropagation.mean_of_states`, inside autograd.

    Collective: every rank must call, in forward and in backward.
    """
    out: Tensor = _Mean.apply(  # type: ignore[no-untyped-call]
        x, operator, num_layers, hidden, rows, items_only, edges
    )
    return out
