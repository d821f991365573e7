"""The embedding table, sharded by rows: each rank holds its own rows and their optimizer state, and
nobody a copy.

It stays outside DeepSpeed: ZeRO's cost grows with the table, this one's with the batch
(docs/distribution.md).
"""

import math
from functools import cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.distributed.settings import TableSettings
from recmind_dist.kernels.memory import zeros_in_large_pages
from recmind_dist.kernels.prefetch import fetch_ahead, fetch_row_ahead
from recmind_dist.kernels.row_moves import place_rows
from recmind_dist.kernels.threads import even_shares, run_together
from recmind_dist.types import FloatArray

_LEAST = 4096  # rows worth a thread
_KNOWN_STEPS = 1 << 16  # half a megabyte a list; a row that is met every step gets there last
_AHEAD = 16
"""Rows and their optimizer state are fetched for so many rows ahead, instead of waited for one
after the other.
"""
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults; Adagrad shares EPS


class ShardedTable:
    """Rows [start, stop) of a table of `num_rows`.

    Args:
        row_range: this rank's rows; num_rows: of all ranks; dim: D; settings: optimizer; device.
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
        rows = self.stop - self.start
        self.weight = zeros_in_large_pages(rows, dim, device)
        self.state: dict[str, Tensor] = {}
        if settings.optimizer == "adam":
            self.state["exp_avg"] = zeros_in_large_pages(rows, dim, device)
            self.state["exp_avg_sq"] = zeros_in_large_pages(rows, dim, device)
            self.state["steps"] = torch.zeros(rows, dtype=torch.int64, device=device)
        else:
            self.state["sum_sq"] = torch.zeros(rows, device=device)

    def __len__(self) -> int:
        return self.stop - self.start

    def gather(self, local_rows: Tensor | slice) -> Tensor:
        """A leaf that takes gradient, [n, D]. `local_rows` are positions in this shard, or
        slice(None) for all, uncopied.
        """
        if isinstance(local_rows, slice):
            return self.weight[local_rows].detach().requires_grad_()
        rows = self.weight.new_empty(len(local_rows), self.dim)
        place_rows(rows, None, self.weight, local_rows)
        return rows.requires_grad_()

    def grad_placeholder(self, rows: int) -> Tensor:
        """A leaf for the gradient of `rows` rows that are read from `weight` itself, [rows, D]: it
        holds no numbers.
        """
        return self.weight.new_full((1, 1), math.nan).expand(rows, self.dim).requires_grad_()

    def update(
        self,
        local_rows: Tensor | slice,
        grad: Tensor,
        lr_factor: float = 1.0,
        order: Tensor | None = None,
        divisor: int = 1,
    ) -> None:
        """One step of the row-wise optimizer on distinct rows.

        Args:
            local_rows: [n] distinct; grad: [n, D]; lr_factor: the schedule's multiple of the
            learning rate; order: [n] in
            which the rows ascend, unless they do: memory gives neighbours faster; divisor: of the
            gradient.
        Source: Adam with a step count a row, so that a rarely seen row gets its own bias correction
        ("lazy" Adam); row-wise Adagrad keeps one number a row (arXiv:1903.12287).
        """
        lr = self.settings.learning_rate * lr_factor
        cpu_adam = self.settings.optimizer == "adam" and self.weight.device.type == "cpu"
        if divisor != 1 and not cpu_adam:
            grad = grad * (1 / divisor)
        if self.settings.optimizer == "adagrad":
            total = self.state["sum_sq"][local_rows] + grad.square().mean(1)
            self.state["sum_sq"][local_rows] = total
            self.weight[local_rows] -= lr * grad / (total.sqrt() + EPS)[:, None]
            return
        if cpu_adam:
            rows = np.arange(len(self)) if isinstance(local_rows, slice) else local_rows.numpy()
            content = (
                self.weight,
                self.state["exp_avg"],
                self.state["exp_avg_sq"],
                self.state["steps"],
            )
            arrays, grads = [x.numpy() for x in content], grad.contiguous().numpy()
            numbers = np.float32(lr), BETA1, BETA2, np.float32(EPS)
            known = _corrections(BETA1), _corrections(BETA2)
            factor = np.float32(1 / divisor)
            turns = None if order is None else order.numpy()
            shares = even_shares(len(rows), _LEAST)
            run_together(
                _adam_rows,
                [(*arrays, rows, grads, turns, *ends, factor, *numbers, *known) for ends in shares],
            )
            return
        step = self.state["steps"][local_rows] + 1
        exp_avg = self.state["exp_avg"][local_rows].lerp_(grad, 1 - BETA1)
        exp_avg_sq = (
            self.state["exp_avg_sq"][local_rows].mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        )
        self.state["steps"][local_rows] = step
        self.state["exp_avg"][local_rows] = exp_avg
        self.state["exp_avg_sq"][local_rows] = exp_avg_sq
        correction1 = (1 - BETA1 ** step.double()).float()[:, None]
        correction2 = (1 - BETA2 ** step.double()).float()[:, None]
        denominator = (exp_avg_sq / correction2).sqrt_().add_(EPS)
        self.weight[local_rows] -= lr * (exp_avg / correction1).div_(denominator)

    def rows(self) -> dict[str, Tensor]:
        """Weight and optimizer state of this shard, by name; first dimension is the shard's rows."""
        return {"weight": self.weight, **self.state}

    def load_rows(self, rows: dict[str, Tensor]) -> None:
        """Takes what `rows` gave, for the same row range."""
        self.weight.copy_(rows["weight"])
        for name, value in self.state.items():
            value.copy_(rows[name])


