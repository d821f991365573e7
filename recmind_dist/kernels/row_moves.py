"""Copies and sums of rows, by index at the source and at the target, without a tensor in between.

Legend: n rows moved, C columns.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.kernels.cache_prefetch import fetch_row_ahead

_AHEAD = 32  # rows whose memory is fetched before they are reached
_CAST_ROWS = 4096  # rows cast at a time, which stay in the cache


def place_rows(out: Tensor, to: Tensor | None, source: Tensor, of: Tensor | None = None) -> None:
    """`out[to[k]] = source[of[k]]`; an index that is None stands for k itself.

    Args:
        out: [.., C] contiguous.
        to: [n] distinct.
        source: [.., C] contiguous; of another dtype, its rows are rounded to that of `out`.
        of: [n].
    """
    if out.dtype != source.dtype:
        for start, rows in _cast_blocks(source, of, out.dtype):
            block = slice(start, start + len(rows))
            if to is None:
                out[block] = rows
            else:
                place_rows(out, to[block], rows)
    elif _on_numpy(out, source):
        indices = (None if index is None else index.numpy() for index in (to, of))
        _place(out.numpy(), source.numpy(), *indices)
    else:
        taken = source if of is None else source.index_select(0, of)
        out[slice(len(taken)) if to is None else to] = taken


def sums_by_row(rows: int, parts: list[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
    """`out[to[k]] = Σ source[of[k]]`, [rows, C]: part by part and, on the CPU, in the order of k.

    Args:
        parts: (to, source, of) of shapes [n], [.., C] contiguous, [n]; None as in `place_rows`. The
            sum has the dtype of the first source.
    """
    like = parts[0][1]
    if _on_numpy(like):
        out, met = like.new_empty(rows, like.shape[1]), np.zeros(rows, np.bool_)
        for to, source, of in _of_dtype(parts, like.dtype):
            _add(out.numpy(), met, to.numpy(), source.numpy(), None if of is None else of.numpy())
        if not met.all():
            out[torch.from_numpy(~met)] = 0.0
        return out
    out = like.new_zeros(rows, like.shape[1])
    for to, source, of in _of_dtype(parts, like.dtype):
        out.index_add_(0, to, source if of is None else source.index_select(0, of))
    return out


def _of_dtype(
    parts: list[tuple[Tensor, Tensor, Tensor | None]], dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The parts of a sum, those of another dtype in blocks that are cast."""
    for to, source, of in parts:
        if source.dtype == dtype:
            yield to, source, of
            continue
        for start, rows in _cast_blocks(source, of, dtype):
            yield to[start : start + len(rows)], rows, None


def _cast_blocks(
    source: Tensor, of: Tensor | None, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor]]:
    """`source[of]` block by block, cast: where a block begins, and its rows."""
    for start in range(0, len(source if of is None else of), _CAST_ROWS):
        block = slice(start, start + _CAST_ROWS)
        yield start, (source[block] if of is None else source.index_select(0, of[block])).to(dtype)


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
