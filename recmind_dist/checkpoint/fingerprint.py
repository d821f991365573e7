"""A number that says whether two sets of tensors hold the same bits, however their rows are dealt
to ranks.

Each row is hashed with its number in the whole table, and the hashes are added: ranks add theirs up
to the same sum on
any number of them. Against accidents and our own mistakes, not against an adversary: files have
their sha256 for that.
"""

import numpy as np
import torch
from numba import njit, uint8, uint64
from torch import Tensor

from recmind_dist.randomness import mix64, mix64_pair, stream_key

_CHUNK_ROWS = 65_536


def fingerprint_rows(rows: dict[str, Tensor], start: int) -> int:
    """Of one rank's share: add over ranks, modulo 2^64. Args: rows: name → [n, …]; start: number of
    the first row.
    """
    total = 0
    for name, tensor in rows.items():
        for first in range(0, len(tensor), _CHUNK_ROWS):
            total += int(
                _fold(
                    _words(tensor[first : first + _CHUNK_ROWS]), start + first, stream_key(0, name)
                )
            )
    return total & (1 << 64) - 1


def fingerprint_whole(tensors: dict[str, Tensor]) -> int:
    """Of tensors that are not by row."""
    return fingerprint_rows({name: tensor.reshape(1, -1) for name, tensor in tensors.items()}, 0)


def _words(tensor: Tensor) -> np.ndarray:
    """The bytes of each row, as bytes: rows of any dtype, bfloat16 too. Shape: [n, bytes a row]."""
    flat = tensor.detach().cpu().reshape(len(tensor), tensor[:1].numel()).contiguous()
    data: np.ndarray = flat.view(torch.uint8).numpy()
    return data


@njit(uint64(uint8[:, ::1], uint64, uint64), cache=True, nogil=True)
def _fold(data, start, key):  # type: ignore[no-untyped-def]
    """Sum of the rows' hashes. data: uint8 [n, bytes]."""
    total = uint64(0)
    for row in range(data.shape[0]):
        hashed, word = mix64_pair(key, start + uint64(row)), uint64(0)
        for place in range(data.shape[1]):
            word = (word << uint64(8)) | uint64(data[row, place])
            if place % 8 == 7:
                hashed, word = mix64(hashed + word), uint64(0)
        total += mix64(hashed + word)
    return total
