"""Exact top-k over the full catalogue, in blocks: no users × items matrix is ever held.

Shapes: u users, I items, D dims, k cut-off, h seen items. Order: highest score first; of equal
scores the lowest item id.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recmind_dist.graph.csr import entries_of_rows
from recmind_dist.kernels.memory import free_memory
from recmind_dist.types import IndexArray, IntArray

ITEM_BLOCK = 65_536  # wide, so that blocks are merged less often
USER_BLOCK = 1024
SCORES_PER_USER = 16_384  # wider blocks take fewer users, to hold USER_BLOCK × this many scores
GPU_USER_BLOCK = 8192  # 3 × as many users/s as 1,024 at Gowalla's 40,981 items, on one H200
FEWEST_GPU_USERS = 256  # below these, blocks have fewer items rather than fewer users
GPU_SHARE = 0.25  # of the free memory, for scores; the rows of ties at the cut take as much again
BYTES_PER_SCORE = 4
GROUP = 16  # columns per maximum; 8 to 32 were equally fast on one core, benchmarks/evaluate.py
PADDING = -1


def block_shape(num_items: int, free_bytes: int | None) -> tuple[int, int]:
    """Users and items of a block of scores.

    Args:
        free_bytes: of the GPU's memory; None on the CPU, where the cache decides.
    """
    if free_bytes is None:
        item_block = min(ITEM_BLOCK, num_items)
        return min(USER_BLOCK, USER_BLOCK * SCORES_PER_USER // item_block), item_block
    scores = int(GPU_SHARE * free_bytes) // BYTES_PER_SCORE
    item_block = min(num_items, max(scores // FEWEST_GPU_USERS, 1))
    return max(1, min(GPU_USER_BLOCK, scores // item_block)), item_block


@torch.no_grad()
def rank_items(
    h_users: Tensor,
    h_items: Tensor,
    k: int,
    seen_indptr: IndexArray,
    seen_indices: IndexArray,
    norm_exponent: float = 0.0,
    user_block: int | None = None,
    item_block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best unseen items of each user by s(u, i) = <h_u, h_i> / |h_i|^p.

    Equal scores go to the lower item id, whatever the block sizes. (Scores that are equal only in
    exact arithmetic may differ in the last bit of a matrix product.) On a GPU the host waits a
    few times, not for each block.

    Args:
        h_users: [u, D]
        h_items: [I, D], on the same device
        seen_indptr: [u + 1]
        seen_indices: local item ids (0 is the first item) to leave out
        norm_exponent: p, in [0, 1]
        user_block, item_block: for memory and speed only; by default `block_shape`
    Returns:
        ids [u, k], int64 local item ids, and scores [u, k], both on the device of the vectors; a
            user with fewer than k unseen items is padded with id −1 and score −inf.
    Raises:
        ValueError: a vector is not finite, or the shapes do not fit.
    """
    _check(h_users, h_items, k, seen_indptr)
    scaled = h_items if norm_exponent == 0.0 else h_items / _norms(h_items) ** norm_exponent
    seen = _Seen.of(seen_indptr, seen_indices, h_items.device)
    users, items = block_shape(len(h_items), free_memory(h_items.device))
    shape = user_block or users, min(item_block or items, len(h_items))
    if h_items.device.type == "cpu":
        return _rank(h_users, scaled, k, seen, shape)[:2]
    return _rank_ties_last(h_users, scaled, k, seen, shape)


@dataclass(frozen=True)
class _Seen:
    """Items to leave out, as CSR. indptr: [u + 1], on the host; row, item: [h], on the device."""

    indptr: IntArray
    indices: IndexArray
    row: Tensor
    item: Tensor

    @staticmethod
    def of(indptr: IndexArray, indices: IndexArray, device: torch.device) -> "_Seen":
        first, last = int(indptr[0]), int(indptr[-1])
        items = indices[first:last].copy()  # of a mapped file
        bounds = np.asarray(indptr, dtype=np.int64) - first
        counts = torch.from_numpy(np.diff(bounds)).to(device)
        row = torch.repeat_interleave(
            torch.arange(len(counts), device=device), counts, output_size=last - first
        )
        return _Seen(bounds, items, row, torch.from_numpy(items).to(device))

    def of_rows(self, rows: IntArray) -> "_Seen":
        """Those of some users."""
        indptr = np.concatenate([[0], np.cumsum(np.diff(self.indptr)[rows])])
        return _Seen.of(indptr, self.indices[entries_of_rows(self.indptr, rows)], self.row.device)

    def mask(self, scores: Tensor, start: int, first: int, whole: bool) -> None:
        """Sets scores of users from `start` and items from `first` to −inf, in place.

        Args:
            scores: [users, items], contiguous
            whole: these are all items
        """
        entries = slice(int(self.indptr[start]), int(self.indptr[start + len(scores)]))
        row, item = self.row[entries] - start, self.item[entries] - first
        if not whole:
            inside = (item >= 0) & (item < scores.shape[1])
            row, item = row[inside], item[inside]
        scores.view(-1).index_fill_(0, row * scores.shape[1] + item, -torch.inf)


