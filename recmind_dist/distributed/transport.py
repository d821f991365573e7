"""How tensors travel between ranks: a process group or, on one machine, shared memory.

Legend: P ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.distributed.grid import Grid
from recmind_dist.distributed.shared_memory import Mailboxes, PendingMailboxExchange


@dataclass(frozen=True)
class GroupAllToAll:
    """An all-to-all through a process group, which does all its work in `wait`.

    Attributes: as the arguments of `Transport.all_to_all`.
    """

    group: dist.ProcessGroup | None
    x: Tensor
    send: list[int]
    receive: list[int] | None
    of: Tensor | None
    grid: Grid | None = None

    def wait(self) -> list[Tensor]:
        """What each rank sent. Collective: every rank must call."""
        return list(torch.split(*self.wait_single()))

    def wait_single(self) -> tuple[Tensor, list[int]]:
        """What all ranks sent, in rank order, and the number of each one's rows, [P].

        Collective: every rank must call.
        """
        given = self.x if self.of is None else self.x.index_select(0, self.of)
        if self.grid is not None:
            return self.grid.all_to_all(given, self.send)
        receive = self.receive
        if receive is None:
            counts = torch.empty(len(self.send), dtype=torch.int64)
            dist.all_to_all_single(counts, torch.tensor(self.send), group=self.group)
            receive = counts.tolist()
        out = self.x.new_empty(sum(receive), *self.x.shape[1:])
        dist.all_to_all_single(out, given, receive, self.send, group=self.group)
        return out, receive


PendingAllToAll = GroupAllToAll | PendingMailboxExchange
PASSED_BYTES = 1 << 26
"""Of a rank's rows that pass by the others through shared memory at a time."""


