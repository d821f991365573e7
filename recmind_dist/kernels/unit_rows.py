"""Rows scaled to unit length, and the backward; one pass each on the CPU."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

_SHORTEST = 1e-12


def unit_rows(x_nC: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their length, and 1 / length. Shapes: [n, C], [n]."""
    if x_nC.device.type == "cpu":
        unit, inverse = _unit_rows(x_nC.numpy())
        return torch.from_numpy(unit), torch.from_numpy(inverse)
    inverse_n = x_nC.norm(dim=1).clamp_(min=_SHORTEST).reciprocal_()
    return x_nC * inverse_n[:, None], inverse_n


def through_unit_rows(grad_nC: Tensor, unit_nC: Tensor, inverse_n: Tensor) -> Tensor:
    """The gradient of the rows, from that of the unit rows, in place. Shape: [n, C]."""
    if grad_nC.device.type == "cpu":
        _through_unit_rows(grad_nC.numpy(), unit_nC.numpy(), inverse_n.numpy())
        return grad_nC
    along = (grad_nC * unit_nC).sum(1, keepdim=True)
    return grad_nC.sub_(along * unit_nC).mul_(inverse_n[:, None])


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _unit_rows(x):  # type: ignore[no-untyped-def]
    unit, inverse = np.empty_like(x), np.empty(len(x), np.float32)
    for v in range(len(x)):
        row, out, total = x[v], unit[v], np.float32(0.0)
        for c in range(x.shape[1]):
            total += row[c] * row[c]
        scale = np.float32(1.0) / max(np.sqrt(total), np.float32(_SHORTEST))
        inverse[v] = scale
        for c in range(x.shape[1]):
            out[c] = row[c] * scale
    return unit, inverse


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _through_unit_rows(grad, unit, inverse):  # type: ignore[no-untyped-def]
    for v in range(len(grad)):
        row, own, along = grad[v], unit[v], np.float32(0.0)
        for c in range(grad.shape[1]):
            along += row[c] * own[c]
        for c in range(grad.shape[1]):
            row[c] = (row[c] - along * own[c]) * inverse[v]
