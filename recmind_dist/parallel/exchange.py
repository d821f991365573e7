"""One exchange a step each way: ids to owners, rows back; gradients home along the same path.

Legend: N nodes this rank needs, R rows others ask of it, C columns of a row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.parallel.ranks import Ranks, collective
from recmind_dist.types import IntArray


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

    @property
    def rows_sent(self) -> int:
        return len(self.reply)


class RowExchange:
    """Fetches rows of a table whose row r belongs to the rank p with bounds[p] <= r < bounds[p + 1].

    Args:
        bounds: [P + 1]; ranks: who takes part.
    """

    def __init__(self, bounds: IntArray, ranks: Ranks) -> None:
        self.bounds, self.ranks = bounds, ranks

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
        )

    def all_fetch(self, owned: Tensor, plan: ExchangePlan) -> Tensor:
        """Rows of all needed nodes, [N, C], inside autograd: the backward sums every rank's gradient at the owner.

        Every rank must call, in forward and in backward.

        Args:
            owned: [u, C] content of `plan.local_rows`.
        """
        if self.ranks.world_size == 1:
            return owned
        replies = owned.index_select(0, plan.reply)
        arrived: Tensor = _AllToAll.apply(replies, plan.send_splits, plan.receive_splits)  # type: ignore[no-untyped-call]
        return arrived.index_select(0, plan.position)

    def _all_send_ids(self, wanted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        if self.ranks.world_size == 1:
            return wanted, counts
        group = self.ranks.id_group
        asked_counts = torch.empty_like(counts)
        with collective("the exchange of ids"):
            dist.all_to_all_single(asked_counts, counts, group=group)
            asked = torch.empty(int(asked_counts.sum()), dtype=torch.int64)
            dist.all_to_all_single(asked, wanted, asked_counts.tolist(), counts.tolist(), group=group)
        return asked, asked_counts


class _AllToAll(torch.autograd.Function):
    """Uneven all-to-all of rows; its backward is the same exchange the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, send: list[int], receive: list[int]) -> Tensor:
        ctx.send, ctx.receive = send, receive
        out = x.new_empty(sum(receive), *x.shape[1:])
        with collective("the exchange of rows"):
            dist.all_to_all_single(out, x.contiguous(), receive, send)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        out = grad.new_empty(sum(ctx.send), *grad.shape[1:])
        with collective("the exchange of gradients"):
            dist.all_to_all_single(out, grad, ctx.send, ctx.receive)
        return out, None, None


def all_gather_rows(x: Tensor, counts: list[int], ranks: Ranks) -> Tensor:
    """Every rank's rows, in rank order, inside autograd. Every rank must call, in forward and in backward.

    Args:
        x: [counts[rank], C]; counts: rows of each rank.
    Returns: [sum(counts), C].
    """
    if ranks.world_size == 1:
        return x
    replies = torch.cat([x] * ranks.world_size)
    out: Tensor = _AllToAll.apply(replies, [counts[ranks.rank]] * ranks.world_size, counts)  # type: ignore[no-untyped-call]
    return out
