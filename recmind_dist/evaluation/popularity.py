"""The baseline that every model has to beat: the most popular items that the user has not had yet."""

import numpy as np

from recmind_dist.types import IntArray


def rank_popular(
    item_degree: IntArray, k: int, seen_indptr: IntArray, seen_indices: IntArray
) -> IntArray:
    """The k items of highest training degree that each user has not seen; equal degrees by lower
    id.

    All users share one order, so nothing is scored: with a user's seen items at positions p_0 < p_1
    < … of that order, her j-th unseen item stands at j + #{i : p_i − i ≤ j}.

    Args:
        item_degree: [I]; seen_indptr: [u + 1], seen_indices: local item ids.
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
    place = j + passed
    return np.where(place < num_items, order[np.minimum(place, num_items - 1)], -1).astype(np.int64)
