"""A number that tells whether two sets of tensors hold the same bits, on any number of ranks.

Each row is hashed with its row number in the whole table; the hashes are added, over ranks too.
Against accidents, not against an adversary: for that, files have their sha256.
"""

import numpy as np
import torch
from numba import njit, uint8, uint64
from torch import Tensor

from recmind_dist.randomness import mix64, mix64_pair, stream_key

_CHUNK_ROWS = 65_536


def fingerprint_rows(rows: dict[str, Tensor], start: int) -> int:
    """The fingerprint of one rank's rows; add over ranks, modulo 2^64.

    Args:
        rows: name → [n, …]
        start: row number of the first row
    """
    total = 0
    for name, tensor in rows.items():
        for first in range(0, len(tensor), _CHUNK_ROWS):
            data = _row_bytes(tensor[first : first + _CHUNK_ROWS])
            total += int(_fold(data, start + first, stream_key(0, name)))
    return total & (1 << 64) - 1


def fingerprint_whole(tensors: dict[str, Tensor]) -> int:
    """The fingerprint of tensors that are not stored by row."""
    return fingerprint_rows({name: tensor.reshape(1, -1) for name, tensor in tensors.items()}, 0)


def _row_bytes(tensor: Tensor) -> np.ndarray:
    """Rows of any dtype, bfloat16 too. Shape: [n, bytes per row]."""
    flat = tensor.detach().cpu().reshape(len(tensor), tensor[:1].numel()).contiguous()
    return np.asarray(flat.view(torch.uint8).numpy())


@njit(uint64(uint8[:, ::1], uint64, uint64), cache=True, nogil=True)
def _fold(data, start, key):  # type: ignore[no-untyped-def]
    """Sum of the row hashes. Shape: data [n, bytes], uint8."""
    total = uint64(0)
    for row in range(data.shape[0]):
        hashed, word = mix64_pair(key, start + uint64(row)), uint64(0)
        for i in range(data.shape[1]):
            word = (word << uint64(8)) | uint64(data[row, i])
            if i % 8 == 7:
                hashed, word = mix64(hashed + word), uint64(0)
        total += mix64(hashed + word)
    return total
