"""Copies and sums of rows, by index at the source and at the target, without a tensor in between.

Legend: n rows moved, C columns.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.kernels.prefetch import fetch_row_ahead

_AHEAD = 32  # rows whose memory is fetched before they are reached


def place_rows(out: Tensor, to: Tensor | None, source: Tensor, of: Tensor | None = None) -> None:
    """`out[to[k]] = source[of[k]]`; an index that is None stands for k itself.

    Args:
        out: [.., C] contiguous.
        to: [n] distinct.
        source: [.., C] contiguous.
        of: [n].
    """
    if _on_numpy(out, source):
        indices = (None if index is None else index.numpy() for index in (to, of))
        _place(out.numpy(), source.numpy(), *indices)
    else:
        taken = source if of is None else source.index_select(0, of)
        out[slice(len(taken)) if to is None else to] = taken


def sums_by_row(rows: int, parts: list[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
    """`out[to[k]] = Σ source[of[k]]`, [rows, C]: part by part and, on the CPU, in the order of k.

    Args:
        parts: (to, source, of) of shapes [n], [.., C] contiguous, [n]; None as in `place_rows`.
    """
    like = parts[0][1]
    if _on_numpy(*(source for _, source, _ in parts)):
        out, met = like.new_empty(rows, like.shape[1]), np.zeros(rows, np.bool_)
        for to, source, of in parts:
            _add(out.numpy(), met, to.numpy(), source.numpy(), None if of is None else of.numpy())
        if not met.all():
            out[torch.from_numpy(~met)] = 0.0
        return out
    out = like.new_zeros(rows, like.shape[1])
    for to, source, of in parts:
        out.index_add_(0, to, source if of is None else source.index_select(0, of))
    return out


def _on_numpy(*tensors: Tensor) -> bool:
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


@njit(cache=True, nogil=True)
def _place(out, source, to, of):  # type: ignore[no-untyped-def]
    address, stride = source.ctypes.data, 4 * source.shape[1]
    count = len(to) if to is not None else len(of) if of is not None else len(source)
    for k in range(count):
        s, t = k, k
        if of is not None:
            s = of[k]
            if k + _AHEAD < count:
                fetch_row_ahead(address, stride, of[k + _AHEAD])
        if to is not None:
            t = to[k]
        target, row = out[t], source[s]
        for c in range(len(row)):
            target[c] = row[c]


@njit(cache=True, nogil=True)
def _add(out, met, to, source, of):  # type: ignore[no-untyped-def]
    """Assigns the first term of a row, so `out` need not be zero before."""
    address, stride = out.ctypes.data, 4 * out.shape[1]
    given = source.ctypes.data
    for k in range(len(to)):
        s = k
        if of is not None:
            s = of[k]
        if k + _AHEAD < len(to):
            fetch_row_ahead(address, stride, to[k + _AHEAD])
            if of is not None:
                fetch_row_ahead(given, stride, of[k + _AHEAD])
        target, row = out[to[k]], source[s]
        if met[to[k]]:
            for c in range(len(row)):
                target[c] += row[c]
        else:
            met[to[k]] = True
            for c in range(len(row)):
                target[c] = row[c]
