"""Sends rows of the sharded table to the ranks that need them, and gradients back to the owners.

A step exchanges ids (to the owners), rows (back) and gradients (to the owners again).

Legend: N rows that this rank needs, m of them its own; u distinct rows of this shard that any rank
needs; R rows sent, C columns, P ranks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.distributed.transport import PendingAllToAll
from recmind_dist.graph.ownership import by_owner
from recmind_dist.kernels.row_moves import place_rows, sums_by_row
from recmind_dist.kernels.unique import unique_inverse
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class AllToAllRoute:
    """Rows that travel between ranks. Those of a rank to itself are not among them.

    Attributes:
        place: [arriving] position of each arriving row among the N needed, in order of owners.
        reply: [R] position in `LookupPlan.local_rows` of each row sent, in order of receivers;
            distinct for each receiver.
        reply_rows: [R] the same rows' positions in the shard.
        send_splits: [P] rows sent to each rank.
        receive_splits: [P] rows received from each rank.
    """

    place: Tensor
    reply: Tensor
    reply_rows: Tensor
    send_splits: list[int]
    receive_splits: list[int]


@dataclass(frozen=True)
class LookupPlan:
    """Which rows each rank sends to which rank, for one batch.

    Attributes:
        num_rows: N.
        local_rows: [u] distinct rows, as positions in the shard.
        mine: [m] positions of own rows among the N needed.
        mine_at: [m] their positions in `local_rows`.
        mine_rows: [m] their positions in the shard.
        away: route of other ranks' rows; their gradients take it in reverse.
        order: [u] permutation that sorts `local_rows`; None if they ascend.
    """

    num_rows: int
    local_rows: Tensor
    mine: Tensor
    mine_at: Tensor
    mine_rows: Tensor
    away: AllToAllRoute
    order: Tensor | None = None


@dataclass(frozen=True)
class PendingLookup:
    """A lookup whose ids are on their way; see `RowExchange.wait_lookup`.

    Attributes:
        rows: [N] needed table rows.
        mine: [m] positions of own rows among them.
        away: [N - m] positions of the others, in order of owners.
        counts: [P] rows needed of each other rank.
        ids: of other ranks, None in a world of one.
    """

    rows: IntArray
    mine: IntArray
    away: IntArray
    counts: list[int]
    ids: PendingAllToAll | None


class RowExchange:
    """Looks rows up in a sharded table: rank p owns the rows bounds[p] <= r < bounds[p + 1].

    Args:
        bounds: [P + 1].
        context: the ranks.
        table: [rows of this rank, D], for `lookup_from_table`.
        wire_dtype: in which rows and gradients are sent.
    """

    def __init__(
        self,
        bounds: IntArray,
        context: DistContext,
        table: Tensor | None = None,
        wire_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.bounds, self.context, self.table = bounds, context, table
        self.wire_dtype = wire_dtype

    def plan_lookup(self, rows: IntArray) -> LookupPlan:
        """`start_lookup` and `wait_lookup` at once. Collective: every rank must call.

        Args:
            rows: [N] distinct table rows.
        """
        return self.wait_lookup(self.start_lookup(rows))

    def start_lookup(self, rows: IntArray) -> PendingLookup:
        """Starts to send ids to the owners, over `lookup_transport`.

        Collective: every rank must call, and pass the result to `wait_lookup`.

        Args:
            rows: [N] distinct table rows.
        """
        rank, world = self.context.rank, self.context.world_size
        if world == 1:
            everything = np.arange(len(rows))
            return PendingLookup(rows, everything, everything[:0], [0], None)
        order, starts = by_owner(rows, self.bounds)
        first, last = starts[rank : rank + 2]
        mine, away = order[first:last], np.concatenate([order[:first], order[last:]])
        counts = np.diff(starts)
        counts[rank] = 0
        sent = (len(away) + world - 1) * rows.itemsize
        self.context.traffic.add("ids", self.context.lookup_transport.legs * sent)
        with collective("the exchange of ids"):
            ids = self.context.lookup_transport.start_all_to_all(
                torch.from_numpy(rows[away]), counts.tolist()
            )
        return PendingLookup(rows, mine, away, counts.tolist(), ids)

    def wait_lookup(self, pending: PendingLookup) -> LookupPlan:
        """Waits for the ids of other ranks. Collective: every rank must call."""
        if self.context.world_size == 1:
            return self._plan_of_one(pending.rows)
        assert pending.ids is not None
        with collective("the exchange of ids"):
            arrived = pending.ids.wait()
        device, mine = self.context.device, pending.mine
        start, stop = self.bounds[self.context.rank : self.context.rank + 2].tolist()
        requested = torch.cat(arrived).numpy()
        needed = np.concatenate([pending.rows[mine], requested]).astype(np.int64, copy=False)
        in_shard = needed - start
        local_rows, position = unique_inverse(in_shard, stop - start)
        m = len(mine)
        away = AllToAllRoute(
            _to(device, pending.away),
            _to(device, position[m:]),
            _to(device, in_shard[m:]),
            [len(ids) for ids in arrived],
            pending.counts,
        )
        return LookupPlan(
            len(pending.rows),
            _to(device, local_rows),
            _to(device, mine),
            _to(device, position[:m]),
            _to(device, in_shard[:m]),
            away,
        )

    def _plan_of_one(self, rows: IntArray) -> LookupPlan:
        """The plan in a world of one, where every row is here, in the order of `rows`."""
        device = self.context.device
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        local_rows = _to(device, rows.astype(np.int64))
        position = torch.arange(len(rows), device=device)
        order = np.empty(len(rows), np.int64)
        order[unique_inverse(rows, int(self.bounds[-1]))[1]] = np.arange(len(rows))
        stays = AllToAllRoute(nothing, nothing, nothing, [0], [0])
        return LookupPlan(
            len(rows), local_rows, position, position, local_rows, stays, _to(device, order)
        )

    def plan_on_device(self, rows: Tensor) -> LookupPlan:
        """The plan in a world of one, of rows that are on its device; the host does not wait.

        Args:
            rows: [N] distinct table rows.
        """
        assert self.context.world_size == 1, "ids of other ranks travel over the host"
        nothing = rows[:0]
        position = torch.arange(len(rows), device=rows.device)
        stays = AllToAllRoute(nothing, nothing, nothing, [0], [0])
        return LookupPlan(len(rows), rows, position, position, rows, stays)

    def lookup(self, owned: Tensor, plan: LookupPlan) -> Tensor:
        """The needed rows, [N, C], inside autograd: the backward adds gradients at the owners.

        Collective: every rank must call, in forward and in backward.

        Args:
            owned: [u, C] content of `plan.local_rows`.
        """
        if self.context.world_size == 1:
            return owned
        return self._lookup(owned, None, plan)

    def lookup_from_table(self, placeholder: Tensor, plan: LookupPlan) -> Tensor:
        """As `lookup`, but reads the rows from the table itself, without a copy of them first.

        Collective: every rank must call, in forward and in backward.

        Args:
            placeholder: [u, D] of `ShardedTable.grad_placeholder`; it receives the gradient.
        """
        assert self.table is not None, "an exchange without a table"
        return self._lookup(placeholder, self.table, plan)

    def needed_rows(
        self, source: Tensor, mine_at: Tensor, reply: Tensor, plan: LookupPlan
    ) -> Tensor:
        """The needed rows, outside autograd, [N, C]. Collective: every rank must call.

        Args:
            source: [.., C] content of this rank's rows.
            mine_at: [m] positions in it of rows that stay here.
            reply: [R] positions in it of rows that do not.
        """
        out = source.new_empty(plan.num_rows, source.shape[1])
        if self.context.world_size == 1:  # owned rows are in the order in which they are needed
            place_rows(out, None, source, mine_at)
            return out
        splits = plan.away.send_splits, plan.away.receive_splits
        arrived = self._all_to_all(source, reply, *splits, "rows")
        place_rows(out, plan.mine, source, mine_at)
        _place_arrived(out, arrived, plan)
        return out

    def send_home(self, grad: Tensor, num_owned: int, plan: LookupPlan) -> Tensor:
        """Gradients of needed rows, summed at their owners: [N, C] → [num_owned, C].

        Collective: every rank must call.
        """
        if self.context.world_size == 1:
            return grad
        away = plan.away
        splits = away.receive_splits, away.send_splits
        arrived = self._all_to_all(grad, away.place, *splits, "gradients")
        replies = torch.split(away.reply, away.send_splits)
        parts = [(to, rows, None) for to, rows in zip(replies, arrived, strict=True)]
        return sums_by_row(num_owned, [(plan.mine_at, grad, plan.mine), *parts])

    def _all_to_all(
        self, source: Tensor, of: Tensor, send: list[int], receive: list[int], kind: str
    ) -> list[Tensor]:
        """`source[of]` to the ranks, in `wire_dtype`. Collective: every rank must call."""
        if source.dtype == self.wire_dtype:
            return self.context.all_to_all_rows(source, send, receive, kind, of)
        given = source.new_empty(len(of), source.shape[1], dtype=self.wire_dtype)
        place_rows(given, None, source, of)
        return self.context.all_to_all_rows(given, send, receive, kind)

    def _lookup(self, owned: Tensor, table: Tensor | None, plan: LookupPlan) -> Tensor:
        """Collective: every rank must call, in forward and in backward."""
        out: Tensor = _Lookup.apply(owned, table, plan, self)  # type: ignore[no-untyped-call]
        return out


def _place_arrived(out: Tensor, arrived: list[Tensor], plan: LookupPlan) -> None:
    """Rows of other ranks to their places among the needed."""
    places = torch.split(plan.away.place, plan.away.receive_splits)
    for rows, place in zip(arrived, places, strict=True):
        place_rows(out, place, rows)


def _to(device: torch.device, x: IntArray) -> Tensor:
    return torch.from_numpy(x).to(device)


class _Lookup(torch.autograd.Function):
    """The backward adds gradients at the owner: its own first, then other ranks' in rank order.

    Collective: every rank must apply it.
    """

    @staticmethod
    def forward(
        ctx: Any, owned: Tensor, table: Tensor | None, plan: LookupPlan, exchange: RowExchange
    ) -> Tensor:
        ctx.plan, ctx.exchange, ctx.num_owned = plan, exchange, len(owned)
        source, mine_at, reply = table, plan.mine_rows, plan.away.reply_rows
        if source is None:
            source, mine_at, reply = owned.detach().contiguous(), plan.mine_at, plan.away.reply
        return exchange.needed_rows(source, mine_at, reply, plan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total = ctx.exchange.send_home(grads[0].contiguous(), ctx.num_owned, ctx.plan)
        return total, None, None, None
