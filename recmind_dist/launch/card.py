"""The GPU of a rank: what must be known of it before a run begins."""

from dataclasses import dataclass

import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.kernels.memory import free_memory
from recmind_dist.launch.device_memory import gibibytes, kept_bytes_of_run, shortage
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores

_WAYS_OUT = (
    "raise scaling.num_workers, which deals rows and edges out to more GPUs, lower "
    "model.embedding_dim, or set scaling.device=cpu"
)


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    total_bytes: int
    free_bytes: int
    """What this process can still take."""

    @staticmethod
    def of(device: torch.device) -> "Card":
        """Asks the driver of a device "cuda"."""
        found = torch.cuda.get_device_properties(device)
        free = free_memory(device)
        assert free is not None, f"{device} is no GPU"
        return Card(found.name, found.total_memory, free)

    @property
    def words(self) -> str:
        """Name and memory, the same on every rank with such a card."""
        return f"{self.name} ({gibibytes(self.total_bytes)})"


def check_card(config: RunConfig, inputs: RunStores, context: DistContext) -> str | None:
    """Whether this rank's GPU can hold its share of a run; nothing on the CPU.

    Collective: every rank must call.

    Returns: a sentence where the card is another one than rank 0's.
    Raises:
        ConfigError: the rank's rows or edges are too many for it.
    """
    card = Card.of(context.device) if context.device.type == "cuda" else None
    lead = context.broadcast_str(ascii_of(card.words if card else ""))
    if card is None:
        return None
    parts = kept_bytes_of_run(config, inputs, context.rank, context.world_size)
    if fault := shortage(parts, card.free_bytes, card.name):
        raise ConfigError(f"rank {context.rank} of {context.world_size} {fault}: {_WAYS_OUT}")
    return mixed_cards(card.words, lead, context.rank)


def mixed_cards(own: str, lead: str, rank: int) -> str | None:
    """A sentence where a rank's card is another one than rank 0's."""
    if ascii_of(own) == lead:
        return None
    return (
        f"rank {rank} has {own}, rank 0 {lead}: all ranks go at the pace of the slowest, and each "
        "gets as many rows, whatever its memory"
    )


def ascii_of(words: str) -> str:
    """What ranks can tell each other of a name."""
    return words.encode("ascii", "replace").decode()[:200]