def _rank(
    h_users: Tensor,
    h_items: Tensor,
    k: int,
    seen: _Seen,
    shape: tuple[int, int],
    break_ties: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [u, k], scores [u, k] and, without `break_ties`, users of whom an item of the cut's score
    may have been left out for one of higher id, bool [u].
    """
    num_users, device = len(h_users), h_users.device
    ids = torch.full((num_users, k), PADDING, dtype=torch.int64, device=device)
    scores = torch.full((num_users, k), -torch.inf, dtype=h_users.dtype, device=device)
    tied = torch.zeros(num_users, dtype=torch.bool, device=device)
    user_block = max(1, min(shape[0], num_users))
    # one buffer for all blocks: page faults would cost a third of the time
    buffer = h_users.new_empty(user_block * shape[1])
    for start in range(0, num_users, user_block):
        rows = slice(start, min(start + user_block, num_users))
        values, columns, tied[rows] = _rank_block(
            h_users[rows], h_items, k, seen, start, shape[1], buffer, break_ties
        )
        width = columns.shape[1]
        ids[rows, :width] = torch.where(values == -torch.inf, PADDING, columns)
        scores[rows, :width] = values
    return ids, scores, tied


def _rank_ties_last(
    h_users: Tensor, h_items: Tensor, k: int, seen: _Seen, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """As `_rank`, without a wait for the device in each block: users with ties at the cut are
    ranked again at the end.
    """
    ids, scores, tied = _rank(h_users, h_items, k, seen, shape, break_ties=False)
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        few = max(1, shape[0] // GROUP), shape[1]  # ties take five times the memory of scores
        again = _rank(h_users[rows], h_items, k, seen.of_rows(rows.cpu().numpy()), few)
        ids[rows], scores[rows] = again[0], again[1]
    return ids, scores


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` where of equal scores the lower column comes first, also at the cut.

    torch.topk leaves both open. Only a row whose k-th and next score are equal can have the wrong
    set, so one more column is computed, and only such rows are searched in full. The order of −inf
    stays open. Shapes: scores [u, n] → values, columns [u, min(k, n)].
    """
    columns, tied = _top_columns(scores, k)
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        cut = scores[rows].gather(1, columns[rows]).amin(dim=1, keepdim=True)
        columns[rows] = _lowest_of_ties(scores[rows], cut, columns.shape[1])
    return _in_order(scores, columns)


def _top_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns of the k highest, in any order, and the rows where others are equal to the k-th."""
    width = min(k, scores.shape[1])
    values, columns = _best(scores, min(width + 1, scores.shape[1]))
    if values.shape[1] == width:
        return columns, torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    cut = values[:, width - 1]
    return columns[:, :width], (cut == values[:, width]) & (cut > -torch.inf)


def _in_order(scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
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
    seen: _Seen,
    start: int,
    item_block: int,
    buffer: Tensor,
    break_ties: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and ids of the users from `start`, and who of them has ties that are left open."""
    found: list[tuple[Tensor, Tensor]] = []
    tied = torch.zeros(len(h_users), dtype=torch.bool, device=h_users.device)
    for first in range(0, len(h_items), item_block):
        width = min(item_block, len(h_items) - first)
        scores = buffer[: len(h_users) * width].view(len(h_users), width)
        torch.matmul(h_users, h_items[first : first + width].T, out=scores)
        seen.mask(scores, start, first, whole=width == len(h_items))
        if break_ties:
            values, columns = top_k(scores, k)
        else:
            columns, open_ties = _top_columns(scores, k)
            values, columns = _in_order(scores, columns)
            tied |= open_ties
        best = values, columns + first
        found = [_merge(found[0], best, k) if found else best]
    return *found[0], tied


def _merge(
    left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """A stable sort keeps the rule for ties: all ids of `left` are below those of `right`."""
    values, order = torch.cat([left[0], right[0]], dim=1).sort(dim=1, descending=True, stable=True)
    ids = torch.cat([left[1], right[1]], dim=1).gather(1, order)
    return values[:, :k], ids[:, :k]


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
