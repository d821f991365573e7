"""Tensors between ranks of one machine, through memory that they share.

gloo would send them over the loopback network.

Legend: P ranks.
"""

import contextlib
import hashlib
import mmap
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.kernels.row_moves import place_rows

_GRAIN = 1 << 21  # a box's size is a multiple of this
BOX_SPARE = 1.25
"""A new box's size over the size needed: batches differ a little."""
_SHRINK, _PATIENCE = 8, 64  # a box this many times too large, this often in a row, is replaced


@dataclass
class _Mailbox:
    """Anonymous memory that other processes open by its owner's pid and descriptor.

    It is freed when no process has it open.

    Attributes:
        generation: counts the boxes that its owner has had at this turn.
        descriptor: of the file.
        space: the memory itself.
        data: uint8, the whole box.
        oversized: exchanges in a row for which it was far too large.
    """

    generation: int
    descriptor: int
    space: mmap.mmap
    data: Tensor
    oversized: int = 0


@dataclass(frozen=True)
class PendingMailboxExchange:
    """An exchange whose rows are written and whose headers are on their way.

    Attributes:
        transport: that started it.
        box: of this rank.
        turn: which of its two boxes this is.
        headers: [P, 5] generation, descriptor and size of each rank's box, first byte and number of
            the rows for this rank; filled when `work` is done.
        work: the exchange of the headers.
        like: has the dtype and the trailing dimensions of the rows.
    """

    transport: "Mailboxes"
    box: _Mailbox
    turn: int
    headers: Tensor
    work: dist.Work
    like: Tensor

    def wait(self) -> list[Tensor]:
        """The rows of each rank for this one. Collective: every rank must call.

        They are not copied: they may be read until the next exchange.
        """
        self.work.wait()
        shape = self.like.shape[1:]
        width = shape.numel() * self.like.itemsize
        parts = []
        for peer, (generation, descriptor, size, start, count) in enumerate(self.headers.tolist()):
            if peer == self.transport.rank:
                data = self.box.data
            else:
                data = self.transport.open_box(peer, self.turn, generation, descriptor, size)
            rows = data[start : start + count * width].view(self.like.dtype)
            parts.append(rows.view(count, *shape))
        return parts


