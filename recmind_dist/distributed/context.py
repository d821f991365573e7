"""Who takes part: rank, world, device, and the process groups for rows and for ids."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from recmind_dist.causes import telling_line
from recmind_dist.distributed.shared_memory import SharedMemoryTransport, share_memory
from recmind_dist.distributed.traffic import Traffic, ring_bytes
from recmind_dist.distributed.transport import Transport
from recmind_dist.errors import WorkerLostError

# what gloo and NCCL say of a peer that is late, gone, or out of reach; gloo raises plain
# RuntimeErrors
_LOST = re.compile(
    r"timed? ?out|connection (closed|reset|refused)|broken pipe|socket|gloo|nccl", re.IGNORECASE
)


@contextmanager
def collective(operation: str) -> Iterator[None]:
    """Around calls in which ranks wait for each other: names rank and operation where gloo does
    not.

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
        took, said = time.monotonic() - start, telling_line(str(error))[:200]
        raise WorkerLostError(
            f"rank {rank} of {world}: {operation} failed after {took:.1f} s ({said}): another rank "
            "died or hangs: see its log, or raise scaling.collective_timeout_s if it is only slow"
        ) from error


@dataclass(frozen=True)
class DistContext:
    """One worker's place among all. With world_size 1 nothing is sent and no process group is
    needed.

    Attributes:
        row_way: of the training thread; id_way, plan_way: of the prefetching thread, which samples
        on the one and says what rows it needs on the other while those of the step before travel.
        Each has a gloo group of its own.
    """

    rank: int
    world_size: int
    device: torch.device
    row_transport: Transport = field(default_factory=lambda: Transport(0))
    id_transport: Transport = field(default_factory=lambda: Transport(0))
    lookup_transport: Transport = field(default_factory=lambda: Transport(0))
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    @staticmethod
    def alone(device: str = "cpu") -> "DistContext":
        """One worker without a process group."""
        return DistContext(0, 1, torch.device(device))

    @staticmethod
    def join_group(
        device: torch.device, timeout_s: int = 300, shared_memory: bool = True
    ) -> "DistContext":
        """Joins the default process group, which exists. Every rank must call.

        Args:
            timeout_s: of an exchange of ids; the default group has its own; shared_memory: see
            `ScalingSettings`.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        if world_size == 1:
            return DistContext(rank, world_size, device)
        with collective("joining the groups for ids"):
            groups = [
                dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
                for _ in range(2)
            ]
            pids = share_memory(groups[0]) if shared_memory else None

        def way(group: dist.ProcessGroup | None) -> Transport:
            on_cpu = group is not None or device.type == "cpu"
            return Transport(
                rank,
                group,
                SharedMemoryTransport(rank, pids, group) if pids is not None and on_cpu else None,
            )

        return DistContext(rank, world_size, device, way(None), way(groups[0]), way(groups[1]))

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks of a small tensor, in place: the same on every rank. Every rank must call."""
        if self.world_size > 1:
            self.traffic.add("dense", ring_bytes(values.nbytes, self.world_size))
            with collective("the sum over ranks"):
                dist.all_reduce(values)
        return values

    def sum_uint64(self, word: int) -> int:
        """Sum over ranks of 64-bit words, modulo 2^64: the same on every rank. Every rank must
        call.
        """
        signed = word - (1 << 64) if word >> 63 else word
        return int(
            self.all_reduce(torch.tensor([signed], dtype=torch.int64, device=self.device)).item()
        ) % (1 << 64)

    def broadcast_str(self, text: str) -> str:
        """Rank 0's short ASCII text, the same on every rank. Every rank must call."""
        if self.world_size == 1:
            return text
        data = torch.zeros(256, dtype=torch.uint8, device=self.device)
        encoded = text.encode("ascii")
        assert len(encoded) <= len(data)
        data[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        with collective("rank 0's word to all"):
            dist.broadcast(data, src=0)
        return bytes(data.tolist()).rstrip(b"\0").decode("ascii")

    def barrier(self) -> None:
        """Waits for every rank. Every rank must call."""
        if self.world_size > 1:
            with collective("the barrier"):
                dist.barrier()
