"""Row-wise optimizers of the embedding table: a step touches only the rows that it is given.

Source: Adam with a step count for each row (see `kernels.row_adam`); row-wise Adagrad, one number
for each row (arXiv:1903.12287).
"""

import torch
from torch import Tensor

from recmind_dist.embedding.settings import TableSettings
from recmind_dist.kernels.memory import zeros_in_large_pages
from recmind_dist.kernels.row_adam import EPS

_BLOCK_ROWS = 8192  # updated at a time on a CPU, so that what is in between stays in the cache


def make_state(settings: TableSettings, weight: Tensor) -> dict[str, Tensor]:
    """Zeros: Adam's exp_avg and exp_avg_sq [R, D] and steps [R], or Adagrad's sum_sq [R]."""
    (rows, dim), device = weight.shape, weight.device
    if settings.optimizer == "adagrad":
        return {"sum_sq": torch.zeros(rows, device=device)}
    return {
        "exp_avg": zeros_in_large_pages(rows, dim, device),
        "exp_avg_sq": zeros_in_large_pages(rows, dim, device),
        "steps": torch.zeros(rows, dtype=torch.int64, device=device),
    }


def row_adagrad(
    weight: Tensor, sum_sq: Tensor, rows: Tensor | slice, grad: Tensor, lr: float, divisor: int
) -> None:
    """One step on some rows of `weight` [R, D], by the mean square of a row's gradient.

    The other arguments are those of `row_adam`.
    """
    if grad.device.type != "cpu" or len(grad) <= _BLOCK_ROWS:
        _adagrad(weight, sum_sq, rows, grad, lr, divisor)
        return
    if isinstance(rows, slice):
        rows = torch.arange(*rows.indices(len(weight)))
    for start in range(0, len(grad), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        _adagrad(weight, sum_sq, rows[block], grad[block], lr, divisor)


def _adagrad(
    weight: Tensor, sum_sq: Tensor, rows: Tensor | slice, grad: Tensor, lr: float, divisor: int
) -> None:
    if divisor != 1:
        grad = grad * (1 / divisor)
    total = sum_sq[rows] + grad.square().mean(1)
    sum_sq[rows] = total
    weight[rows] -= lr * grad / (total.sqrt() + EPS)[:, None]
