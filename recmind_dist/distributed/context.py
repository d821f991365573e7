"""A rank's context: rank, world size, device, and its transports to the other ranks."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from recmind_dist.causes import telling_line
from recmind_dist.distributed.grid import Grid, make_grid
from recmind_dist.distributed.shared_memory import pids_with_readable_memory
from recmind_dist.distributed.traffic import Traffic, ring_bytes
from recmind_dist.distributed.transport import Transport, make_transport
from recmind_dist.errors import WorkerLostError

# errors of gloo and NCCL about a peer that is late, gone or unreachable; gloo's are RuntimeErrors
_LOST = re.compile(
    r"timed? ?out|connection (closed|reset|refused)|broken pipe|socket|gloo|nccl", re.IGNORECASE
)


@contextmanager
def collective(operation: str) -> Iterator[None]:
    """Around calls in which ranks wait for each other: names rank and operation in the error.

    Raises:
        WorkerLostError: another rank died, hangs, or cannot be reached.
    """
    start = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if not isinstance(error, dist.DistError) and not _LOST.search(first):
            raise
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        took, cause = time.monotonic() - start, telling_line(str(error))[:200]
        raise WorkerLostError(
            f"rank {rank} of {world}: {operation} failed after {took:.1f} s ({cause}): another rank"
            " died or hangs: see its log, or raise scaling.collective_timeout_s if it is only slow"
        ) from error


@dataclass(frozen=True)
class DistContext:
    """One rank among all. With world_size 1 nothing is sent and no process group is needed.

    Attributes:
        rank: this rank.
        world_size: number of ranks, P.
        device: of this rank.
        row_transport: carries rows and gradients for the training thread.
        id_transport: carries what sampling asks other ranks for, for the prefetching thread; a gloo
            group of its own.
        lookup_transport: carries the ids of a lookup for the prefetching thread, which samples the
            next batch meanwhile; a gloo group of its own.
        grid: adds up small tensors of the training thread, where there are many ranks.
        traffic: counts the bytes sent.
    """

    rank: int
    world_size: int
    device: torch.device
    row_transport: Transport = field(default_factory=lambda: Transport(0))
    id_transport: Transport = field(default_factory=lambda: Transport(0))
    lookup_transport: Transport = field(default_factory=lambda: Transport(0))
    grid: Grid | None = None
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    @staticmethod
    def alone(device: str = "cpu") -> "DistContext":
        """A world of one, without a process group."""
        return DistContext(0, 1, torch.device(device))

    @staticmethod
    def join_group(
        device: torch.device, timeout_s: int = 300, shared_memory: bool = True
    ) -> "DistContext":
        """Joins the default process group, which must exist. Collective: every rank must call.

        Args:
            device: of this rank.
            timeout_s: after which an exchange of ids fails; the default group has its own.
            shared_memory: see `ScalingSettings`.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        if world_size == 1:
            return DistContext(rank, world_size, device)
        with collective("joining the groups for ids"):
            timeout = timedelta(seconds=timeout_s)
            ids, lookups = (dist.new_group(backend="gloo", timeout=timeout) for _ in range(2))
            pids = pids_with_readable_memory(ids) if shared_memory else None
            of_ids, of_sums = (make_grid(rank, world_size, timeout) for _ in range(2))
        pids_of_rows = pids if device.type == "cpu" else None
        return DistContext(
            rank,
            world_size,
            device,
            make_transport(rank, None, pids_of_rows),
            make_transport(rank, ids, pids, of_ids),
            make_transport(rank, lookups, pids, of_ids),  # of the same thread
            of_sums if device.type == "cpu" else None,
        )

    def all_to_all_rows(
        self,
        x: torch.Tensor,
        send: list[int],
        receive: list[int],
        kind: str,
        of: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """`Transport.all_to_all` of rows. Collective: every rank must call.

        Args:
            kind: of the bytes that are sent, see `traffic.KINDS`.
        """
        self.traffic.add(kind, (sum(send) - send[self.rank]) * x.shape[1] * x.itemsize)
        operation = "gradients" if kind == "gradients" else "rows"
        with collective(f"the exchange of {operation}"):
            return self.row_transport.all_to_all(x, send, receive, of)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks of a small tensor, in place: the same on every rank.

        Collective: every rank must call.
        """
        if self.world_size > 1:
            self.traffic.add("dense", ring_bytes(values.nbytes, self.world_size))
            with collective("the sum over ranks"):
                if self.grid is None:
                    dist.all_reduce(values)
                else:
                    self.grid.all_reduce(values)
        return values

    def sum_uint64(self, word: int) -> int:
        """Sum over ranks modulo 2^64: the same on every rank. Collective: every rank must call."""
        signed = word - (1 << 64) if word >> 63 else word
        total = self.all_reduce(torch.tensor([signed], dtype=torch.int64, device=self.device))
        return int(total.item()) % (1 << 64)

    def broadcast_str(self, text: str) -> str:
        """Rank 0's ASCII text of up to 256 characters, the same on every rank.

        Collective: every rank must call.
        """
        if self.world_size == 1:
            return text
        data = torch.zeros(256, dtype=torch.uint8, device=self.device)
        encoded = text.encode("ascii")
        assert len(encoded) <= len(data)
        data[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        with collective("the broadcast from rank 0"):
            dist.broadcast(data, src=0)
        return bytes(data.tolist()).rstrip(b"\0").decode("ascii")

    def give_back_boxes(self) -> None:
        """Frees the shared memory through which rows have travelled, until they travel again. No
        rank may read them any more. Collective: every rank must call.
        """
        self.barrier()  # what a rank still reads would become zeros
        self.row_transport.give_back()

    def barrier(self) -> None:
        """Waits for all ranks. Collective: every rank must call."""
        if self.world_size > 1:
            with collective("the barrier"):
                dist.barrier()