class Mailboxes:
    """Every rank writes what it sends into a box of its own, and reads from the others' boxes.

    A rank has two boxes and alternates between them. Headers that say where the rows are go over
    gloo: a rank that sends those of exchange n has read all of exchange n - 1, so in exchange n + 1
    its box may be written again. A rank that dies is noticed by gloo. A rank that ends must take
    part in one more collective after its last exchange, as training does, because others may not
    have read it yet.

    Args:
        rank: this rank.
        pids: [P] processes of the ranks.
        group: of gloo; nothing else may use it meanwhile.
    """

    def __init__(self, rank: int, pids: list[int], group: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self._pids, self._group = pids, group
        self._exchanges = 0
        self._own: list[_Mailbox | None] = [None, None]
        self._theirs: dict[tuple[int, int], tuple[int, Tensor]] = {}

    @property
    def world_size(self) -> int:
        """P."""
        return len(self._pids)

    def start_exchange(
        self, x: Tensor, rows: int, starts: list[int], counts: list[int], of: Tensor | None = None
    ) -> PendingMailboxExchange:
        """Writes rows for the other ranks. Collective: every rank must call, and `wait` as well.

        Args:
            x: [.., ...] contiguous.
            rows: number of rows to write.
            starts: [P] first of the written rows for each rank.
            counts: [P] number of rows for each rank.
            of: [rows] positions in `x` of the rows to write. Default: the first ones.
        """
        turn, shape = self._exchanges % 2, x.shape[1:]
        width = shape.numel() * x.itemsize
        self._exchanges += 1
        box = self._box(turn, rows * width)
        out = box.data[: rows * width].view(x.dtype).view(rows, *shape)
        if of is None:
            out.copy_(x[:rows])
        else:
            place_rows(out, None, x, of)
        about = [box.generation, box.descriptor, len(box.data)]
        sent = [[*about, start * width, n] for start, n in zip(starts, counts, strict=True)]
        headers = torch.empty((len(self._pids), 5), dtype=torch.int64)
        given = torch.tensor(sent, dtype=torch.int64)
        work = dist.all_to_all_single(headers, given, group=self._group, async_op=True)
        return PendingMailboxExchange(self, box, turn, headers, work, x)

    def give_back(self) -> None:
        """Gives the memory of this rank's boxes back to the system, which fills them anew as they
        are written. No rank may read what it was sent any more.
        """
        for box in self._own:
            if box is not None:
                with contextlib.suppress(AttributeError, OSError):  # no such system call
                    box.space.madvise(mmap.MADV_REMOVE)

    def _box(self, turn: int, size: int) -> _Mailbox:
        """This rank's box of a turn: a new one if it is too small, or has long been too large."""
        box, wanted = self._own[turn], max(-(-int(size * BOX_SPARE) // _GRAIN), 1) * _GRAIN
        if box is not None:
            box.oversized = box.oversized + 1 if len(box.data) > wanted * _SHRINK else 0
            if size <= len(box.data) and box.oversized < _PATIENCE:
                return box
        generation = 0 if box is None else box.generation + 1
        _close(box)
        self._own[turn] = box = None  # frees its memory before more is allocated
        self._own[turn] = box = _new_box(wanted, generation)
        return box

    def open_box(self, peer: int, turn: int, generation: int, descriptor: int, size: int) -> Tensor:
        """The memory of another rank's box, kept open until its generation changes."""
        known = self._theirs.get((peer, turn))
        if known is not None and known[0] == generation:
            return known[1]
        try:
            data = _map(self._pids[peer], descriptor, size)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"connection closed: rank {peer} is gone, and its memory with it ({error})"
            ) from error
        self._theirs[peer, turn] = (generation, data)
        return data


def pids_with_readable_memory(group: dist.ProcessGroup) -> list[int] | None:
    """Process ids of the ranks, [P]; None unless all can read each other's memory.

    Collective: every rank must call. Ranks exchange only numbers: anyone who reaches the group's
    port could send anything.
    """
    token, box = secrets.randbits(63), None
    with contextlib.suppress(AttributeError, OSError):  # no such system call, or no memory
        box = _new_box(_GRAIN, 0)
        box.data[:8].view(torch.int64).fill_(token)
    here = _machine()
    mine = torch.tensor([*here, os.getpid(), -1 if box is None else box.descriptor, token])
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group=group)
    peers = [entry.tolist() for entry in gathered]
    reads_all = all(tuple(entry[:2]) == here and _reads(*entry[2:]) for entry in peers)
    all_read = torch.tensor([reads_all], dtype=torch.int64)
    dist.all_reduce(all_read, op=dist.ReduceOp.MIN, group=group)
    _close(box)
    return [entry[2] for entry in peers] if all_read.item() else None


def _new_box(size: int, generation: int) -> _Mailbox:
    descriptor = os.memfd_create("recmind-mailbox", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    space = mmap.mmap(descriptor, size)
    return _Mailbox(generation, descriptor, space, torch.frombuffer(space, dtype=torch.uint8))


def _close(box: _Mailbox | None) -> None:
    if box is not None:
        os.close(box.descriptor)


def _map(pid: int, descriptor: int, size: int) -> Tensor:
    theirs = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return torch.frombuffer(mmap.mmap(theirs, size), dtype=torch.uint8)
    finally:
        os.close(theirs)


def _reads(pid: int, descriptor: int, token: int) -> bool:
    try:
        return int(_map(pid, descriptor, _GRAIN)[:8].view(torch.int64).item()) == token
    except (OSError, ValueError):
        return False


def _machine() -> tuple[int, int]:
    """Equal for processes that see each other under /proc; random where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name = f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()
    except OSError:
        name = secrets.token_bytes(16)
    first, second = struct.unpack("qq", hashlib.sha256(name).digest()[:16])
    return first, second
