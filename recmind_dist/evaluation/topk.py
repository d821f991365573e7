"""Exact top-k over the full catalogue, in blocks: no users × items matrix is ever held.

Shapes: u users, I items, D dims, k cut-off. Order: highest score first; of equal scores the lowest
item id.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ITEM_BLOCK = 65_536  # wide, so that blocks are merged less often
SCORES_PER_USER = 16_384  # wider blocks take fewer users, to hold user_block × this many scores
GROUP = 16  # columns per maximum; 8 to 32 were equally fast on one core, benchmarks/evaluate.py
PADDING = -1

IndexArray = NDArray[np.int64] | NDArray[np.int32]


@torch.no_grad()
def rank_items(
    h_users: Tensor,
    h_items: Tensor,
    k: int,
    seen_indptr: IndexArray,
    seen_indices: IndexArray,
    norm_exponent: float = 0.0,
    user_block: int = 1024,
    item_block: int = ITEM_BLOCK,
) -> tuple[Tensor, Tensor]:
    """The k best unseen items of each user by s(u, i) = <h_u, h_i> / |h_i|^p.

    Equal scores go to the lower item id, whatever the block sizes. (Scores that are equal only in
    exact arithmetic may differ in the last bit of a matrix product.)

    Args:
        h_users: [u, D]
        h_items: [I, D], on the same device
        seen_indptr: [u + 1]
        seen_indices: local item ids (0 is the first item) to leave out
        norm_exponent: p, in [0, 1]
        user_block: for memory and speed only: at most user_block × 16,384 scores are held
        item_block: for memory and speed only
    Returns:
        ids [u, k], int64 local item ids, and scores [u, k], both on the CPU; a user with fewer than
            k unseen items is padded with id −1 and score −inf.
    Raises:
        ValueError: a vector is not finite, or the shapes do not fit.
    """
    _check(h_users, h_items, k, seen_indptr)
    scaled = h_items if norm_exponent == 0.0 else h_items / _norms(h_items) ** norm_exponent
    ids = torch.full((h_users.shape[0], k), PADDING, dtype=torch.int64)
    scores = torch.full((h_users.shape[0], k), -torch.inf, dtype=h_users.dtype)
    item_block = min(item_block, h_items.shape[0])
    user_block = min(user_block, user_block * SCORES_PER_USER // item_block, h_users.shape[0])
    user_block = max(1, user_block)
    # one buffer for all blocks: page faults would cost a third of the time
    buffer = h_users.new_empty(user_block * item_block)
    for start in range(0, h_users.shape[0], user_block):
        stop = min(start + user_block, h_users.shape[0])
        rows, items = _seen(seen_indptr, seen_indices, start, stop, h_users.device)
        block_scores, block_ids = _rank_block(
            h_users[start:stop], scaled, k, rows, items, item_block, buffer
        )
        width = block_ids.shape[1]
        ids[start:stop, :width] = torch.where(block_scores == -torch.inf, PADDING, block_ids).cpu()
        scores[start:stop, :width] = block_scores.cpu()
    return ids, scores


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` where of equal scores the lower column comes first, also at the cut.

    torch.topk leaves both open. Only a row whose k-th and next score are equal can have the wrong
    set, so one more column is computed, and only such rows are searched in full. The order of −inf
    stays open. Shapes: scores [u, n] → values, columns [u, min(k, n)].
    """
    width = min(k, scores.shape[1])
    values, columns = _best(scores, min(width + 1, scores.shape[1]))
    if values.shape[1] > width:
        cut = values[:, width - 1]
        tied = ((cut == values[:, width]) & (cut > -torch.inf)).nonzero().squeeze(1)
        columns = columns[:, :width]
        if len(tied):
            columns[tied] = _lowest_of_ties(scores[tied], cut[tied, None], width)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` of the columns in the `count` groups with the highest maxima: it reads rows
    slowly.

    Other groups hold nothing above the count-th value, so values are exact; columns of equal values
    may differ.
    """
    groups = scores.shape[1] // GROUP
    if groups < 4 * count:
        return scores.topk(count, dim=1)
    maxima = scores[:, : groups * GROUP].view(len(scores), GROUP, groups).amax(dim=1)
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    members = torch.arange(GROUP, device=scores.device) * groups
    columns = (chosen[:, :, None] + members).flatten(1)
    rest = torch.arange(groups * GROUP, scores.shape[1], device=scores.device)
    columns = torch.cat([columns, rest.expand(len(scores), -1)], dim=1)
    values, index = scores.gather(1, columns).topk(count, dim=1)
    return values, columns.gather(1, index)


def _lowest_of_ties(scores: Tensor, cut: Tensor, width: int) -> Tensor:
    above, equal = scores > cut, scores == cut
    room = width - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(-1, width)


def _rank_block(
    h_users: Tensor,
    h_items: Tensor,
    k: int,
    rows: Tensor,
    items: Tensor,
    item_block: int,
    buffer: Tensor,
) -> tuple[Tensor, Tensor]:
    best: tuple[Tensor, Tensor] | None = None
    for first in range(0, h_items.shape[0], item_block):
        width = min(item_block, h_items.shape[0] - first)
        scores = buffer[: h_users.shape[0] * width].view(h_users.shape[0], width)
        torch.matmul(h_users, h_items[first : first + width].T, out=scores)
        inside = (items >= first) & (items < first + width)
        scores[rows[inside], items[inside] - first] = -torch.inf
        values, columns = top_k(scores, k)
        found = values, columns + first
        best = found if best is None else _merge(best, found, k)
    assert best is not None
    return best


def _merge(
    left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """A stable sort keeps the rule for ties: all ids of `left` are below those of `right`."""
    values, order = torch.cat([left[0], right[0]], dim=1).sort(dim=1, descending=True, stable=True)
    ids = torch.cat([left[1], right[1]], dim=1).gather(1, order)
    return values[:, :k], ids[:, :k]


def _seen(
    indptr: IndexArray, indices: IndexArray, start: int, stop: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    bounds = np.asarray(indptr[start : stop + 1], dtype=np.int64)
    items = np.array(indices[int(indptr[start]) : int(indptr[stop])], dtype=np.int64)
    rows = np.repeat(np.arange(stop - start), bounds[1:] - bounds[:-1])
    return torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)


def _norms(h: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(h, dim=1, keepdim=True)
    return norms.clamp_min(1e-12)  # a zero vector scores 0, not NaN


def _check(h_users: Tensor, h_items: Tensor, k: int, seen_indptr: IndexArray) -> None:
    if k < 1 or h_items.shape[0] == 0 or h_users.shape[1] != h_items.shape[1]:
        shapes = f"users {list(h_users.shape)} × items {list(h_items.shape)}"
        raise ValueError(f"top {k} of {shapes}: the shapes do not fit")
    if len(seen_indptr) != h_users.shape[0] + 1:
        counts = f"{len(seen_indptr)} entries for {h_users.shape[0]} users"
        raise ValueError(f"seen_indptr has {counts}: give one more")
    for side, h in (("user", h_users), ("item", h_items)):
        if not torch.isfinite(h).all():
            row = int((~torch.isfinite(h)).any(dim=1).nonzero()[0])
            raise ValueError(f"vector of {side} {row} is not finite: the model cannot be ranked")
