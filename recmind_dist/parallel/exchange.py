"""One exchange a step each way: ids to owners, rows back; gradients home along the same path.

Legend: N nodes this rank needs, R rows others ask of it, C columns of a row.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.parallel.ranks import Ranks, collective
from recmind_dist.types import IntArray

if TYPE_CHECKING:
    from recmind_dist.parallel.hot_rows import HotRows


@dataclass(frozen=True)
class ExchangePlan:
    """Who sends what to whom for one batch.

    Shapes:
        position: [N] where each needed row stands among the rows that arrive; local_rows: [u] distinct rows of this shard
        that anybody needs; reply: [R] for each row to send its place in `local_rows`; send_splits, receive_splits: [P].
    """

    position: Tensor
    local_rows: Tensor
    reply: Tensor
    send_splits: list[int]
    receive_splits: list[int]
    past_owners: "PastOwners | None" = None

    @property
    def rows_sent(self) -> int:
        return len(self.reply)


@dataclass(frozen=True)
class PastOwners:
    """Of a plan with hot rows: what is fetched all the same, and what is read from replicas (h rows).

    Shapes: cold: [N − h] places among the needed rows; cold_position: [N − h] where each stands among what arrives; hot: [h]
    places among the needed rows; slot: [h] their replicas; reply: places in `local_rows` of what is sent; splits: [P].
    """

    cold: Tensor
    cold_position: Tensor
    hot: Tensor
    slot: Tensor
    reply: Tensor
    send_splits: list[int]
    receive_splits: list[int]


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
        if self.ranks.world_size == 1:  # nothing travels: every row is here, in the order asked for
            here = torch.from_numpy(rows.astype(np.int64)).to(self.ranks.device)
            place = torch.arange(len(rows), device=self.ranks.device)
            return ExchangePlan(place, here, place, [len(rows)], [len(rows)])
        owner = np.searchsorted(self.bounds, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        position = np.empty(len(rows), np.int64)
        position[order] = np.arange(len(rows))
        wanted = torch.from_numpy(rows[order])
        wanted_counts = torch.from_numpy(np.bincount(owner, minlength=self.ranks.world_size))
        asked, asked_counts = self._all_send_ids(wanted, wanted_counts)
        local_rows, reply = torch.unique(asked - int(self.bounds[self.ranks.rank]), return_inverse=True)
        device = self.ranks.device
        return ExchangePlan(
            torch.from_numpy(position).to(device),
            local_rows.to(device),
            reply.to(device),
            asked_counts.tolist(),
            wanted_counts.tolist(),
            self._past_owners(rows, owner, order, asked, reply, asked_counts) if self.hot is not None else None,
        )

    def _past_owners(
        self, rows: IntArray, owner: IntArray, order: IntArray, asked: Tensor, reply: Tensor, asked_counts: Tensor
    ) -> PastOwners:
        """What is left to fetch: both sides know which rows have replicas, so nothing is told."""
        assert self.hot is not None
        rank, world, device = self.ranks.rank, self.ranks.world_size, self.ranks.device
        hot = self.hot.holds(rows) & (owner != rank)
        arrives = np.empty(len(rows), np.int64)
        arrives[order] = np.cumsum(~hot[order]) - 1
        asker = np.repeat(np.arange(world), asked_counts.numpy())
        sent = ~(self.hot.holds(asked.numpy()) & (asker != rank))
        return PastOwners(
            torch.from_numpy(np.flatnonzero(~hot)).to(device),
            torch.from_numpy(arrives[~hot]).to(device),
            torch.from_numpy(np.flatnonzero(hot)).to(device),
            torch.from_numpy(self.hot.slots(rows[hot])).to(device),
            reply[torch.from_numpy(sent)].to(device),
            np.bincount(asker[sent], minlength=world).tolist(),
            np.bincount(owner[~hot], minlength=world).tolist(),
        )

    def all_fetch(self, owned: Tensor, plan: ExchangePlan) -> Tensor:
        """Rows of all needed nodes, [N, C], inside autograd: the backward sums every rank's gradient at the owner.

        Every rank must call, in forward and in backward.

        Args:
            owned: [u, C] content of `plan.local_rows`.
        """
        if self.ranks.world_size == 1:
            return owned
        if self.hot is not None:
            mixed: Tensor = _FetchPastOwners.apply(owned, plan, self.hot.weight, self.ranks)  # type: ignore[no-untyped-call]
            return mixed
        replies = owned.index_select(0, plan.reply)
        arrived: Tensor = _AllToAll.apply(  # type: ignore[no-untyped-call]
            replies, plan.send_splits, plan.receive_splits, self.ranks, ("rows", "gradients")
        )
        return arrived.index_select(0, plan.position)

    def _all_send_ids(self, wanted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        if self.ranks.world_size == 1:
            return wanted, counts
        group = self.ranks.id_group
        asked_counts = torch.empty_like(counts)
        elsewhere = len(wanted) - int(counts[self.ranks.rank]) + self.ranks.world_size - 1
        self.ranks.traffic.add("ids", elsewhere * wanted.itemsize)
        with collective("the exchange of ids"):
            dist.all_to_all_single(asked_counts, counts, group=group)
            asked = torch.empty(int(asked_counts.sum()), dtype=torch.int64)
            dist.all_to_all_single(asked, wanted, asked_counts.tolist(), counts.tolist(), group=group)
        return asked, asked_counts


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


class _FetchPastOwners(torch.autograd.Function):
    """Cold rows from their owners, hot ones from replicas; gradients of both go home, where they add up."""

    @staticmethod
    def forward(ctx: Any, owned: Tensor, plan: ExchangePlan, replicas: Tensor, ranks: Ranks) -> Tensor:
        past = plan.past_owners
        assert past is not None
        ctx.plan, ctx.ranks, ctx.num_owned = plan, ranks, len(owned)
        replies = owned.index_select(0, past.reply)
        arrived = _all_to_all(replies, past.send_splits, past.receive_splits, ranks, "rows")
        out = owned.new_empty(len(plan.position), owned.shape[1])
        out[past.cold] = arrived.index_select(0, past.cold_position)
        out[past.hot] = replicas.index_select(0, past.slot)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: ExchangePlan = ctx.plan
        by_owner = torch.empty_like(grads[0])
        by_owner[plan.position] = grads[0]
        home = _all_to_all(by_owner, plan.receive_splits, plan.send_splits, ctx.ranks, "gradients")
        total = home.new_zeros(ctx.num_owned, home.shape[1]).index_add_(0, plan.reply, home)
        return total, None, None, None


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
