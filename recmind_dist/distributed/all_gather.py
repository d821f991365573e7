"""Rows of all ranks: at once inside autograd, one rank's at a time, or at rank 0 alone."""

from collections.abc import Iterator
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


def rows_by_rank(
    x: Tensor, counts: list[int], context: DistContext
) -> Iterator[tuple[int, Tensor]]:
    """Each rank and its rows, this rank's first, outside autograd: one rank's rows are here beside
    this rank's own. They may be read until the next ones are asked for.

    Collective: every rank must iterate to the end, and exchange no other rows meanwhile.

    Args:
        x: [counts[rank], C].
        counts: [P] rows of each rank.
    """
    yield context.rank, x
    others = context.world_size - 1
    context.traffic.add("rows", others * x.nbytes)
    passing = context.row_transport.pass_rows(x.contiguous(), counts)
    for _ in range(others):
        with collective("the exchange of rows"):
            source, rows = next(passing)
        yield source, rows


def counts_of_ranks(count: int, context: DistContext) -> list[int]:
    """A number of each rank: the same on every rank, [P]. Collective: every rank must call."""
    if context.world_size == 1:
        return [count]
    counts = torch.zeros(context.world_size, dtype=torch.int64, device=context.device)
    counts[context.rank] = count
    found: list[int] = context.all_reduce(counts).tolist()
    return found


def rows_at_rank_0(x: Tensor, context: DistContext) -> Tensor:
    """The rows of all ranks in rank order at rank 0, outside autograd; none at the others.

    Collective: every rank must call.

    Args:
        x: [n, C].
    """
    counts, lead = counts_of_ranks(len(x), context), context.rank == 0
    if context.world_size == 1:
        return x
    send = [len(x)] + [0] * (context.world_size - 1)
    receive = counts if lead else [0] * context.world_size
    return torch.cat(context.all_to_all_rows(x.contiguous(), send, receive, "rows"))


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
