"""A small shard of the embedding table, with gradients and rows that are the same at each call."""

import torch
from torch import Tensor

from recmind_dist.embedding.settings import TableSettings
from recmind_dist.embedding.table import ShardedTable

ROWS, DIM = 12, 5
CPU = torch.device("cpu")


def table(start: Tensor | None = None, **settings: object) -> ShardedTable:
    """Rows 3 to 15 of 40."""
    made = ShardedTable((3, 3 + ROWS), 40, DIM, TableSettings.model_validate(settings), CPU)
    if start is not None:
        made.weight.copy_(start)
    return made


def gradient(step: int) -> Tensor:
    """Of very different sizes, with zeros among them."""
    generator = torch.Generator().manual_seed(step)
    g = torch.randn(ROWS, DIM, generator=generator) * 10.0 ** torch.randint(
        -4, 2, (ROWS, 1), generator=generator
    )
    return g * (torch.rand(ROWS, DIM, generator=generator) > 0.2)


def start() -> Tensor:
    """The rows' content at the start."""
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(99))
