"""The terms of the objective. Each is this rank's sum divided by the global count, so that the
ranks' terms add up to the loss of the global batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.kernels.pair_scores import pair_scores
from recmind_dist.model.sampled_softmax import sampled_softmax

__all__ = ["base_row_penalty", "bpr", "info_nce", "sampled_softmax", "tail_weights"]

CONTRAST_TEMPERATURE = 0.2
"""Of InfoNCE between graph and text views and between XSimGCL's layers; no search varied it."""


def bpr(
    h_SD: Tensor, users: Tensor, positives: Tensor, negatives: Tensor, weight: Tensor, total: int
) -> Tensor:
    """Bayesian personalised ranking against the highest-scoring of each pair's negatives.

    Args:
        h_SD: vectors that the indices point into.
        users, positives: [b].
        negatives: [b, num].
        weight: [b].
        total: pairs of the global batch.
    Source: arXiv:1205.2618; the hardest of m draws is dynamic negative sampling (SIGIR 2013).
    """
    positive = pair_scores(h_SD, users, positives)
    against = torch.stack(
        [pair_scores(h_SD, users, negatives[:, j].contiguous()) for j in range(negatives.shape[1])],
        1,
    )
    return (weight * functional.softplus(against.amax(1) - positive)).sum() / max(total, 1)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    anchor_ids: Tensor,
    keys: Tensor,
    key_ids: Tensor,
    temperature: float,
    *,
    queue: Tensor,
    queue_ids: Tensor,
    hardness: float,
    total: int,
) -> Tensor:
    """InfoNCE on cosine / temperature: each anchor's other view against keys of the batch of all
    ranks and the queue.

    A key of the anchor's own entity is never its negative. In-batch negatives weigh exp(hardness ×
    cosine), mean 1.

    Args:
        anchors, positives: [b, D], row k of both is one entity.
        anchor_ids: [b].
        keys: [G, D] the other view of all ranks' anchors.
        key_ids: [G].
        queue: [Q, D] normalised, without gradient.
        queue_ids: [Q], −1 where empty.
        total: anchors of the global batch.
    Source: arXiv:1911.05722 (queue), arXiv:2010.04592 (hardness).
    """
    a = functional.normalize(anchors, dim=1)
    positive = (a * functional.normalize(positives, dim=1)).sum(1, keepdim=True) / temperature
    cosine = a @ functional.normalize(keys, dim=1).T
    own = anchor_ids[:, None] == key_ids[None, :]
    logits = cosine / temperature
    if hardness > 0:
        logits = logits + _log_hardness(cosine.detach(), own, hardness)
    parts = [positive, logits.masked_fill(own, float("-inf"))]
    if len(queue):
        masked = (anchor_ids[:, None] == queue_ids[None, :]) | (queue_ids < 0)[None, :]
        parts.append((a @ queue.T / temperature).masked_fill(masked, float("-inf")))
    return (torch.logsumexp(torch.cat(parts, 1), 1) - positive[:, 0]).sum() / max(total, 1)


def base_row_penalty(base_SD: Tensor, index: Tensor, total: int) -> Tensor:
    """Half the squared norm of the base rows of a batch, per pair of the global batch. Source:
    LightGCN's code.

    Args:
        index: rows of `base_SD` as often as the batch names them.
    """
    index = index.flatten()
    times = base_SD.new_zeros(len(base_SD)).index_add_(0, index, base_SD.new_ones(len(index)))
    return 0.5 * (times @ base_SD.square().sum(1)) / max(total, 1)


def tail_weights(degree: Tensor, exponent: float) -> Tensor:
    """(degree + 1)^-q. Shape: as `degree`, float32."""
    return (degree.to(torch.float32) + 1.0).pow(-exponent)


def _log_hardness(cosine: Tensor, own: Tensor, hardness: float) -> Tensor:
    raw = (hardness * cosine).masked_fill(own, float("-inf"))
    count = (~own).sum(1, keepdim=True).clamp(min=1)
    return (
        (hardness * cosine)
        - torch.logsumexp(raw, 1, keepdim=True).nan_to_num(0.0, neginf=0.0)
        + count.log()
    )
