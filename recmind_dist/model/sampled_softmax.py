"""The sampled softmax with its gradient written out: similarities are made, masked and
exponentiated and kept as probabilities, which is all that the gradient needs. On a CPU that goes a
block of users at a time, while the block is in the cache.

Legend: S vectors, C columns, U distinct users, b pairs, M shared negatives.
"""

import math
from typing import Any

import torch
from torch import Tensor

from recmind_dist.kernels.pair_scores import add_pair_gradients, pair_dots
from recmind_dist.kernels.unit_rows import through_unit_rows, unit_rows

_CACHE_ELEMENTS = 1 << 18  # a megabyte


def sampled_softmax(
    h_SC: Tensor,
    users: Tensor,
    user_of_pair: Tensor,
    positives: Tensor,
    shared: Tensor,
    is_positive: Tensor,
    temperature: float | None,
    weight: Tensor,
    total: int,
    negative_weight: float = 1.0,
) -> Tensor:
    """−log of the softmax of cosine / temperature of each pair's positive among shared negatives.

    Args:
        h_SC: vectors that the indices point into.
        users: [U] distinct users, none of them in `shared`.
        user_of_pair: [b] positions in `users`.
        positives: [b].
        shared: [M] distinct negatives that all pairs share.
        is_positive: [U, M] whether a shared item is a positive of the user; those are left out.
        temperature: None takes inner products as they are.
        weight: [b].
        total: pairs of the global batch.
        negative_weight: how many items each shared negative stands for. With uniform draws,
            catalogue size / M makes the sum an estimate of that over all items.

    Source: arXiv:2201.02327 (sampled softmax for item recommendation).
    """
    indices = users, user_of_pair, positives, shared, is_positive
    out: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        h_SC, *indices, temperature, weight / max(total, 1), math.log(negative_weight)
    )
    return out


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        users: Tensor,
        user_of_pair: Tensor,
        positives: Tensor,
        shared: Tensor,
        is_positive: Tensor,
        temperature: float | None,
        weight: Tensor,
        log_negative_weight: float,
    ) -> Tensor:
        h = h.detach().contiguous()
        unit, inverse = (h, None) if temperature is None else unit_rows(h)
        scale = 1.0 if temperature is None else 1.0 / temperature
        left = users.index_select(0, user_of_pair)
        positive = scale * pair_dots(unit, left, positives)
        h_UC, h_MC = unit.index_select(0, users), unit.index_select(0, shared)
        share_UM, total_U, top_U = _exponentials(scale * h_UC, h_MC, is_positive)
        negative = (top_U + total_U.log() + log_negative_weight).index_select(0, user_of_pair)
        # of each pair, what the softmax gives to its negatives
        missed = weight * torch.sigmoid(negative - positive)
        missed_U = missed.new_zeros(len(users)).scatter_add_(0, user_of_pair, missed)
        missed_U = scale * missed_U / total_U.clamp(min=torch.finfo(total_U.dtype).tiny)
        ctx.save_for_backward(
            unit, users, left, positives, shared, share_UM, missed_U, scale * missed, h_UC, h_MC
        )
        ctx.inverse = inverse
        return (weight * (torch.logaddexp(positive, negative) - positive)).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, users, left, positives, shared, share_UM, missed_U, missed, h_UC, h_MC = (
            ctx.saved_tensors
        )
        back = torch.zeros_like(unit)
        back.index_copy_(0, users, (share_UM @ h_MC).mul_(missed_U[:, None]))
        back.index_copy_(0, shared, share_UM.T @ (h_UC * missed_U[:, None]))
        add_pair_gradients(back, unit, left, positives, -missed)
        if ctx.inverse is not None:
            back = through_unit_rows(back, unit, ctx.inverse)
        return back.mul_(grads[0]), None, None, None, None, None, None, None, None


def _exponentials(h_UC: Tensor, h_MC: Tensor, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(⟨u, m⟩ − top of u), zero where masked; its sums and tops. Shapes: [U, M], [U], [U]."""
    out = h_UC.new_empty(len(h_UC), len(h_MC))
    total, top = h_UC.new_zeros(len(h_UC)), h_UC.new_zeros(len(h_UC))
    rows = _rows_at_once(len(h_UC), len(h_MC), h_UC.device.type)
    for start in range(0, len(h_UC) if len(h_MC) else 0, rows):
        part = slice(start, start + rows)
        block = torch.mm(h_UC[part], h_MC.T, out=out[part])
        block.masked_fill_(masked[part], float("-inf"))
        # the least finite number where all is masked, so that no −∞ − −∞ arises
        highest = block.amax(1).clamp_(min=torch.finfo(block.dtype).min)
        block.sub_(highest[:, None]).exp_()
        total[part], top[part] = block.sum(1), highest
    return out, total, top


def _rows_at_once(num_users: int, num_shared: int, device: str) -> int:
    """Users of a block: what a CPU's cache holds. A GPU takes all at once, and no more memory, as
    everything is done in place.
    """
    if device != "cpu":
        return max(num_users, 1)
    return max(_CACHE_ELEMENTS // max(num_shared, 1), 1)
