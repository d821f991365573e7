"""Row-wise Adam as a Triton kernel. Its torch twin (`row_adam.row_adam_torch`) says what it
computes.

Imported on CUDA alone (`triton_loader`). A program handles a block of rows.
"""

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048  # elements of a program


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
    IN_MEMORY: tl.constexpr,
):
    if IN_MEMORY:
        count = tl.load(count)
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
    num_valid: Tensor | None = None,
) -> None:
    """See `row_adam.row_adam`; without `rows` all are meant.

    Args:
        num_valid: [1] int64, how many of `rows` are meant; None: all.
        corrections: 1 − βˢ by step s, float32, up to one from which it no longer changes.
    """
    dim, count = weight.shape[1], len(weight) if rows is None else len(rows)
    width = triton.next_power_of_2(dim)
    block = max(1, _ELEMENTS // width)
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
            count if num_valid is None else num_valid,
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
            num_valid is not None,
        )