@cache
def _corrections(beta: float) -> FloatArray:
    """1 − βˢ for the first steps s of a row: powers cost as much as reading a row."""
    found: FloatArray = _one_minus_powers(beta, _KNOWN_STEPS)
    return found


@njit(cache=True)
def _one_minus_powers(beta, count):  # type: ignore[no-untyped-def]
    found = np.empty(count, np.float64)
    for s in range(count):
        found[s] = 1 - beta ** np.float64(s)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _adam_rows(  # type: ignore[no-untyped-def]
    weight,
    exp_avg,
    exp_avg_sq,
    steps,
    rows,
    grad,
    order,
    first,
    last,
    factor,
    lr,
    beta1,
    beta2,
    eps,
    known1,
    known2,
):
    """Adam of distinct rows in one pass over memory, `factor` times their gradients."""
    a1, a2, b2 = np.float32(1 - beta1), np.float32(1 - beta2), np.float32(beta2)
    stride = 4 * weight.shape[1]
    for turn in range(first, last):
        k = turn
        if order is not None:
            k = order[turn]
        if turn + _AHEAD < last:
            ahead = turn + _AHEAD
            if order is not None:
                ahead = order[ahead]
                fetch_row_ahead(grad.ctypes.data, stride, ahead)
            fetch_ahead(steps.ctypes.data + 8 * rows[ahead])
            fetch_row_ahead(weight.ctypes.data, stride, rows[ahead])
            fetch_row_ahead(exp_avg.ctypes.data, stride, rows[ahead])
            fetch_row_ahead(exp_avg_sq.ctypes.data, stride, rows[ahead])
        r = rows[k]
        steps[r] += 1
        s = steps[r]
        if s < len(known1):
            correction1, correction2 = known1[s], known2[s]
        else:
            correction1, correction2 = 1 - beta1 ** np.float64(s), 1 - beta2 ** np.float64(s)
        rate, root = np.float32(lr / correction1), np.float32(1 / np.sqrt(correction2))
        w, m, v, row = weight[r], exp_avg[r], exp_avg_sq[r], grad[k]
        for d in range(weight.shape[1]):
            g = row[d] * factor
            m[d] += a1 * (g - m[d])
            v[d] = b2 * v[d] + a2 * g * g
            w[d] -= rate * m[d] / (np.sqrt(v[d]) * root + eps)
