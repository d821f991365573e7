"""One step of Adam on distinct rows, in place, with a step count for each row.

A rarely seen row so gets its own bias correction ("lazy" Adam).

Legend: R rows of the table, n rows updated, D columns.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.kernels.cache_prefetch import fetch_ahead, fetch_row_ahead
from recmind_dist.kernels.threads import even_shares, run_together
from recmind_dist.kernels.triton_modules import triton_adam
from recmind_dist.types import FloatArray

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults
_LEAST = 4096  # rows worth a thread
_KNOWN_STEPS = 1 << 16  # half a megabyte a table; only a row of every step gets that far
_AHEAD = 16  # rows whose memory is fetched before they are reached


@dataclass(frozen=True)
class AdamRows:
    """Rows and their optimizer state: [R, D] float32, `steps` [R] int64."""

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor


def row_adam(
    table: AdamRows,
    rows: Tensor | slice,
    grad: Tensor,
    lr: float,
    order: Tensor | None = None,
    divisor: int = 1,
    num_valid: Tensor | None = None,
) -> None:
    """One step on some rows of the table.

    Args:
        rows: [n] distinct, or slice(None) for all.
        num_valid: [1] how many of `rows` are meant, the first ones; None: all.
        grad: [n, D].
        order: [n] order in which `rows` ascend, if they do not: neighbours in memory are faster.
        divisor: of the gradient.
    """
    if table.weight.device.type != "cpu":
        _row_adam_on_device(table, rows, grad, lr, divisor, num_valid)
        return
    if num_valid is not None:
        assert not isinstance(rows, slice)
        rows, grad, order = rows[: int(num_valid)], grad[: int(num_valid)], None
    arrays = [x.numpy() for x in (table.weight, table.exp_avg, table.exp_avg_sq, table.steps)]
    rows_n = np.arange(len(table.weight)) if isinstance(rows, slice) else rows.numpy()
    order_n = None if order is None else order.numpy()
    given = (*arrays, rows_n, grad.contiguous().numpy(), order_n)
    numbers = (np.float32(1 / divisor), np.float32(lr), BETA1, BETA2, np.float32(EPS))
    tables = (_corrections(BETA1), _corrections(BETA2))
    shares = even_shares(len(rows_n), _LEAST)
    run_together(_row_adam, [(*given, *share, *numbers, *tables) for share in shares])


def _row_adam_on_device(
    table: AdamRows,
    rows: Tensor | slice,
    grad: Tensor,
    lr: float,
    divisor: int,
    num_valid: Tensor | None = None,
) -> None:
    """As `row_adam`, on other devices than a CPU."""
    ops = triton_adam(table.weight.device)
    if ops is None or table.weight.dtype != torch.float32:
        if num_valid is not None:
            assert not isinstance(rows, slice)
            rows, grad = rows[: int(num_valid)], grad[: int(num_valid)]
        row_adam_torch(table, rows, grad * (1 / divisor) if divisor != 1 else grad, lr)
        return
    state = table.weight, table.exp_avg, table.exp_avg_sq, table.steps
    distinct = None if isinstance(rows, slice) else rows
    known = _corrections_on(BETA1, grad.device), _corrections_on(BETA2, grad.device)
    numbers = lr, 1 / divisor, (BETA1, BETA2), EPS
    ops.row_adam(*state, distinct, grad.contiguous(), known, *numbers, num_valid)


@cache
def _corrections_on(beta: float, device: torch.device) -> Tensor:
    """As `_corrections`, float32: from its last one on they are 1."""
    return torch.from_numpy(_corrections(beta).astype(np.float32)).to(device)


def row_adam_torch(table: AdamRows, rows: Tensor | slice, grad: Tensor, lr: float) -> None:
    """As `row_adam`, in torch operations: the twin of the compiled loop, for other devices."""
    steps = table.steps[rows] + 1
    exp_avg = table.exp_avg[rows].lerp_(grad, 1 - BETA1)
    exp_avg_sq = table.exp_avg_sq[rows].mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
    table.steps[rows] = steps
    table.exp_avg[rows] = exp_avg
    table.exp_avg_sq[rows] = exp_avg_sq
    correction1 = (1 - BETA1 ** steps.double()).float()[:, None]
    correction2 = (1 - BETA2 ** steps.double()).float()[:, None]
    denominator = (exp_avg_sq / correction2).sqrt_().add_(EPS)
    table.weight[rows] -= lr * (exp_avg / correction1).div_(denominator)


@cache
def _corrections(beta: float) -> FloatArray:
    """1 − βˢ of the first steps s: a power costs as much as reading a row."""
    found: FloatArray = _one_minus_powers(beta, _KNOWN_STEPS)
    return found


@njit(cache=True)
def _one_minus_powers(beta, count):  # type: ignore[no-untyped-def]
    found = np.empty(count, np.float64)
    for s in range(count):
        found[s] = 1 - beta ** np.float64(s)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _row_adam(  # type: ignore[no-untyped-def]
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
