"""The baseline that every model must beat: the most popular items that a user has not seen."""

import numpy as np

from recmind_dist.types import IndexArray, IntArray


def rank_popular(
    item_degree: IntArray, k: int, seen_indptr: IntArray, seen_indices: IndexArray
) -> IntArray:
    """The k unseen items of highest training degree for each user; of equal degrees the lower id.

    All users share one order, so nothing is scored: with a user's seen items at positions p_0 < p_1
    < … of that order, their j-th unseen item is at j + #{i : p_i − i ≤ j}.

    Args:
        item_degree: [I]
        seen_indptr: [u + 1]
        seen_indices: local item ids
    Returns:
        [u, k] local item ids, −1 where a user has fewer than k unseen items.
    """
    degree = np.asarray(item_degree)
    num_items, num_users = len(degree), len(seen_indptr) - 1
    order = np.lexsort((np.arange(num_items), -degree))
    position = np.empty(num_items, dtype=np.int64)
    position[order] = np.arange(num_items)

    rows = np.repeat(np.arange(num_users, dtype=np.int64), np.diff(seen_indptr))
    seen = np.unique(rows * num_items + position[np.asarray(seen_indices, dtype=np.int64)])
    rows, positions = seen // num_items, seen % num_items
    first = np.searchsorted(rows, np.arange(num_users))
    gaps = positions - (np.arange(len(seen)) - first[rows])  # p_i − i, never falling within a user

    stride = num_items + k + 1
    j = np.arange(k, dtype=np.int64)[None, :]
    wanted = np.arange(num_users, dtype=np.int64)[:, None] * stride + j
    passed = np.searchsorted(rows * stride + gaps, wanted, side="right") - first[:, None]
    rank = j + passed
    return np.where(rank < num_items, order[np.minimum(rank, num_items - 1)], -1).astype(np.int64)
