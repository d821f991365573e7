"""Where an item without a text stands before item vectors learn: beside the items of its users.

Legend: I items, U users, E interactions, T text dims, L items that lack a text, C columns and n
items at once.
"""

import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.item_vectors.learn import Interactions
from recmind_dist.randomness import normals, stream_key

_NUMBERS = 1 << 26  # users' means that are in memory
_BLOCK_ROWS = 8192


def with_stand_ins(
    text_IT: Tensor, has_text_I: Tensor, log: Interactions, seed: int
) -> tuple[Tensor, Tensor]:
    """Text vectors with one for each item that lacks a text and has interactions, and which items
    have one now. Shapes: [I, T], [I].

    A stand-in is the mean, over the item's users, of the mean text of their items, at the length
    that texts have on average; a random direction where none of those items has a text.

    Args:
        text_IT: whitened; zero where there is no text.
        seed: of the random directions.
    """
    lacking = (~has_text_I & (log.degree_I > 0)).nonzero().squeeze(1)
    if not len(lacking):
        return text_IT, has_text_I
    length = text_IT[has_text_I].norm(dim=1).mean() if has_text_I.any() else 1.0
    has_vector_I, vector_IT = has_text_I.clone(), text_IT.clone()
    if has_text_I.any():
        vector_IT[lacking] = _text_near(text_IT, has_text_I, lacking, log)
    key = stream_key(seed, "stand-ins")
    for first in range(0, len(lacking), _BLOCK_ROWS):
        items = lacking[first : first + _BLOCK_ROWS]
        near_nT = vector_IT[items]
        nothing = near_nT.abs().sum(1) == 0
        drawn = normals(key, items[nothing].cpu().numpy(), text_IT.shape[1])
        near_nT[nothing] = torch.from_numpy(drawn).to(near_nT)
        vector_IT[items] = length * functional.normalize(near_nT, dim=1)
    has_vector_I[lacking] = True
    return vector_IT, has_vector_I


def _text_near(text_IT: Tensor, has_text_I: Tensor, lacking: Tensor, log: Interactions) -> Tensor:
    """The mean over each item's users of the mean text of their items. Shape: [L, T]."""
    device, num_users = text_IT.device, len(log.count_U)
    start_U = log.count_U.cumsum(0) - log.count_U
    texts_U = functional.embedding_bag(
        log.item_E, has_text_I.float()[:, None], start_U, mode="sum"
    ).clamp(min=1)
    place_I = torch.full((len(text_IT),), -1, device=device)
    place_I[lacking] = torch.arange(len(lacking), device=device)
    at = (place_I[log.item_E] >= 0).nonzero().squeeze(1)
    user = torch.repeat_interleave(log.count_U)[at]
    place, order = place_I[log.item_E[at]].sort(stable=True)
    count_L = torch.bincount(place, minlength=len(lacking))
    start_L = count_L.cumsum(0) - count_L
    columns = max(1, _NUMBERS // max(num_users, 1))
    near_LT = torch.empty((len(lacking), text_IT.shape[1]), device=device)
    for first in range(0, text_IT.shape[1], columns):
        text_IC = text_IT[:, first : first + columns]
        mean_UC = functional.embedding_bag(log.item_E, text_IC, start_U, mode="sum") / texts_U
        near_LT[:, first : first + columns] = functional.embedding_bag(
            user[order], mean_UC, start_L, mode="mean"
        )
    return near_LT
