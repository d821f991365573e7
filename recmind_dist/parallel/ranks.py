"""Who takes part: rank, world, device, and the process groups for rows and for ids."""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """One worker's place among all. With world_size 1 nothing is sent and no process group is needed.

    `id_group` is a gloo group of its own, since ids are exchanged by the prefetching thread while rows travel.
    """

    rank: int
    world_size: int
    device: torch.device
    id_group: dist.ProcessGroup | None = None

    @staticmethod
    def alone(device: str = "cpu") -> "Ranks":
        """One worker without a process group."""
        return Ranks(0, 1, torch.device(device))

    @staticmethod
    def all_join(device: torch.device, timeout_s: int = 300) -> "Ranks":
        """Joins the default process group, which exists. Every rank must call.

        Args:
            timeout_s: of an exchange of ids; the default group has its own.
        """
        world_size = dist.get_world_size()
        id_group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if world_size > 1 else None
        return Ranks(dist.get_rank(), world_size, device, id_group)

    def all_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks of a small tensor, in place. Every rank must call."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_text(self, text: str) -> str:
        """Rank 0's short ASCII text, on every rank. Every rank must call."""
        if self.world_size == 1:
            return text
        data = torch.zeros(256, dtype=torch.uint8, device=self.device)
        encoded = text.encode("ascii")
        assert len(encoded) <= len(data)
        data[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        dist.broadcast(data, src=0)
        return bytes(data.tolist()).rstrip(b"\0").decode("ascii")

    def all_barrier(self) -> None:
        """Waits for every rank. Every rank must call."""
        if self.world_size > 1:
            dist.barrier()
