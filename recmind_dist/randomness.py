"""Randomness as a pure function: every draw is a hash of (seed, stream, counters), never of rank,
world size or time.

So a batch, a block or an initial row does not depend on who made it, or on how often the run was
resumed. The mixer is splitmix64's finaliser (Steele et al., OOPSLA 2014), two rounds where streams
are joined.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numba import njit, uint64

from recmind_dist.types import FloatArray, IntArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1
_BLOCK_ROWS = 1 << 15


@njit(uint64(uint64), inline="always", cache=True)  # type: ignore[untyped-decorator]
def mix64(x: int) -> int:
    """Splitmix64's finaliser: a bijection of 64-bit words that leaves no visible structure."""
    x = uint64(x)
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    mixed: int = x ^ (x >> uint64(31))
    return mixed


@njit(uint64(uint64, uint64), inline="always", cache=True)  # type: ignore[untyped-decorator]
def mix64_pair(key: int, counter: int) -> int:
    """The draw at `counter` of the stream `key`."""
    draw: int = mix64(uint64(key) + mix64(uint64(counter) + uint64(0x9E3779B97F4A7C15)))
    return draw


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def stream_key(seed: int, name: str, *counters: int) -> int:
    """The 64-bit key of the stream `name` at these counters (epoch, step, hop, …)."""
    data = name.encode()
    name_words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    key = seed & _MASK
    # the length keeps names and counters apart
    for word in [len(data), *name_words, *(c & _MASK for c in counters)]:
        key = int(mix64_pair(key, word))
    return key


def words(key: int, counters: IntArray) -> np.ndarray:
    """uint64 draws of stream `key`, one a counter. Shape: as `counters`."""
    with np.errstate(over="ignore"):
        return _mix(np.uint64(key) + _mix(counters.astype(np.uint64) + _GOLDEN))


def uniforms(key: int, counters: IntArray) -> np.ndarray:
    """float64 draws in [0, 1), one a counter."""
    return (words(key, counters) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def integers(key: int, counters: IntArray, high: int) -> IntArray:
    """int64 draws in [0, high), one a counter (bias below high / 2^53)."""
    return np.minimum((uniforms(key, counters) * high).astype(np.int64), high - 1)


def uniform_rows(key: int, rows: IntArray, dim: int) -> FloatArray:
    """Rows of draws in [0, 1], each a function of its own row number alone: `uniforms`, rounded.
    Shape: [len(rows), dim].
    """
    out = np.empty((len(rows), dim), np.float32)
    _fill_uniform(np.uint64(key), rows, out)
    return out


def normals(key: int, rows: IntArray, dim: int) -> FloatArray:
    """Standard normal rows, each a function of its own row number alone. Shape: [len(rows), dim],
    float32.
    """
    out = np.empty((len(rows), dim), np.float32)
    angle_key = stream_key(key, "angle")
    # counters and both draws of all rows would be six times the rows
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        counters = (
            rows[block].astype(np.int64)[:, None] * dim + np.arange(dim, dtype=np.int64)[None, :]
        )
        radius = np.sqrt(-2.0 * np.log(1.0 - uniforms(key, counters)))
        out[block] = radius * np.cos(2.0 * np.pi * uniforms(angle_key, counters))
    return out


@contextmanager
def torch_seeded(key: int) -> Iterator[None]:
    """torch's CPU generator drawing from stream `key`; afterwards it stands where it stood before.

    Only for what takes no generator of its own, and only in the training thread: torch's generator
    is one for the whole process.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key & 0x7FFF_FFFF_FFFF_FFFF)
        yield


class Permutation:
    """A keyed shuffle of range(n) that is evaluated point by point, in no memory: a Feistel network
    with cycle walking.

    Args:
        n: length.
        key: any 64-bit stream key.
    """

    ROUNDS = 6

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        self.key = key
        self.half_bits = max(1, (max(n - 1, 1).bit_length() + 1) // 2)

    @property
    def round_keys(self) -> list[int]:
        """64-bit stream keys of the network's rounds."""
        return [stream_key(self.key, "round", i) for i in range(self.ROUNDS)]

    def __call__(self, positions: IntArray) -> IntArray:
        """Where each position of [0, n) goes. Shape: as `positions`."""
        keys = np.array(self.round_keys, np.uint64)
        out: IntArray = _permuted(
            np.ascontiguousarray(positions, np.int64).ravel(), self.n, self.half_bits, keys
        )
        return out.reshape(positions.shape)


@njit(cache=True, nogil=True)
def _permuted(positions, n, half_bits, keys):  # type: ignore[no-untyped-def]
    bits, mask = np.uint64(half_bits), (np.uint64(1) << np.uint64(half_bits)) - np.uint64(1)
    out = np.empty(len(positions), np.int64)
    for k in range(len(positions)):
        x = np.uint64(positions[k])
        while True:  # until it falls inside: a walk along a cycle of the network
            left, right = x >> bits, x & mask
            for r in range(len(keys)):
                left, right = right, left ^ (mix64_pair(keys[r], right) & mask)
            x = (left << bits) | right
            if x < np.uint64(n):
                break
        out[k] = np.int64(x)
    return out


@njit(cache=True, nogil=True)
def _fill_uniform(key, rows, out):  # type: ignore[no-untyped-def]
    dim = np.uint64(out.shape[1])
    for k in range(len(rows)):
        for d in range(out.shape[1]):
            word = mix64_pair(key, np.uint64(rows[k]) * dim + np.uint64(d))
            out[k, d] = np.float64(word >> np.uint64(11)) * (1.0 / (1 << 53))
