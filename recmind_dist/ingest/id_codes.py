"""External ids → codes from 0, batch by batch, for logs larger than memory: an open-addressing hash
table over the ids' bytes.

Ids are compared by their bytes, so no two share a code. The hash is SipHash-2-4 (Aumasson and
Bernstein, INDOCRYPT 2012) under a random key, so nobody can craft ids that all collide. Codes
follow the order of first occurrence and do not depend on the key.
"""

import secrets

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit, uint64

from recmind_dist.types import IntArray

_INITIAL_SLOTS = 1 << 16
_MAX_LOAD = 0.6  # share of slots in use before the table doubles
_GROWTH = 1.5  # capacity over need when an array of ids is reallocated


class IdCodes:
    """Codes in order of first occurrence. Memory: 12 bytes a slot, 8 an id, and the ids' bytes."""

    def __init__(self) -> None:
        self._key = np.frombuffer(secrets.token_bytes(16), np.uint64)
        self._slots = np.full(_INITIAL_SLOTS, -1, np.int32)
        self._slot_hashes = np.empty(_INITIAL_SLOTS, np.uint64)
        self._ends = np.zeros(1024, np.int64)  # the id of code c is _bytes[_ends[c] : _ends[c + 1]]
        self._bytes = np.empty(1 << 14, np.uint8)
        self.count = 0

    def of(self, ids: pl.Series) -> IntArray:
        """The code of each id; new ids get new codes. Shape: as `ids`, which has no null."""
        offsets, data = _bytes_of(ids)
        hashes = _hashes(offsets, data, self._key)
        if self.count + len(ids) > _MAX_LOAD * len(self._slots):
            distinct = ids.n_unique()
            while self.count + distinct > _MAX_LOAD * len(self._slots):
                self._grow()
        self._ends = _reserve(self._ends, self.count + 1, len(ids))
        self._bytes = _reserve(self._bytes, self._ends[self.count], offsets[-1] - offsets[0])
        table = self._slots, self._slot_hashes, self._ends, self._bytes, self.count
        codes: IntArray
        codes, self.count = _find_or_insert(*table, hashes, offsets, data)
        return codes

    def names(self) -> pl.Series:
        """Ids in the order of their codes."""
        ends = self._ends[: self.count + 1]
        text = pa.py_buffer(self._bytes[: ends[-1]])
        column = pa.LargeStringArray.from_buffers(self.count, pa.py_buffer(ends), text)
        return pl.Series("id", column, pl.String)

    def _grow(self) -> None:
        used = self._slots >= 0
        codes = self._slots[used]
        hashes = self._slot_hashes[used]
        self._slots = np.full(2 * len(self._slots), -1, np.int32)
        self._slot_hashes = np.empty(len(self._slots), np.uint64)
        _insert(self._slots, self._slot_hashes, codes, hashes)


def _reserve(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """An array with the first `used` elements of `array` and capacity for `more` behind them."""
    if used + more <= len(array):
        return array
    longer = np.empty(int(_GROWTH * (used + more)), array.dtype)
    longer[:used] = array[:used]
    return longer


def _bytes_of(ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and UTF-8 bytes of a text column."""
    column = ids.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    _, offsets, data = column.buffers()
    chosen = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return chosen, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


@njit(cache=True, nogil=True)
def _rotated(x, bits):  # type: ignore[no-untyped-def]
    return (x << uint64(bits)) | (x >> uint64(64 - bits))


@njit(cache=True, nogil=True)
def _round(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    v0, v2 = v0 + v1, v2 + v3
    v1, v3 = _rotated(v1, 13) ^ v0, _rotated(v3, 16) ^ v2
    v0, v2 = _rotated(v0, 32) + v3, v2 + v1
    v3, v1 = _rotated(v3, 21) ^ v0, _rotated(v1, 17) ^ v2
    return v0, v1, _rotated(v2, 32), v3


@njit(cache=True, nogil=True)
def _hashes(offsets, data, key):  # type: ignore[no-untyped-def]
    """SipHash-2-4 of each text under a key of two 64-bit words."""
    out = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(out)):
        v0, v1 = key[0] ^ uint64(0x736F6D6570736575), key[1] ^ uint64(0x646F72616E646F6D)
        v2, v3 = key[0] ^ uint64(0x6C7967656E657261), key[1] ^ uint64(0x7465646279746573)
        word, filled = uint64(0), 0
        for b in range(offsets[i], offsets[i + 1]):
            word |= uint64(data[b]) << uint64(8 * filled)
            filled += 1
            if filled == 8:
                v3 ^= word
                v0, v1, v2, v3 = _round(v0, v1, v2, v3)
                v0, v1, v2, v3 = _round(v0, v1, v2, v3)
                v0 ^= word
                word, filled = uint64(0), 0
        word |= uint64(offsets[i + 1] - offsets[i]) << uint64(56)
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
        v2 ^= uint64(0xFF)
        for _ in range(4):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        out[i] = v0 ^ v1 ^ v2 ^ v3
    return out


@njit(cache=True, nogil=True)
def _find_or_insert(slots, slot_hashes, ends, names, count, hashes, offsets, data):  # type: ignore[no-untyped-def]
    """Returns codes and the new `count`; bytes of new ids are appended to `names`."""
    mask = len(slots) - 1
    codes = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        start, length = offsets[i], offsets[i + 1] - offsets[i]
        at = np.int64(hashes[i] & uint64(mask))
        while slots[at] >= 0:
            code = slots[at]
            same = slot_hashes[at] == hashes[i] and ends[code + 1] - ends[code] == length
            for b in range(length if same else 0):
                same = same and names[ends[code] + b] == data[start + b]
            if same:
                break
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at] = count
            slot_hashes[at] = hashes[i]
            for b in range(length):
                names[ends[count] + b] = data[start + b]
            ends[count + 1] = ends[count] + length
            count += 1
        codes[i] = slots[at]
    return codes, count


@njit(cache=True, nogil=True)
def _insert(slots, slot_hashes, codes, hashes):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    for i in range(len(codes)):
        at = np.int64(hashes[i] & uint64(mask))
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = codes[i]
        slot_hashes[at] = hashes[i]
