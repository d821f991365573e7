"""Triton kernels of draws and row-wise Adam. Their torch twins say what they compute.

Imported on CUDA alone (`triton_loader`). A program handles a block of rows; each constant of a
kernel is in capitals.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128  # rows of a program that draws
_PAIRS = 128  # pairs of a program that draws negatives
_ADAM_ELEMENTS = 2048  # elements of a program of Adam


@triton.jit
def _mix64(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _word(key, counter):  # type: ignore[no-untyped-def]
    return _mix64(key + _mix64(counter + 0x9E3779B97F4A7C15))


@triton.jit(do_not_specialize=["key", "count"])
def _draw_positions(  # type: ignore[no-untyped-def]
    ids, available, out, count, key, FAN_OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = row < count
    node = tl.load(ids + row, mask=inside, other=0).to(tl.uint64)
    left = tl.load(available + row, mask=inside, other=0)
    want = tl.minimum(left, FAN_OUT)
    draw = _word(key.to(tl.uint64), node)
    top = (left - want)[:, None] + column[None, :]
    word = _mix64(draw[:, None] + column.to(tl.uint64)[None, :] * 0x9E3779B97F4A7C15)
    position = (((word >> 32) * (top + 1).to(tl.uint64)) >> 32).to(tl.int64)
    position = tl.where((want == left)[:, None], column.to(tl.int64)[None, :], position)
    for j in range(1, FAN_OUT):
        own = tl.sum(tl.where(column[None, :] == j, position, 0), 1)
        same = (column[None, :] < j) & (position == own[:, None])
        seen = tl.max(same.to(tl.int32), 1) > 0
        position = tl.where((column[None, :] == j) & seen[:, None], top, position)
    at = row[:, None] * FAN_OUT + column[None, :]
    tl.store(out + at, position, mask=inside[:, None] & (column < FAN_OUT)[None, :])


def draw_positions(ids: Tensor, available: Tensor, fan_out: int, key: int) -> Tensor:
    """See `draws.draw_positions`; `key` as int64."""
    out = torch.empty(len(ids), fan_out, dtype=torch.int64, device=ids.device)
    width = triton.next_power_of_2(fan_out)
    rows = max(1, min(_ROWS, 4096 // width))
    grid = (triton.cdiv(len(ids), rows),)
    if len(ids):
        _draw_positions[grid](ids, available, out, len(ids), key, fan_out, width, rows)
    return out


@triton.jit(do_not_specialize=["key", "count", "drawn_from", "first", "pool_size"])
def _draw_unseen(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    users,
    samples,
    cumulated,
    drawn_from,
    first,
    pool,
    pool_size,
    out,
    count,
    key,
    NUM: tl.constexpr,
    ATTEMPTS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    at = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    inside = at < count
    pair, j = at // NUM, at % NUM
    user = tl.load(users + pair, mask=inside, other=0)
    base = _word(key.to(tl.uint64), tl.load(samples + pair, mask=inside, other=0).to(tl.uint64))
    start = tl.load(indptr + user, mask=inside, other=0)
    stop = tl.load(indptr + user + 1, mask=inside, other=0)
    item = tl.zeros([PAIRS], tl.int64)
    pending = inside
    attempt = 0
    while (attempt < ATTEMPTS) & (tl.max(pending.to(tl.int32), 0) > 0):
        counter = (j * ATTEMPTS + attempt).to(tl.uint64)
        word = _mix64(base + counter * 0x9E3779B97F4A7C15)
        uniform = (word >> 11).to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0)
        if pool_size > 0:
            place = tl.minimum((uniform * pool_size).to(tl.int64), pool_size - 1)
            drawn = tl.load(pool + place, mask=pending, other=0)
        else:
            # the number of chances that are not above
            low = tl.zeros([PAIRS], tl.int64)
            high = low + drawn_from
            while tl.max((low < high).to(tl.int32), 0) > 0:
                middle = (low + high) // 2
                open_ = low < high
                right = open_ & (tl.load(cumulated + middle, mask=open_, other=0.0) <= uniform)
                low = tl.where(right, middle + 1, low)
                high = tl.where(open_ & (right == 0), middle, high)
            drawn = tl.minimum(low, drawn_from - 1) + first
        item = tl.where(pending, drawn, item)
        low = start
        high = stop
        while tl.max((pending & (low < high)).to(tl.int32), 0) > 0:
            middle = (low + high) // 2
            open_ = pending & (low < high)
            right = open_ & (tl.load(indices + middle, mask=open_, other=0) < item)
            low = tl.where(right, middle + 1, low)
            high = tl.where(open_ & (right == 0), middle, high)
        last = pending & (low < stop)
        pending = last & (tl.load(indices + low, mask=last, other=-1) == item)
        attempt += 1
    tl.store(out + at, item, mask=inside)


def draw_unseen(
    indptr: Tensor,
    indices: Tensor,
    users: Tensor,
    samples: Tensor,
    pool: "Pool",  # type: ignore[name-defined]  # noqa: F821  # draws imports this module
    num: int,
    key: int,
    attempts: int,
) -> Tensor:
    """See `draws.draw_unseen`; `key` as int64."""
    out = torch.empty(len(users), num, dtype=torch.int64, device=users.device)
    count = out.numel()
    if count:
        _draw_unseen[(triton.cdiv(count, _PAIRS),)](
            indptr,
            indices,
            users,
            samples,
            pool.cumulated,
            len(pool.cumulated),
            pool.first,
            pool.items,
            len(pool.items),
            out,
            count,
            key,
            num,
            attempts,
            _PAIRS,
        )
    return out


@triton.jit(do_not_specialize=["count", "last"])
def _row_adam(  # type: ignore[no-untyped-def]
    weight,
    exp_avg,
    exp_avg_sq,
    steps,
    rows,
    grad,
    known1,
    known2,
    last,
    count,
    lr,
    factor,
    beta1_rest,
    beta2,
    beta2_rest,
    eps,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    ALL: tl.constexpr,
):
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = k < count
    row = k.to(tl.int64) if ALL else tl.load(rows + k, mask=inside, other=0)
    column = tl.arange(0, WIDTH)
    step = tl.load(steps + row, mask=inside, other=0) + 1
    tl.store(steps + row, step, mask=inside)
    known = tl.minimum(step, last)
    correction1 = tl.load(known1 + known, mask=inside, other=1.0)[:, None]
    correction2 = tl.load(known2 + known, mask=inside, other=1.0)[:, None]
    here = inside[:, None] & (column < DIM)[None, :]
    at = row[:, None] * DIM + column[None, :]
    g = tl.load(grad + k.to(tl.int64)[:, None] * DIM + column[None, :], mask=here, other=0.0)
    g = g * factor
    m = tl.load(exp_avg + at, mask=here, other=0.0)
    v = tl.load(exp_avg_sq + at, mask=here, other=0.0)
    w = tl.load(weight + at, mask=here, other=0.0)
    m = m + beta1_rest * (g - m)
    v = beta2 * v + beta2_rest * g * g
    tl.store(exp_avg + at, m, mask=here)
    tl.store(exp_avg_sq + at, v, mask=here)
    tl.store(weight + at, w - lr * (m / correction1) / (tl.sqrt(v / correction2) + eps), mask=here)


def row_adam(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: Tensor,
    rows: Tensor | None,
    grad: Tensor,
    corrections: tuple[Tensor, Tensor],
    lr: float,
    factor: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See `row_adam.row_adam`; without `rows` all are meant.

    Args:
        corrections: 1 − βˢ by step s, float32, up to one from which it no longer changes.
    """
    dim, count = weight.shape[1], len(weight) if rows is None else len(rows)
    width = triton.next_power_of_2(dim)
    block = max(1, _ADAM_ELEMENTS // width)
    if count:
        _row_adam[(triton.cdiv(count, block),)](
            weight,
            exp_avg,
            exp_avg_sq,
            steps,
            steps if rows is None else rows,
            grad,
            *corrections,
            len(corrections[0]) - 1,
            count,
            lr,
            factor,
            1 - betas[0],
            betas[1],
            1 - betas[1],
            eps,
            dim,
            width,
            block,
            rows is None,
        )
