"""The momentum queue: keys of past steps, the same on every rank because every rank enqueues the
same gathered rows.
"""

import torch
from torch import Tensor
from torch.nn import functional


class KeyQueue:
    """A ring of normalised keys with their entity ids and the step at which they were made.

    Args:
        size: rows kept.
        dim: D.
    Source: arXiv:1911.05722, algorithm 1.
    """

    def __init__(self, size: int, dim: int, device: torch.device | None = None) -> None:
        self.keys = torch.zeros(size, dim, device=device)
        self.ids = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.steps = torch.zeros(size, dtype=torch.int64, device=device)
        self.head = 0

    def __len__(self) -> int:
        return len(self.keys)

    def enqueue(self, keys: Tensor, ids: Tensor, step: int) -> None:
        """Appends rows in the order given; the oldest fall out. Normalises `keys` [n, D]."""
        if not len(self) or not len(ids):
            return
        keys, ids = keys[-len(self) :], ids[-len(self) :]
        slots = (self.head + torch.arange(len(ids), device=self.ids.device)) % len(self)
        self.keys[slots] = functional.normalize(keys.detach(), dim=1)
        self.ids[slots] = ids
        self.steps[slots] = step
        self.head = (self.head + len(ids)) % len(self)

    def staleness(self, step: int) -> float:
        """Mean age of the keys in steps; 0 while empty."""
        filled = self.ids >= 0
        return float((step - self.steps[filled]).double().mean()) if filled.any() else 0.0

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        return {
            "keys": self.keys,
            "ids": self.ids,
            "steps": self.steps,
            "head": torch.tensor([self.head]),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.keys.copy_(state["keys"])
        self.ids.copy_(state["ids"])
        self.steps.copy_(state["steps"])
        self.head = int(state["head"])
