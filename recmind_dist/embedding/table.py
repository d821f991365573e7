"""The embedding table, sharded by rows: each rank holds its own rows and their optimizer state.

It stays outside DeepSpeed: ZeRO's cost grows with the table, this one's with the batch
(docs/distribution.md).
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from recmind_dist.embedding.row_optimizer import make_state, row_adagrad
from recmind_dist.embedding.settings import TableSettings
from recmind_dist.kernels.memory import zeros_in_large_pages
from recmind_dist.kernels.row_adam import AdamRows, row_adam
from recmind_dist.kernels.row_moves import place_rows


class ShardedTable:
    """One rank's rows of the table.

    Args:
        row_range: (start, stop) of this rank's rows.
        num_rows: rows of all ranks.
        dim: D.
        settings: of the row-wise optimizer.
    """

    def __init__(
        self,
        row_range: tuple[int, int],
        num_rows: int,
        dim: int,
        settings: TableSettings,
        device: torch.device,
    ) -> None:
        self.start, self.stop = row_range
        self.num_rows, self.dim, self.settings = num_rows, dim, settings
        self.weight = zeros_in_large_pages(len(self), dim, device)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The optimizer's state by name, made at its first use: never for inference."""
        return make_state(self.settings, self.weight)

    def __len__(self) -> int:
        return self.stop - self.start

    def gather(self, local_rows: Tensor | slice) -> Tensor:
        """A leaf that takes gradient, [n, D].

        Args:
            local_rows: [n] positions in this shard; slice(None) for all, without a copy.
        """
        if isinstance(local_rows, slice):
            return self.weight[local_rows].detach().requires_grad_()
        rows = self.weight.new_empty(len(local_rows), self.dim)
        place_rows(rows, None, self.weight, local_rows)
        return rows.requires_grad_()

    def grad_placeholder(self, rows: int) -> Tensor:
        """A leaf that takes the gradient of rows whose values the forward pass has already.

        Its values are NaN, without memory of their own, so that a read of them shows.
        Shape: [rows, D].
        """
        return self.weight.new_full((1, 1), math.nan).expand(rows, self.dim).requires_grad_()

    def update(
        self,
        local_rows: Tensor | slice,
        grad: Tensor,
        lr_factor: float = 1.0,
        order: Tensor | None = None,
        divisor: int = 1,
        num_valid: Tensor | None = None,
    ) -> None:
        """One step of the row-wise optimizer.

        Args:
            local_rows: [n] distinct positions in this shard.
            num_valid: [1] how many of them are meant, by Adam: the others fill a fixed shape up.
            grad: [n, D].
            lr_factor: the schedule's multiple of the learning rate.
            order: [n] permutation that sorts `local_rows`, unless they ascend.
            divisor: the gradient is divided by it.
        """
        lr = self.settings.learning_rate * lr_factor
        if self.settings.optimizer == "adam":
            table = AdamRows(self.weight, **self.state)
            row_adam(table, local_rows, grad, lr, order, divisor, num_valid)
        else:
            assert num_valid is None, "Adagrad updates all the rows that it is given"
            row_adagrad(self.weight, self.state["sum_sq"], local_rows, grad, lr, divisor)

    def rows(self) -> dict[str, Tensor]:
        """Weight and optimizer state of this shard, by name. The first dimension is the rows."""
        return {"weight": self.weight, **self.state}

    def load_rows(self, rows: dict[str, Tensor]) -> None:
        """Copies what `rows` returned for the same row range."""
        self.weight.copy_(rows["weight"])
        for name, value in self.state.items():
            value.copy_(rows[name])
