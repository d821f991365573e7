"""The torch twins of `randomness`: the same words, bit for bit, on any device.

int64 stands for 64-bit words: sums and products wrap alike, right shifts are made logical.
"""

from torch import Tensor

from recmind_dist.randomness import Permutation

GOLDEN = 0x9E3779B97F4A7C15


def signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def mix64(x: Tensor) -> Tensor:
    """See `randomness.mix64`. Shape: as `x`, int64."""
    x = (x ^ _right(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ _right(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ _right(x, 31)


def words(key: int | Tensor, counters: Tensor) -> Tensor:
    """See `randomness.words`. Shape: as `counters`, int64.

    Args:
        key: 64 bits; in memory as int64.
    """
    added = key if isinstance(key, Tensor) else signed(key)
    return mix64(mix64(counters + signed(GOLDEN)) + added)


def uniforms_of_words(word: Tensor) -> Tensor:
    """Words as float64 in [0, 1). Shape: as `word`."""
    return _right(word, 11).double() * (1.0 / (1 << 53))


def uniforms(key: int, counters: Tensor) -> Tensor:
    """See `randomness.uniforms`. Shape: as `counters`, float64."""
    return uniforms_of_words(words(key, counters))


def permuted(positions: Tensor, n: int, key: int) -> Tensor:
    """`randomness.Permutation(n, key)` at these positions. Shape: as `positions`, int64.

    The host waits a few times, until no position is outside [0, n).
    """
    network = Permutation(n, key)
    out = _feistel(positions, network)
    outside = (out >= n).nonzero().squeeze(1)
    while len(outside):
        walked = _feistel(out[outside], network)
        out[outside] = walked
        outside = outside[walked >= n]
    return out


def _feistel(x: Tensor, network: Permutation) -> Tensor:
    half_bits = network.half_bits
    mask = (1 << half_bits) - 1
    left, right = x >> half_bits, x & mask
    for key in network.round_keys:
        left, right = right, left ^ (words(key, right) & mask)
    return (left << half_bits) | right


def _right(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
