"""Rows of all ranks inside autograd."""

from typing import Any

import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext, collective


def all_gather_rows(
    x: Tensor, counts: list[int], context: DistContext, kind: str = "rows"
) -> Tensor:
    """The rows of all ranks, in rank order. Shape: [sum(counts), C].

    Collective: every rank must call, in forward and in backward.

    Args:
        x: [counts[rank], C].
        counts: [P] rows of each rank.
        kind: of the bytes that are sent, see `traffic.KINDS`.
    """
    if context.world_size == 1:
        return x
    out: Tensor = _AllGather.apply(x, counts, context, kind)  # type: ignore[no-untyped-call]
    return out


class _AllGather(torch.autograd.Function):
    """The backward sends gradients to the ranks of their rows, which add them in rank order.

    Collective: every rank must apply it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], context: DistContext, kind: str) -> Tensor:
        ctx.counts, ctx.context = counts, context
        ctx.kind = "gradients" if kind == "rows" else kind
        context.traffic.add(kind, (context.world_size - 1) * x.nbytes)
        with collective("the exchange of rows"):
            return torch.cat(context.row_transport.all_gather(x.contiguous(), counts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        counts, context = ctx.counts, ctx.context
        receive = [counts[context.rank]] * len(counts)
        parts = context.all_to_all_rows(grads[0].contiguous(), counts, receive, ctx.kind)
        total = parts[0].clone()
        for rows in parts[1:]:
            total += rows
        return total, None, None, None
