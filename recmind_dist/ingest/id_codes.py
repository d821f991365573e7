"""External ids → codes from 0, batch by batch: a hash table over their bytes, since a log larger than memory has too many.

Two 64-bit hashes of an id stand for it: of a billion ids two would be taken for one with a chance below 10^-19.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit, uint64

from recmind_dist.randomness import mix64
from recmind_dist.types import IntArray

_FIRST, _LOAD = 1 << 16, 0.6  # slots at the beginning; share of them in use before the table doubles


class IdCodes:
    """Codes in order of first sight. Memory: 20 bytes a slot, and the ids themselves.

    Args:
        known: ids that get the codes 0, 1, … to begin with, all different.
    """

    def __init__(self, known: pl.Series | None = None) -> None:
        self._slots = np.full(_FIRST, -1, np.int32)
        self._hashes = np.empty((_FIRST, 2), np.uint64)
        self._names: list[pl.Series] = []
        self.count = 0
        if known is not None:
            self.of(known)

    def of(self, ids: pl.Series) -> IntArray:
        """The code of each id (no null among them); new ids get new codes. Shape: as `ids`."""
        offsets, data = _bytes_of(ids)
        hashes = _hashes(offsets, data)
        while (self.count + len(ids)) > _LOAD * len(self._slots):
            distinct = self.count + len(np.unique(hashes[:, 0]))
            if distinct <= _LOAD * len(self._slots):
                break
            self._grow()
        codes: IntArray
        codes, fresh = _look_up(self._slots, self._hashes, hashes, self.count)
        self.count += len(fresh)
        if len(fresh):
            self._names.append(ids.gather(fresh))
        return codes

    def names(self) -> pl.Series:
        """Ids in the order of their codes."""
        return pl.concat(self._names) if self._names else pl.Series("id", [], pl.String)

    def _grow(self) -> None:
        used = self._slots >= 0
        codes, hashes = self._slots[used], self._hashes[used]
        self._slots = np.full(2 * len(self._slots), -1, np.int32)
        self._hashes = np.empty((len(self._slots), 2), np.uint64)
        _place(self._slots, self._hashes, codes, hashes)


def _bytes_of(ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and UTF-8 bytes of a text column."""
    column = ids.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return places, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


@njit(cache=True, nogil=True)
def _hashes(offsets, data):  # type: ignore[no-untyped-def]
    """Two hashes of each text: eight bytes at a time through the mixer, under two keys."""
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    for i in range(len(offsets) - 1):
        length = offsets[i + 1] - offsets[i]
        first, second = mix64(uint64(length) + uint64(0x5851F42D4C957F2D)), mix64(uint64(length))
        word, filled = uint64(0), 0
        for b in range(offsets[i], offsets[i + 1]):
            word |= uint64(data[b]) << uint64(8 * filled)
            filled += 1
            if filled == 8:
                first = mix64(first ^ word)
                second = mix64(second + word * uint64(0x9E3779B97F4A7C15))
                word, filled = uint64(0), 0
        out[i, 0] = mix64(first ^ word)
        out[i, 1] = mix64(second + word * uint64(0x9E3779B97F4A7C15))
    return out


@njit(cache=True, nogil=True)
def _look_up(slots, kept, hashes, count):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    codes = np.empty(len(hashes), np.int64)
    fresh = np.empty(len(hashes), np.int64)
    new = 0
    for i in range(len(hashes)):
        at = np.int64(hashes[i, 0] & uint64(mask))
        while slots[at] >= 0 and (kept[at, 0] != hashes[i, 0] or kept[at, 1] != hashes[i, 1]):
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at] = count + new
            kept[at, 0], kept[at, 1] = hashes[i, 0], hashes[i, 1]
            fresh[new] = i
            new += 1
        codes[i] = slots[at]
    return codes, fresh[:new].copy()


@njit(cache=True, nogil=True)
def _place(slots, kept, codes, hashes):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    for i in range(len(codes)):
        at = np.int64(hashes[i, 0] & uint64(mask))
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = codes[i]
        kept[at, 0], kept[at, 1] = hashes[i, 0], hashes[i, 1]
