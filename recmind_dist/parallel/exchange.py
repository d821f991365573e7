"""One exchange a step each way: ids to owners, rows back; gradients home along the same path.

Legend: N nodes this rank needs, m of them its own; u distinct rows of this shard that anybody needs; R rows sent, C columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.parallel.ranks import Ranks, collective
from recmind_dist.parallel.row_moves import add_rows, place_rows
from recmind_dist.types import BoolArray, IntArray

if TYPE_CHECKING:
    from recmind_dist.parallel.hot_rows import HotRows


@dataclass(frozen=True)
class Journey:
    """Rows that travel between ranks, in the order of their owners where they arrive, of their askers where they leave.

    Shapes: place: [arriving] where each goes among the needed rows; reply: [R] places in the plan's `local_rows` of what is
    sent, distinct for each asker; send_splits, receive_splits: [P], nothing of a rank to itself.
    """

    place: Tensor
    reply: Tensor
    send_splits: list[int]
    receive_splits: list[int]


@dataclass(frozen=True)
class ExchangePlan:
    """Who sends what to whom for one batch.

    Attributes:
        num_rows: N; away: rows of other ranks, whose gradients go home the same way; fetched: those of them that are sent,
        which are all unless there are replicas.

    Shapes:
        local_rows: [u] ascending; mine: [m] places among the needed rows; mine_at: [m] their places in `local_rows`; hot: [h]
        places of needed rows that are read from replicas; slot: [h] their replicas.
    """

    num_rows: int
    local_rows: Tensor
    mine: Tensor
    mine_at: Tensor
    away: Journey
    fetched: Journey
    hot: Tensor
    slot: Tensor


class RowExchange:
    """Fetches rows of a table whose row r belongs to the rank p with bounds[p] <= r < bounds[p + 1].

    Args:
        bounds: [P + 1]; ranks: who takes part; hot: rows that are read from replicas, while their gradients go home.
    """

    def __init__(self, bounds: IntArray, ranks: Ranks, hot: "HotRows | None" = None) -> None:
        self.bounds, self.ranks = bounds, ranks
        self.hot = hot if ranks.world_size > 1 else None

    def all_plan(self, rows: IntArray) -> ExchangePlan:
        """Tells owners which rows this rank needs and learns which of its own are needed. Every rank must call.

        Runs in the prefetching thread, over the gloo group for ids.

        Args:
            rows: [N] distinct table rows.
        """
        rank, device = self.ranks.rank, self.ranks.device
        if self.ranks.world_size == 1:  # nothing travels: every row is here, in the order asked for
            nothing = torch.empty(0, dtype=torch.int64, device=device)
            stays = Journey(nothing, nothing, [0], [0])
            here, place = torch.from_numpy(rows.astype(np.int64)).to(device), torch.arange(len(rows), device=device)
            return ExchangePlan(len(rows), here, place, place, stays, stays, nothing, nothing)
        owner = np.searchsorted(self.bounds, rows, side="right") - 1
        mine = np.flatnonzero(owner == rank)
        away = np.flatnonzero(owner != rank)
        away = away[np.argsort(owner[away], kind="stable")]
        wanted_counts = np.bincount(owner[away], minlength=self.ranks.world_size)
        asked, asked_counts = self._all_send_ids(rows[away], wanted_counts)
        needed = torch.from_numpy(np.concatenate([rows[mine], asked]) - int(self.bounds[rank]))
        local_rows, at = torch.unique(needed, return_inverse=True)
        mine_at, reply = at[: len(mine)], at[len(mine) :]
        journey = _journey(away, reply, asked_counts, wanted_counts, device)
        fetched, hot, slot = journey, np.empty(0, np.int64), np.empty(0, np.int64)
        if self.hot is not None:  # both sides know which rows have replicas, so nothing is told
            has_replica, sent = self.hot.holds(rows[away]), ~self.hot.holds(asked)
            fetched = _journey(
                away[~has_replica],
                reply[torch.from_numpy(sent)],
                _counts(sent, asked_counts),
                _counts(~has_replica, wanted_counts),
                device,
            )
            hot = away[has_replica]
            slot = self.hot.slots(rows[hot])
        return ExchangePlan(
            len(rows),
            local_rows.to(device),
            torch.from_numpy(mine).to(device),
            mine_at.to(device),
            journey,
            fetched,
            torch.from_numpy(hot).to(device),
            torch.from_numpy(slot).to(device),
        )

    def all_fetch(self, owned: Tensor, plan: ExchangePlan) -> Tensor:
        """Rows of all needed nodes, [N, C], inside autograd: the backward sums every rank's gradient at the owner.

        Every rank must call, in forward and in backward.

        Args:
            owned: [u, C] content of `plan.local_rows`.
        """
        if self.ranks.world_size == 1:
            return owned
        replicas = self.hot.weight if self.hot is not None else None
        out: Tensor = _Fetch.apply(owned, plan, replicas, self.ranks)  # type: ignore[no-untyped-call]
        return out

    def _all_send_ids(self, wanted: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
        """Ids that others ask of this rank, by asker, and how many each does."""
        group, world = self.ranks.id_group, self.ranks.world_size
        asked_counts = torch.empty(world, dtype=torch.int64)
        self.ranks.traffic.add("ids", (len(wanted) + world - 1) * wanted.itemsize)
        with collective("the exchange of ids"):
            dist.all_to_all_single(asked_counts, torch.from_numpy(counts), group=group)
            asked = torch.empty(int(asked_counts.sum()), dtype=torch.int64)
            splits = asked_counts.tolist(), counts.tolist()
            dist.all_to_all_single(asked, torch.from_numpy(wanted), *splits, group=group)
        return asked.numpy(), asked_counts.numpy()


def _journey(place: IntArray, reply: Tensor, sent: IntArray, received: IntArray, device: torch.device) -> Journey:
    return Journey(torch.from_numpy(place).to(device), reply.to(device), sent.tolist(), received.tolist())


def _counts(chosen: BoolArray, counts: IntArray) -> IntArray:
    """How many are chosen in each of the runs that have `counts` entries."""
    return np.bincount(np.repeat(np.arange(len(counts)), counts)[chosen], minlength=len(counts))


class _Fetch(torch.autograd.Function):
    """Own rows from here, others' from their owners or replicas; gradients of all go home, where they add up: own ones
    first, then those of the other ranks in their order.
    """

    @staticmethod
    def forward(ctx: Any, owned: Tensor, plan: ExchangePlan, replicas: Tensor | None, ranks: Ranks) -> Tensor:
        ctx.plan, ctx.ranks, ctx.num_owned = plan, ranks, len(owned)
        owned, journey = owned.detach().contiguous(), plan.fetched
        replies = owned.index_select(0, journey.reply)
        arrived = _all_to_all(replies, journey.send_splits, journey.receive_splits, ranks, "rows")
        out = owned.new_empty(plan.num_rows, owned.shape[1])
        place_rows(out, plan.mine, owned, plan.mine_at)
        place_rows(out, journey.place, arrived)
        if replicas is not None:
            place_rows(out, plan.hot, replicas, plan.slot)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: ExchangePlan = ctx.plan
        grad, journey = grads[0].contiguous(), plan.away
        leaving = grad.index_select(0, journey.place)
        home = _all_to_all(leaving, journey.receive_splits, journey.send_splits, ctx.ranks, "gradients")
        total = grad.new_zeros(ctx.num_owned, grad.shape[1])
        place_rows(total, plan.mine_at, grad, plan.mine)
        add_rows(total, journey.reply, home)
        return total, None, None, None


class _AllToAll(torch.autograd.Function):
    """Uneven all-to-all of rows; its backward is the same exchange the other way. Its bytes count under two kinds."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, send: list[int], receive: list[int], ranks: Ranks, kinds: tuple[str, str]
    ) -> Tensor:
        ctx.send, ctx.receive, ctx.ranks, ctx.kind = send, receive, ranks, kinds[1]
        return _all_to_all(x, send, receive, ranks, kinds[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back = _all_to_all(grads[0], ctx.receive, ctx.send, ctx.ranks, ctx.kind)
        return back, None, None, None, None


def _all_to_all(x: Tensor, send: list[int], receive: list[int], ranks: Ranks, kind: str) -> Tensor:
    out = x.new_empty(sum(receive), *x.shape[1:])
    ranks.traffic.add(kind, (sum(send) - send[ranks.rank]) * (x.nbytes // max(len(x), 1)))
    with collective("the exchange of gradients" if kind == "gradients" else "the exchange of rows"):
        dist.all_to_all_single(out, x.contiguous(), receive, send)
    return out


def all_gather_rows(x: Tensor, counts: list[int], ranks: Ranks, kind: str = "rows") -> Tensor:
    """Every rank's rows, in rank order, inside autograd. Every rank must call, in forward and in backward.

    Args:
        x: [counts[rank], C]; counts: rows of each rank; kind: as what the bytes count, see `traffic.KINDS`.
    Returns: [sum(counts), C].
    """
    if ranks.world_size == 1:
        return x
    replies = torch.cat([x] * ranks.world_size)
    kinds = (kind, "gradients" if kind == "rows" else kind)
    out: Tensor = _AllToAll.apply(  # type: ignore[no-untyped-call]
        replies, [counts[ranks.rank]] * ranks.world_size, counts, ranks, kinds
    )
    return out
