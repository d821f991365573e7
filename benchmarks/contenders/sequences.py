"""Batches of sequences and the softmax over a whole catalogue, for run_sasrec.py.

Imports nothing of ours: it runs in RecBole's environment, too. Shapes: B sequences, L positions, D
dims, I items, n targets.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

TARGETS_AT_ONCE = 256  # so many targets × all items scores are held
BATCHES_A_POOL = 40  # batches are of similar lengths within a pool of so many


class SoftmaxLoss(torch.autograd.Function):
    """Mean −log softmax of the targets, with gradients made block by block on the way forward.

    No n × I matrix is held; half the time of torch's cross_entropy on one core. Arguments: h [n,
    D], vectors of the items [I, D], targets [n] among them, a constant of each item's logit [I].
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, items: Tensor, targets: Tensor, bias: Tensor) -> Tensor:
        columns = items.T.contiguous()
        grad_h, grad_items = torch.empty_like(h), torch.zeros_like(items)
        total = 0.0
        for start in range(0, len(h), TARGETS_AT_ONCE):
            block = slice(start, start + TARGETS_AT_ONCE)
            target = targets[block, None]
            p = torch.softmax(torch.addmm(bias, h[block], columns), dim=1)
            p_target = p.gather(1, target)
            total -= p_target.clamp_min(1e-30).log().sum().item()
            p.scatter_add_(1, target, torch.full_like(p_target, -1.0))
            torch.mm(p, items, out=grad_h[block])
            grad_items.addmm_(p.T, h[block])
        ctx.save_for_backward(grad_h / len(h), grad_items / len(h))
        return h.new_tensor(total / len(h))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_h, grad_items = ctx.saved_tensors
        return grad * grad_h, grad * grad_items, None, None


def windows(indptr: np.ndarray, items: np.ndarray, length: int) -> list[np.ndarray]:
    """Pieces of at most length + 1 items; each pair of neighbours is in one."""
    pieces = []
    for start, stop in pairwise(indptr):
        while stop - start > 1:
            first = max(start, stop - length - 1)
            pieces.append(items[first:stop])
            stop = first + 1
    return pieces


def batches(pieces: list[np.ndarray], size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Each piece once, in batches of similar lengths, padded behind. Shape: [B, L + 1]."""
    order = rng.permutation(len(pieces))
    chosen = []
    for start in range(0, len(order), size * BATCHES_A_POOL):
        pool = order[start : start + size * BATCHES_A_POOL]
        pool = sorted(pool, key=lambda piece: len(pieces[piece]))
        chosen += [pool[i : i + size] for i in range(0, len(pool), size)]
    for batch in rng.permutation(len(chosen)):
        yield padded([pieces[i] for i in chosen[batch]])


def padded(pieces: list[np.ndarray]) -> Tensor:
    """Items count from 1; 0 follows the last. Shape: [B, longest]."""
    rows = np.zeros((len(pieces), max(map(len, pieces))), np.int64)
    for row, piece in zip(rows, pieces, strict=True):
        row[: len(piece)] = piece + 1
    return torch.from_numpy(rows)


def candidates(
    targets: np.ndarray, num_items: int, sampled: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items of a batch's softmax: all its targets, and a sample of the others that stands for them.

    The sum over the catalogue is estimated without bias: the sampled ones count (others / sampled)
    times. Where there are no more others than `sampled`, it is exact.

    Returns:
        the items, the targets' positions among them, and each item's log weight as float32.
    """
    wanted, position = np.unique(targets, return_inverse=True)
    others = np.ones(num_items, np.bool_)
    others[wanted] = False
    rest = np.flatnonzero(others)
    drawn = rest if len(rest) <= sampled else rng.choice(rest, sampled, replace=False)
    weight = np.full(len(wanted) + len(drawn), len(rest) / max(len(drawn), 1), np.float32)
    weight[: len(wanted)] = 1.0
    return np.concatenate([wanted, drawn]), position, np.log(weight)
