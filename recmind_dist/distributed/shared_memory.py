"""Tensors between ranks of one machine: through memory that all of them see, where gloo would use
the loopback network.

Legend: P ranks.
"""

import contextlib
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

_GRAIN = 1 << 21
_SPARE = 1.25  # times what is asked for: batches differ a little in size
_SHRINK, _PATIENCE = 8, 64  # a box that was so many times too large so often in a row is given back


@dataclass
class _Mailbox:
    """Anonymous memory that others open by its owner's process and descriptor; it ends with the
    processes that have it open.

    Attributes:
        roomy: exchanges in a row for which it was far too large.
    """

    generation: int
    descriptor: int
    data: Tensor
    roomy: int = 0


class SharedMemoryTransport:
    """Every rank writes what it sends into a box of its own and reads in the others' boxes what is
    for it.

    A rank has two boxes and uses them by turns. Word goes around over gloo that a box is written:
    who sends word of exchange n has read all of exchange n - 1, so at n + 1 its box may be written
    again. A rank that dies is met as gloo meets it, and one that ends must have met the others once
    more after its last exchange, as training does, for they may not have read it yet.

    Args:
        pids: [P] of the ranks; group: of gloo, which nothing else uses meanwhile.
    """

    def __init__(self, rank: int, pids: list[int], group: dist.ProcessGroup | None) -> None:
        self._rank, self._pids, self._group = rank, pids, group
        self._exchanges = 0
        self._own: list[_Mailbox | None] = [None, None]
        self._theirs: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def start_all_to_all(
        self,
        rows: int,
        like: Tensor,
        write: Callable[[Tensor], object],
        starts: list[int],
        counts: list[int],
    ) -> Callable[[], list[Tensor]]:
        """What each rank has for this one, in the order of ranks, when what is returned is called.
        Every rank must call.

        It is read where it lies, in the box of its sender, and holds until the next call.

        Args:
            rows: sent in all; like: has their dtype and further dimensions; write: fills [rows,
            ...]; starts, counts: [P] first row for each rank and how many there are for it.
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
                data = (
                    box.data
                    if peer == self._rank
                    else self._open(peer, turn, generation, descriptor, size)
                )
                parts.append(
                    data[start : start + count * width].view(like.dtype).view(count, *shape)
                )
            return parts

        return arrived

    def _box(self, turn: int, size: int) -> _Mailbox:
        """This rank's box of a turn, another one where that is too small or has long been far too
        large.
        """
        box, wanted = self._own[turn], max(-(-int(size * _SPARE) // _GRAIN), 1) * _GRAIN
        if box is not None:
            box.roomy = box.roomy + 1 if len(box.data) > wanted * _SHRINK else 0
            if size <= len(box.data) and box.roomy < _PATIENCE:
                return box
        generation = 0 if box is None else box.generation + 1
        _close(box)
        self._own[turn] = box = None  # given back before another is asked for
        self._own[turn] = box = _new_box(wanted, generation)
        return box

    def _open(self, peer: int, turn: int, generation: int, descriptor: int, size: int) -> Tensor:
        known = self._theirs.get((peer, turn))
        if known is None or known[0] != generation:
            try:
                self._theirs[peer, turn] = known = (
                    generation,
                    _map(self._pids[peer], descriptor, size),
                )
            except (OSError, ValueError) as error:
                raise RuntimeError(
                    f"connection closed: rank {peer} is gone, and its memory with it ({error})"
                ) from error
        return known[1]


def share_memory(group: dist.ProcessGroup) -> list[int] | None:
    """Process ids of the ranks, [P]; None unless all are processes of one machine that may read
    each other's memory. Every rank must call.

    What ranks tell each other are numbers: whoever reaches the group's port could send anything.
    """
    word, box = secrets.randbits(63), None
    with contextlib.suppress(AttributeError, OSError):  # no such system call, or no memory
        box = _new_box(_GRAIN, 0)
        box.data[:8].view(torch.int64).fill_(word)
    here = _machine()
    mine = torch.tensor([*here, os.getpid(), -1 if box is None else box.descriptor, word])
    said = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(said, mine, group=group)
    peers = [entry.tolist() for entry in said]
    sees_all = all(tuple(entry[:2]) == here and _reads(*entry[2:]) for entry in peers)
    everybody = torch.tensor([sees_all], dtype=torch.int64)
    dist.all_reduce(everybody, op=dist.ReduceOp.MIN, group=group)
    _close(box)
    return [entry[2] for entry in peers] if everybody.item() else None


def _new_box(size: int, generation: int) -> _Mailbox:
    descriptor = os.memfd_create("recmind-mailbox", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return _Mailbox(
        generation, descriptor, torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
    )


def _close(box: _Mailbox | None) -> None:
    if box is not None:
        os.close(box.descriptor)


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


def _machine() -> tuple[int, int]:
    """The same for processes that see each other under /proc; of its own elsewhere than on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name = f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()
    except OSError:
        name = secrets.token_bytes(16)
    first, second = struct.unpack("qq", hashlib.sha256(name).digest()[:16])
    return first, second
