"""Distinct ids and the place of each among them, without a sort.

Legend: n ids, u of them distinct.
"""

import numpy as np
from numba import njit

from recmind_dist.types import IntArray

_SPARSE = 2048  # ids in a range so many times as large are sorted sooner than its bits are counted


def unique_inverse(ids: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """`np.unique(ids, return_inverse=True)` of ids in [0, size), by a bit for each id there could
    be.

    Args:
        ids: [n].
    Returns: distinct ids ascending, int64 [u], and the place of each id among them, int64 [n].
    """
    if size > _SPARSE * max(len(ids), 1):
        found, places = np.unique(ids, return_inverse=True)
        return found.astype(np.int64), places.astype(np.int64)
    bits = np.zeros(size // 64 + 1, np.uint64)
    before = np.empty(len(bits), np.int64)
    found = np.empty(_mark(ids, bits, before), np.int64)
    _list(bits, found)
    return found, _places(ids, bits, before)


@njit(cache=True, nogil=True)
def _mark(ids, bits, before):  # type: ignore[no-untyped-def]
    """Sets the bits, and counts those of the words before each; returns how many there are."""
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
def _places(ids, bits, before):  # type: ignore[no-untyped-def]
    out = np.empty(len(ids), np.int64)
    for k in range(len(ids)):
        word = ids[k] >> 6
        lower = (np.uint64(1) << np.uint64(ids[k] & 63)) - np.uint64(1)
        out[k] = before[word] + _ones(bits[word] & lower)
    return out


@njit(cache=True, nogil=True, inline="always")
def _ones(x):  # type: ignore[no-untyped-def]
    """Bits that are set. Source: Warren, Hacker's Delight, fig. 5-2."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
