"""Row-wise optimizers of the embedding table: a step touches only the rows that it is given.

Source: Adam with a step count for each row (see `kernels.row_adam`); row-wise Adagrad, one number
for each row (arXiv:1903.12287).
"""

import torch
from torch import Tensor

from recmind_dist.embedding.settings import TableSettings
from recmind_dist.kernels.memory import zeros_in_large_pages
from recmind_dist.kernels.row_adam import EPS, AdamRows, row_adam


class RowAdam:
    """Adam. State: exp_avg and exp_avg_sq [R, D], steps [R]."""

    def __init__(self, weight: Tensor) -> None:
        (rows, dim), device = weight.shape, weight.device
        self.state = {
            "exp_avg": zeros_in_large_pages(rows, dim, device),
            "exp_avg_sq": zeros_in_large_pages(rows, dim, device),
            "steps": torch.zeros(len(weight), dtype=torch.int64, device=device),
        }
        self._rows = AdamRows(weight, **self.state)

    def update(
        self,
        rows: Tensor | slice,
        grad: Tensor,
        lr: float,
        order: Tensor | None = None,
        divisor: int = 1,
    ) -> None:
        """See `row_adam`."""
        row_adam(self._rows, rows, grad, lr, order, divisor)


class RowAdagrad:
    """Adagrad on the mean square of a row's gradient. State: sum_sq [R]."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.state = {"sum_sq": torch.zeros(len(weight), device=weight.device)}

    def update(
        self,
        rows: Tensor | slice,
        grad: Tensor,
        lr: float,
        order: Tensor | None = None,
        divisor: int = 1,
    ) -> None:
        """See `row_adam`; `order` changes nothing."""
        if divisor != 1:
            grad = grad * (1 / divisor)
        total = self.state["sum_sq"][rows] + grad.square().mean(1)
        self.state["sum_sq"][rows] = total
        self._weight[rows] -= lr * grad / (total.sqrt() + EPS)[:, None]


RowOptimizer = RowAdam | RowAdagrad


def make_row_optimizer(settings: TableSettings, weight: Tensor) -> RowOptimizer:
    """The optimizer that the settings name, for `weight` [R, D]."""
    return RowAdam(weight) if settings.optimizer == "adam" else RowAdagrad(weight)
