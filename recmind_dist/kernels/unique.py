"""Distinct ids and the position of each id among them, without a sort.

Legend: n ids, u of them distinct.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.types import IntArray

_SPARSE = 2048  # in a range this many times larger than the ids, sorting is faster than bits


def unique_inverse(ids: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """`np.unique(ids, return_inverse=True)` of ids in [0, size), with one bit for each possible id.

    Args:
        ids: [n].
        size: above every id.

    Returns: ascending distinct ids, int64 [u], and the position of each id, int64 [n].
    """
    if size > _SPARSE * max(len(ids), 1):
        found, inverse = np.unique(ids, return_inverse=True)
        return found.astype(np.int64), inverse.astype(np.int64)
    bits = np.zeros(size // 64 + 1, np.uint64)
    before = np.empty(len(bits), np.int64)
    found = np.empty(_mark(ids, bits, before), np.int64)
    _list(bits, found)
    return found, _inverse(ids, bits, before)


def unique_inverse_torch(ids: Tensor, size: int, below: int = 0) -> tuple[Tensor, Tensor, int]:
    """As `unique_inverse` on any device, without a sort; the host waits once.

    Args:
        ids: [n].
        size: as `unique_inverse`.

    Returns: as `unique_inverse`, and how many of the distinct ids are less than `below`.
    """
    marked = torch.zeros(size, dtype=torch.bool, device=ids.device)
    marked[ids] = True
    place = torch.cumsum(marked, 0)
    last = [place[-1], place[below - 1] if below else place.new_zeros(())]
    count, num_below = torch.stack(last).tolist()
    place -= 1
    found = torch.empty(count + 1, dtype=torch.int64, device=ids.device)
    # ids that do not occur are written to the end, which is cut off
    every = torch.arange(size, device=ids.device)
    found[torch.where(marked, place, count)] = every
    return found[:count], place[ids], num_below


@njit(cache=True, nogil=True)
def _mark(ids, bits, before):  # type: ignore[no-untyped-def]
    """Sets the bits; `before` gets the number of bits in the words before. Returns their total."""
    for k in range(len(ids)):
        bits[ids[k] >> 6] |= np.uint64(1) << np.uint64(ids[k] & 63)
    total = 0
    for word in range(len(bits)):
        before[word] = total
        total += _ones(bits[word])
    return total


@njit(cache=True, nogil=True)
def _list(bits, found):  # type: ignore[no-untyped-def]
    at = 0
    for word in range(len(bits)):
        left = bits[word]
        while left:
            lowest = left & (~left + np.uint64(1))
            found[at] = 64 * word + _ones(lowest - np.uint64(1))
            left ^= lowest
            at += 1


@njit(cache=True, nogil=True)
def _inverse(ids, bits, before):  # type: ignore[no-untyped-def]
    out = np.empty(len(ids), np.int64)
    for k in range(len(ids)):
        word = ids[k] >> 6
        lower = (np.uint64(1) << np.uint64(ids[k] & 63)) - np.uint64(1)
        out[k] = before[word] + _ones(bits[word] & lower)
    return out


@njit(cache=True, nogil=True, inline="always")
def _ones(x):  # type: ignore[no-untyped-def]
    """Number of bits set. Source: Warren, Hacker's Delight, fig. 5-2."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
