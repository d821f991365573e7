"""External ids → codes from 0, batch by batch: a hash table over their bytes, since a log larger
than memory has too many.

A hash only says where to look; ids are told apart by their bytes, so no two share a code. The hash
is SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012) under a random key, so nobody can craft ids
that all fall on one slot. The key changes no code, as codes follow the order of first sight, and so
it is not kept.
"""

import secrets

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit, uint64

from recmind_dist.types import IntArray

_FIRST, _LOAD = (
    1 << 16,
    0.6,
)  # slots at the beginning; share of them in use before the table doubles
_SPARE = 1.5  # times the room that is needed, where room for ids runs out


class IdCodes:
    """Codes in order of first sight. Memory: 12 bytes a slot, 8 an id, and the ids themselves.

    Args:
        known: ids that get the codes 0, 1, … to begin with, all different.
    """

    def __init__(self, known: pl.Series | None = None) -> None:
        self._key = np.frombuffer(secrets.token_bytes(16), np.uint64)
        self._slots = np.full(_FIRST, -1, np.int32)
        self._hashes = np.empty(_FIRST, np.uint64)
        self._ends = np.zeros(1024, np.int64)  # the id of code c is _bytes[_ends[c] : _ends[c + 1]]
        self._bytes = np.empty(1 << 14, np.uint8)
        self.count = 0
        if known is not None:
            self.of(known)

    def of(self, ids: pl.Series) -> IntArray:
        """The code of each id (no null among them); new ids get new codes. Shape: as `ids`."""
        offsets, data = _bytes_of(ids)
        hashes = _hashes(offsets, data, self._key)
        while (self.count + len(ids)) > _LOAD * len(self._slots):
            if self.count + ids.n_unique() <= _LOAD * len(self._slots):
                break
            self._grow()
        self._ends = _with_room(self._ends, self.count + 1, len(ids))
        self._bytes = _with_room(self._bytes, self._ends[self.count], offsets[-1] - offsets[0])
        codes: IntArray
        codes, self.count = _look_up(
            self._slots, self._hashes, hashes, offsets, data, self._ends, self._bytes, self.count
        )
        return codes

    def names(self) -> pl.Series:
        """Ids in the order of their codes."""
        ends = self._ends[: self.count + 1]
        text = pa.py_buffer(self._bytes[: ends[-1]])
        column = pa.LargeStringArray.from_buffers(self.count, pa.py_buffer(ends), text)
        return pl.Series("id", column, pl.String)

    def _grow(self) -> None:
        used = self._slots >= 0
        codes, hashes = self._slots[used], self._hashes[used]
        self._slots = np.full(2 * len(self._slots), -1, np.int32)
        self._hashes = np.empty(len(self._slots), np.uint64)
        _place(self._slots, self._hashes, codes, hashes)


def _with_room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """The array, or a longer copy of what is used of it where `more` do not fit behind that."""
    if used + more <= len(array):
        return array
    longer = np.empty(int(_SPARE * (used + more)), array.dtype)
    longer[:used] = array[:used]
    return longer


def _bytes_of(ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and UTF-8 bytes of a text column."""
    column = ids.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return places, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


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
    """SipHash-2-4 of each text under a key of two words."""
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
def _look_up(slots, kept, hashes, offsets, data, ends, names, count):  # type: ignore[no-untyped-def]
    """Codes, and how many ids there are now; new ids are written behind those in `names`, their
    ends in `ends`.
    """
    mask = len(slots) - 1
    codes = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        start, length = offsets[i], offsets[i + 1] - offsets[i]
        at = np.int64(hashes[i] & uint64(mask))
        while slots[at] >= 0:
            code = slots[at]
            same = kept[at] == hashes[i] and ends[code + 1] - ends[code] == length
            for b in range(length if same else 0):
                same = same and names[ends[code] + b] == data[start + b]
            if same:
                break
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at], kept[at] = count, hashes[i]
            for b in range(length):
                names[ends[count] + b] = data[start + b]
            ends[count + 1] = ends[count] + length
            count += 1
        codes[i] = slots[at]
    return codes, count


@njit(cache=True, nogil=True)
def _place(slots, kept, codes, hashes):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    for i in range(len(codes)):
        at = np.int64(hashes[i] & uint64(mask))
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = codes[i]
        kept[at] = hashes[i]