@dataclass(frozen=True)
class Transport:
    """One thread's exchanges with other ranks. Results may be read until its next exchange.

    Attributes:
        rank: this rank.
        group: process group; None is the default group.
        mailboxes: where all ranks are processes of one machine.
        grid: where there are many, for all-to-alls of few bytes.
    """

    rank: int
    group: dist.ProcessGroup | None = None
    mailboxes: Mailboxes | None = None
    grid: Grid | None = None

    @property
    def is_async(self) -> bool:
        """Whether `start_all_to_all` sends at once; else everything happens in `wait`."""
        return self.mailboxes is not None

    @property
    def legs(self) -> int:
        """How often a byte of an all-to-all is sent."""
        return 1 if self.grid is None else 2

    @property
    def kind(self) -> str:
        """The medium, for the run's log."""
        return "shared memory" if self.mailboxes is not None else "process group"

    def all_to_all(
        self, x: Tensor, send: list[int], receive: list[int] | None = None, of: Tensor | None = None
    ) -> list[Tensor]:
        """Uneven all-to-all of rows. Collective: every rank must call.

        Args:
            x: [.., ...] contiguous; rows for rank 0 first.
            send: [P] rows for each rank.
            receive: [P] rows from each rank. Default: the ranks exchange it first.
            of: positions in `x` of the rows to send. Default: all, in their order.

        Returns: [receive[r], ...] of each rank r.
        """
        return self.start_all_to_all(x, send, receive, of).wait()

    def all_to_all_single(
        self, x: Tensor, send: list[int], receive: list[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """As `all_to_all`, without a tensor for each rank. Collective: every rank must call.

        Returns: what all ranks sent, in rank order, and the number of each one's rows, [P].
        """
        if self.mailboxes is None:
            return GroupAllToAll(self.group, x, send, receive, None, self.grid).wait_single()
        parts = self.all_to_all(x, send, receive)
        return torch.cat(parts), [len(part) for part in parts]

    def start_all_to_all(
        self, x: Tensor, send: list[int], receive: list[int] | None = None, of: Tensor | None = None
    ) -> PendingAllToAll:
        """As `all_to_all`, whose result `wait` returns. No other exchange may come in between.

        Collective: every rank must call, and `wait` as well.
        """
        if self.mailboxes is None:
            return GroupAllToAll(self.group, x, send, receive, of, self.grid)
        starts = [0, *np.cumsum(send).tolist()[:-1]]
        return self.mailboxes.start_exchange(x, sum(send), starts, send, of)

    def give_back(self) -> None:
        """See `Mailboxes.give_back`."""
        if self.mailboxes is not None:
            self.mailboxes.give_back()

    def all_gather(self, x: Tensor, counts: list[int]) -> list[Tensor]:
        """The rows of all ranks. Collective: every rank must call.

        Through a process group in a ring, so that a rank sends as much as it receives and holds no
        copies of its rows; each rank's rows are padded to the most of any.

        Args:
            x: [counts[rank], ...] contiguous.
            counts: [P] rows of each rank.

        Returns: [counts[r], ...] of each rank r.
        """
        world = len(counts)
        if self.mailboxes is not None:
            return self.mailboxes.start_exchange(x, len(x), [0] * world, [len(x)] * world).wait()
        padded = x
        if len(x) < max(counts):
            padded = x.new_zeros(max(counts), *x.shape[1:])
            padded[: len(x)] = x
        out = x.new_empty(world * max(counts), *x.shape[1:])
        dist.all_gather_single(out, padded, group=self.group)
        parts = out.view(world, max(counts), *x.shape[1:])
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def pass_rows(self, x: Tensor, counts: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Each other rank and its rows, those of the rank before this one first. They may be read
        until the next ones are asked for. Collective: every rank must iterate to the end, and
        exchange nothing else meanwhile.

        A rank sends P − 1 messages. Through a process group one rank's rows are here at a time;
        through shared memory all are read where they lie, after one exchange. Where a rank has more
        than `PASSED_BYTES` of them, one rank's pass in parts, an exchange each, so that boxes stay
        small.

        Args:
            x: [counts[rank], ...] contiguous.
            counts: [P] rows of each rank.
        """
        world_size, most_rows = len(counts), max(counts)
        row_bytes = x.shape[1:].numel() * x.itemsize
        if self.mailboxes is not None and most_rows * row_bytes <= PASSED_BYTES:
            parts = self.all_gather(x, counts)
            for distance in range(1, world_size):
                source = (self.rank - distance) % world_size
                yield source, parts[source]
            return
        for distance in range(1, world_size):
            to, source = (self.rank + distance) % world_size, (self.rank - distance) % world_size
            out = x.new_empty(counts[source], *x.shape[1:])
            if self.mailboxes is not None:
                self._pass_in_parts(x, out, to, source, most_rows, row_bytes)
            else:
                # not an all-to-all: gloo's sends every rank a message, be it of no bytes
                send = dist.P2POp(dist.isend, x, to, self.group)
                receive = dist.P2POp(dist.irecv, out, source, self.group)
                works = dist.batch_isend_irecv([send, receive])
                for work in works:
                    work.wait()
            yield source, out

    def _pass_in_parts(
        self, x: Tensor, out: Tensor, to: int, source: int, most_rows: int, row_bytes: int
    ) -> None:
        """All rows of x to one rank and all of another's into `out`, through shared memory.

        Collective: every rank must call.

        Args:
            most_rows: of any rank.
        """
        assert self.mailboxes is not None
        at_once = max(PASSED_BYTES // row_bytes, 1)
        for first in range(0, most_rows, at_once):
            given = x[first : first + at_once]
            send = [0] * self.mailboxes.world_size
            send[to] = len(given)
            pending = self.mailboxes.start_exchange(given, len(given), [0] * len(send), send)
            out[first : first + at_once] = pending.wait()[source]


def make_transport(
    rank: int, group: dist.ProcessGroup | None, pids: list[int] | None, grid: Grid | None = None
) -> Transport:
    """A transport over a process group, or over shared memory if `pids` are given.

    Args:
        pids: [P] processes of the ranks, see `pids_with_readable_memory`.
        grid: for all-to-alls of the process group.
    """
    mailboxes = Mailboxes(rank, pids, group) if pids is not None else None
    return Transport(rank, group, mailboxes, None if mailboxes is not None else grid)
