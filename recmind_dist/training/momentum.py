"""The momentum copy of the dense part, whose keys fill the queues. Source: arXiv:1911.05722."""

import copy

import torch
from torch import Tensor

from recmind_dist.model.models import Model
from recmind_dist.model.queue import KeyQueue
from recmind_dist.training.alignment import VIEWS

MOMENTUM = 0.99
"""m of k ← m k + (1 − m) q. The source has 0.999, for runs of a hundred thousand steps and more."""


class MomentumEncoder:
    """A slow copy of the model, and a queue of its keys for each view.

    Args:
        queue_size: keys kept of each view.
    """

    def __init__(self, model: Model, queue_size: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        device = next(model.parameters()).device
        self.queues = {view: KeyQueue(queue_size, model.embedding_dim, device) for view in VIEWS}

    def follow(self, parameters: dict[str, Tensor]) -> None:
        """k ← m k + (1 − m) q for every parameter of the copy."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.lerp_(parameters[name].to(p.device), 1 - MOMENTUM)

    def enqueue(self, keys: dict[str, Tensor], pairs: Tensor, step: int) -> None:
        """Puts a step's gathered keys into the queues, in the order of the global batch.

        Args:
            keys: [A, D] by view.
            pairs: [2, A] users and items of the anchors of the global batch.
        """
        for view, rows in keys.items():
            self.queues[view].enqueue(rows, pairs[0 if view.startswith("user") else 1], step)
