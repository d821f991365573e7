"""Draws of neighbours and negatives on any device: Triton on CUDA, and its torch twin.

Both make what the compiled loops of `sampling` make, bit for bit.

Legend: n rows, F fan-out, b pairs, K negatives of a pair, E entries of the CSR arrays.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recmind_dist.kernels import random_words
from recmind_dist.kernels.triton_modules import triton_ops

ATTEMPTS = 64
"""Draws that may hit a positive before the last of them is taken."""


@dataclass(frozen=True)
class Pool:
    """What negatives are drawn from: `items`, each with equal chance, or all items by `cumulated`.

    Attributes:
        cumulated: [items] float64, cumulated chances; not read where `items` has any.
        first: id of the first of those items.
        items: [P] int64.
    """

    cumulated: Tensor
    first: int
    items: Tensor

    def at(self, uniform: Tensor) -> Tensor:
        """The items at these places in [0, 1). Shape: as `uniform`, int64."""
        if len(self.items):
            place = (uniform * len(self.items)).long()
            return self.items[place.clamp_(max=len(self.items) - 1)]
        drawn = torch.searchsorted(self.cumulated, uniform, right=True)
        return drawn.clamp_(max=len(self.cumulated) - 1) + self.first


def draw_positions(ids: Tensor, available: Tensor, fan_out: int, key: int | Tensor) -> Tensor:
    """Floyd's draw of min(F, available) distinct numbers in [0, available), for each row.

    Args:
        ids: [n] int64 global ids; with `key` they determine the draw.
        available: [n] int64.
        fan_out: F > 0.
        key: 64-bit stream key.

    Returns: [n, F] int64; what is right of a row's count is undefined.
    """
    column = torch.arange(fan_out, device=ids.device)
    want = available.clamp(max=fan_out)
    top = (available - want)[:, None] + column
    golden = random_words.signed(random_words.GOLDEN)
    word = random_words.mix64(random_words.words(key, ids)[:, None] + column * golden)
    position = (((word >> 32) & 0xFFFF_FFFF) * (top + 1) >> 32) & 0xFFFF_FFFF
    position = torch.where((want == available)[:, None], column, position)
    for j in range(1, fan_out):
        seen = (position[:, :j] == position[:, j : j + 1]).any(1)
        position[:, j] = torch.where(seen, top[:, j], position[:, j])
    return position


def draw_unseen(
    indptr: Tensor,
    indices: Tensor,
    users: Tensor,
    samples: Tensor,
    pool: Pool,
    num: int,
    key: int | Tensor,
) -> Tensor:
    """Items that are not among a user's: draw j of sample s is a function of (key, s, j).

    Args:
        indptr: [rows + 1] int64.
        indices: [E] ascending in a row.
        users: [b] rows.
        samples: [b] counters of the pairs.
        num: K.
        key: 64-bit stream key; in memory as int64.

    Returns: [b, K] int64.
    """
    ops = triton_ops(users.device)
    if ops is not None:
        word = key if isinstance(key, Tensor) else random_words.signed(key)
        given = indptr, indices, users, samples, pool, num, word
        drawn: Tensor = ops.draw_unseen(*given, ATTEMPTS)
        return drawn
    return draw_unseen_torch(indptr, indices, users, samples, pool, num, key)


def draw_unseen_torch(
    indptr: Tensor,
    indices: Tensor,
    users: Tensor,
    samples: Tensor,
    pool: Pool,
    num: int,
    key: int | Tensor,
) -> Tensor:
    """As `draw_unseen`, in torch operations."""
    golden = random_words.signed(random_words.GOLDEN)
    base = random_words.words(key, samples).repeat_interleave(num)
    first = torch.arange(num, device=users.device).repeat(len(users)) * ATTEMPTS
    row, items = users.repeat_interleave(num), torch.zeros_like(base)
    pending = torch.arange(len(base), device=users.device)
    for attempt in range(ATTEMPTS):
        word = random_words.mix64(base[pending] + (first[pending] + attempt) * golden)
        items[pending] = pool.at(random_words.uniforms_of_words(word))
        pending = pending[is_among(indptr, indices, row[pending], items[pending])]
        if not len(pending):
            break
    return items.view(len(users), num)


def is_among(indptr: Tensor, indices: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Whether values[k] is in row rows[k], by bisection. Shape: as `rows`, bool."""
    low, stop = indptr[rows], indptr[rows + 1]
    high = stop.clone()
    for _ in range(int((stop - low).max() + 1).bit_length() if len(rows) else 0):
        middle = (low + high) >> 1
        right = (low < high) & (indices[middle.clamp(max=len(indices) - 1)] < values)
        low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
    found = indices[low.clamp(max=len(indices) - 1)] == values
    return (low < stop) & found
