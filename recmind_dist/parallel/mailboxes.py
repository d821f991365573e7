"""Tensors between ranks of one machine: through memory that all of them see, where gloo would use the loopback network.

Legend: P ranks.
"""

import mmap
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

_GRAIN = 1 << 21
_SPARE = 1.25  # times what is asked for: batches differ a little in size
_SHRINK = 8  # a box so many times larger than asked for is given back


@dataclass
class _Box:
    """Anonymous memory that others open by its owner's process and descriptor; it ends with the last who has it open."""

    generation: int
    descriptor: int
    data: Tensor


class Mailboxes:
    """Every rank writes what it sends into a box of its own and reads in the others' boxes what is for it.

    A rank has two boxes and uses them by turns. Word goes around over gloo that a box is written: who sends word of exchange
    n has read all of exchange n - 1, so at n + 1 its box may be written again. A rank that dies is met as gloo meets it.

    Args:
        pids: [P] of the ranks; group: of gloo, which nothing else uses meanwhile.
    """

    def __init__(self, rank: int, pids: list[int], group: dist.ProcessGroup | None) -> None:
        self._rank, self._pids, self._group = rank, pids, group
        self._exchanges = 0
        self._own: list[_Box | None] = [None, None]
        self._theirs: dict[tuple[int, int], tuple[int, Tensor]] = {}

    @staticmethod
    def all_open(group: dist.ProcessGroup | None = None) -> "Mailboxes | None":
        """None unless all ranks are processes of one machine that may read each other's memory. Every rank must call."""
        world, rank = dist.get_world_size(), dist.get_rank()
        told: list[tuple[str, int, int, int] | None] = [None] * world
        word = secrets.randbits(63)
        box = _new_box(_GRAIN, 0)
        box.data[:8].view(torch.int64).fill_(word)
        dist.all_gather_object(told, (_machine(), os.getpid(), box.descriptor, word), group=group)
        here = [entry for entry in told if entry is not None and entry[0] == _machine()]
        sees_all = len(here) == world and all(_reads(pid, descriptor, word) for _, pid, descriptor, word in here)
        everybody = torch.tensor([sees_all], dtype=torch.int64)
        dist.all_reduce(everybody, op=dist.ReduceOp.MIN, group=group)
        os.close(box.descriptor)
        return Mailboxes(rank, [entry[1] for entry in here], group) if everybody.item() else None

    def all_send(
        self, rows: int, like: Tensor, write: Callable[[Tensor], object], starts: list[int], counts: list[int]
    ) -> Callable[[], list[Tensor]]:
        """What each rank has for this one, in the order of ranks, when what is returned is called. Every rank must call.

        It is read where it lies, in the box of its sender, and holds until the next call.

        Args:
            rows: sent in all; like: has their dtype and further dimensions; write: fills [rows, ...]; starts, counts: [P]
            first row for each rank and how many there are for it.
        """
        turn, shape = self._exchanges % 2, like.shape[1:]
        width = shape.numel() * like.itemsize
        self._exchanges += 1
        box = self._box(turn, rows * width)
        write(box.data[: rows * width].view(like.dtype).view(rows, *shape))
        about = [box.generation, box.descriptor, len(box.data)]
        said = [[*about, start * width, count] for start, count in zip(starts, counts, strict=True)]
        heard = torch.empty((len(self._pids), 5), dtype=torch.int64)
        tell = torch.tensor(said, dtype=torch.int64)
        word = dist.all_to_all_single(heard, tell, group=self._group, async_op=True)

        def arrived() -> list[Tensor]:
            word.wait()
            parts = []
            for peer, (generation, descriptor, size, start, count) in enumerate(heard.tolist()):
                data = box.data if peer == self._rank else self._open(peer, turn, generation, descriptor, size)
                parts.append(data[start : start + count * width].view(like.dtype).view(count, *shape))
            return parts

        return arrived

    def _box(self, turn: int, size: int) -> _Box:
        """This rank's box of a turn, another one where that is too small or far too large."""
        box = self._own[turn]
        wanted = -(-int(size * _SPARE) // _GRAIN) * _GRAIN or _GRAIN
        if box is None or not size <= len(box.data) <= max(wanted * _SHRINK, _GRAIN * _SHRINK):
            generation = 0
            if box is not None:
                generation = box.generation + 1
                os.close(box.descriptor)
            self._own[turn] = box = None  # given back before another is asked for
            self._own[turn] = box = _new_box(wanted, generation)
        return box

    def _open(self, peer: int, turn: int, generation: int, descriptor: int, size: int) -> Tensor:
        known = self._theirs.get((peer, turn))
        if known is None or known[0] != generation:
            self._theirs[peer, turn] = known = generation, _map(self._pids[peer], descriptor, size)
        return known[1]


def _new_box(size: int, generation: int) -> _Box:
    descriptor = os.memfd_create("recmind-mailbox", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return _Box(generation, descriptor, torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8))


def _map(pid: int, descriptor: int, size: int) -> Tensor:
    theirs = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return torch.frombuffer(mmap.mmap(theirs, size), dtype=torch.uint8)
    finally:
        os.close(theirs)


def _reads(pid: int, descriptor: int, word: int) -> bool:
    try:
        return int(_map(pid, descriptor, _GRAIN)[:8].view(torch.int64).item()) == word
    except (OSError, ValueError):
        return False


def _machine() -> str:
    """The same for processes that see each other under /proc; of its own elsewhere than on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(16)
