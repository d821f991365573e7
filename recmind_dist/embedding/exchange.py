"""One exchange a step each way: ids to owners, rows back; gradients home along the same path.

Legend: N nodes this rank needs, m of them its own; u distinct rows of this shard that anybody
needs; R rows sent, C columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.graph.ownership import by_owner
from recmind_dist.kernels.row_moves import place_rows, sums_by_row
from recmind_dist.kernels.unique import unique_inverse
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class AllToAllRoute:
    """Rows that travel between ranks, in the order of their owners where they arrive, of their
    askers where they leave.

    Shapes: place: [arriving] where each goes among the needed rows; reply: [R] places in the plan's
    `local_rows` of what is sent, distinct for each asker; reply_rows: [R] the same rows' places in
    the shard; send_splits, receive_splits: [P], nothing of a rank to itself.
    """

    place: Tensor
    reply: Tensor
    reply_rows: Tensor
    send_splits: list[int]
    receive_splits: list[int]


@dataclass(frozen=True)
class LookupPlan:
    """Who sends what to whom for one batch.

    Attributes:
        num_rows: N; away: rows of other ranks, whose gradients go home the same way.

    Shapes:
        local_rows: [u] distinct; mine: [m] places among the needed rows; mine_at: [m] their places
        in `local_rows`, mine_rows:
        [m] in the shard; order: [u] in which `local_rows` ascend, None where they do as they are.
    """

    num_rows: int
    local_rows: Tensor
    mine: Tensor
    mine_at: Tensor
    mine_rows: Tensor
    away: AllToAllRoute
    order: Tensor | None = None


class RowExchange:
    """Fetches rows of a table whose row r belongs to the rank p with bounds[p] <= r < bounds[p +
    1].

    Args:
        bounds: [P + 1]; ranks: who takes part; table: [rows of this rank, D], for
        `lookup_from_table`.
    """

    def __init__(self, bounds: IntArray, context: DistContext, table: Tensor | None = None) -> None:
        self.bounds, self.context, self.table = bounds, context, table

    def plan_lookup(self, rows: IntArray) -> LookupPlan:
        """Tells owners which rows this rank needs and learns which of its own are needed. Every
        rank must call.

        Runs in the prefetching thread, over its own way.

        Args:
            rows: [N] distinct table rows.
        """
        return self.all_ask(rows)()

    def all_ask(self, rows: IntArray) -> Callable[[], LookupPlan]:
        """As `plan_lookup`, whose second half is what is returned: between them others have time to
        say what they need. Every rank must call, and must call what it returns.
        """
        rank, device = self.context.rank, self.context.device
        if (
            self.context.world_size == 1
        ):  # nothing travels: every row is here, in the order asked for
            nothing = torch.empty(0, dtype=torch.int64, device=device)
            stays = AllToAllRoute(nothing, nothing, nothing, [0], [0])
            here, place = (
                torch.from_numpy(rows.astype(np.int64)).to(device),
                torch.arange(len(rows), device=device),
            )
            order = np.empty(len(rows), np.int64)
            order[unique_inverse(rows, int(self.bounds[-1]))[1]] = np.arange(len(rows))
            turns = torch.from_numpy(order).to(device)
            alone = LookupPlan(len(rows), here, place, place, here, stays, turns)
            return lambda: alone
        order, starts = by_owner(rows, self.bounds)
        first, last = starts[rank : rank + 2]
        mine, away = order[first:last], np.concatenate([order[:first], order[last:]])
        wanted_counts = np.diff(starts)
        wanted_counts[rank] = 0
        self.context.traffic.add("ids", (len(away) + self.context.world_size - 1) * rows.itemsize)
        with collective("the exchange of ids"):
            arrive = self.context.lookup_transport.start_all_to_all(
                torch.from_numpy(rows[away]), wanted_counts.tolist()
            )

        def plan() -> LookupPlan:
            with collective("the exchange of ids"):
                arrived = arrive()
            return self._plan(rows, mine, away, wanted_counts, arrived)

        return plan

    def _plan(
        self,
        rows: IntArray,
        mine: IntArray,
        away: IntArray,
        wanted_counts: IntArray,
        arrived: list[Tensor],
    ) -> LookupPlan:
        """What follows from the ids that others ask for."""
        device = self.context.device
        asked, asked_counts = torch.cat(arrived).numpy(), np.array([len(ids) for ids in arrived])
        start, stop = self.bounds[self.context.rank : self.context.rank + 2].tolist()
        needed = np.concatenate([rows[mine], asked]).astype(np.int64, copy=False) - start
        local_rows, at = (torch.from_numpy(found) for found in unique_inverse(needed, stop - start))
        in_shard = torch.from_numpy(needed)
        mine_at, reply, reply_rows = at[: len(mine)], at[len(mine) :], in_shard[len(mine) :]
        journey = AllToAllRoute(
            torch.from_numpy(away).to(device),
            reply.to(device),
            reply_rows.to(device),
            asked_counts.tolist(),
            wanted_counts.tolist(),
        )
        return LookupPlan(
            len(rows),
            local_rows.to(device),
            torch.from_numpy(mine).to(device),
            mine_at.to(device),
            in_shard[: len(mine)].to(device),
            journey,
        )

    def lookup(self, owned: Tensor, plan: LookupPlan) -> Tensor:
        """Rows of all needed nodes, [N, C], inside autograd: the backward sums every rank's
        gradient at the owner.

        Every rank must call, in forward and in backward.

        Args:
            owned: [u, C] content of `plan.local_rows`.
        """
        if self.context.world_size == 1:
            return owned
        return self._lookup(owned, None, plan)

    def lookup_from_table(self, takes_gradient: Tensor, plan: LookupPlan) -> Tensor:
        """As `lookup` of the table's own rows, which are read where they lie, without a copy of
        them here first. Every rank must call, in forward and in backward.

        Args:
            takes_gradient: [u, D] what `ShardedTable.grad_placeholder` gave.
        """
        assert self.table is not None, "an exchange without a table"
        return self._lookup(takes_gradient, self.table, plan)

    def _lookup(self, owned: Tensor, table: Tensor | None, plan: LookupPlan) -> Tensor:
        """Every rank must call, in forward and in backward."""
        out: Tensor = _Fetch.apply(owned, table, plan, self.context)  # type: ignore[no-untyped-call]
        return out


class _Fetch(torch.autograd.Function):
    """Own rows from here, others' from their owners; gradients of all go home, where they add up:
    own ones
    first, then those of the other ranks in their order. Every rank must apply it.
    """

    @staticmethod
    def forward(
        ctx: Any, owned: Tensor, table: Tensor | None, plan: LookupPlan, context: DistContext
    ) -> Tensor:
        ctx.plan, ctx.context, ctx.num_owned = plan, context, len(owned)
        journey = plan.away
        if table is None:
            source, mine_at, reply = owned.detach().contiguous(), plan.mine_at, journey.reply
        else:
            source, mine_at, reply = table, plan.mine_rows, journey.reply_rows
        out = source.new_empty(plan.num_rows, source.shape[1])
        if context.world_size == 1:  # rows are owned in the order in which they are needed
            place_rows(out, None, source, mine_at)
            return out
        arrived = _all_to_all(
            source, journey.send_splits, journey.receive_splits, context, "rows", reply
        )
        place_rows(out, plan.mine, source, mine_at)
        for rows, place in zip(
            arrived, torch.split(journey.place, journey.receive_splits), strict=True
        ):
            place_rows(out, place, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: LookupPlan = ctx.plan
        grad, journey = grads[0].contiguous(), plan.away
        if ctx.context.world_size == 1:
            return grad, None, None, None
        splits = journey.receive_splits, journey.send_splits
        home = _all_to_all(grad, *splits, ctx.context, "gradients", journey.place)
        places = torch.split(journey.reply, journey.send_splits)
        arrived = [(place, rows, None) for place, rows in zip(places, home, strict=True)]
        total = sums_by_row(ctx.num_owned, [(plan.mine_at, grad, plan.mine), *arrived])
        return total, None, None, None


class _AllGather(torch.autograd.Function):
    """Its backward sends every rank's gradients home, where they add up in the order of ranks.
    Every rank must apply it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], context: DistContext, kind: str) -> Tensor:
        ctx.counts, ctx.context, ctx.kind = counts, context, "gradients" if kind == "rows" else kind
        context.traffic.add(kind, (context.world_size - 1) * x.nbytes)
        with collective("the exchange of rows"):
            return torch.cat(context.row_transport.all_gather(x.contiguous(), counts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rank, counts = ctx.context.rank, ctx.counts
        home = _all_to_all(
            grads[0].contiguous(), counts, [counts[rank]] * len(counts), ctx.context, ctx.kind
        )
        total = home[0].clone()
        for rows in home[1:]:
            total += rows
        return total, None, None, None


def _all_to_all(
    x: Tensor,
    send: list[int],
    receive: list[int],
    context: DistContext,
    kind: str,
    of: Tensor | None = None,
) -> list[Tensor]:
    """`Transport.all_to_all` of rows, counted as `kind`. Every rank must call."""
    context.traffic.add(kind, (sum(send) - send[context.rank]) * x.shape[1] * x.itemsize)
    with collective("the exchange of gradients" if kind == "gradients" else "the exchange of rows"):
        return context.row_transport.all_to_all(x, send, receive, of)


def all_gather_rows(
    x: Tensor, counts: list[int], context: DistContext, kind: str = "rows"
) -> Tensor:
    """Every rank's rows, in rank order, inside autograd. Every rank must call, in forward and in
    backward.

    Args:
        x: [counts[rank], C]; counts: rows of each rank; kind: as what the bytes count, see
        `traffic.KINDS`.
    Returns: [sum(counts), C].
    """
    if context.world_size == 1:
        return x
    out: Tensor = _AllGather.apply(x, counts, context, kind)  # type: ignore[no-untyped-call]
    return out
