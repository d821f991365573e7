"""Compressed sparse rows by counting sort.

Legend: E edges, U users, N nodes.
"""

import numpy as np
from numba import njit

from recmind_dist.types import IndexArray, Int32Array, IntArray


@njit(cache=True)  # type: ignore[untyped-decorator]
def _counting_order(keys: np.ndarray, starts: np.ndarray) -> np.ndarray:
    order = np.empty(keys.shape[0], dtype=np.int64)
    cursor = starts[:-1].copy()
    for i in range(keys.shape[0]):
        order[cursor[keys[i]]] = i
        cursor[keys[i]] += 1
    return order


def starts_of(keys: IndexArray, num_keys: int) -> IntArray:
    """Row starts of a CSR over keys in [0, num_keys). Shape: [num_keys + 1]."""
    starts = np.zeros(num_keys + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=num_keys), out=starts[1:])
    return starts


def counting_order(keys: IndexArray, num_keys: int) -> IntArray:
    """Stable ascending order of keys in [0, num_keys). Shape: as `keys`."""
    return np.asarray(_counting_order(keys, starts_of(keys, num_keys)))


def edge_order(user: IntArray, item: IntArray, num_users: int, num_items: int) -> IntArray:
    """Order of edges by user, then item: two stable counting sorts. Shape: [E]."""
    by_item = counting_order(item, num_items)
    return by_item[counting_order(user[by_item], num_users)]


def both_directions(
    user: IntArray, item: IntArray, num_users: int, num_items: int
) -> tuple[IntArray, Int32Array]:
    """CSR of both directions over global ids, from edges ordered by user, then item.

    Returns:
        indptr int64 [N + 1] and indices int32 [2E]: the items of each user, then the users of
        each item, ascending in a row.
    """
    to_item = (item + num_users).astype(np.int32)
    # a stable order, so users ascend within an item
    to_user = user[counting_order(item, num_items)].astype(np.int32)
    item_starts = starts_of(item, num_items) + len(user)
    indptr = np.concatenate([starts_of(user, num_users), item_starts[1:]])
    return indptr, np.concatenate([to_item, to_user])


def held_out_rows(
    user: IntArray, item: IntArray, num_users: int, num_items: int
) -> tuple[IntArray, Int32Array]:
    """Held-out items of each user, as ascending global ids: indptr int64 [U + 1], indices int32."""
    order = edge_order(user, item, num_users, num_items)
    return starts_of(user, num_users), (item[order] + num_users).astype(np.int32)


def entries_of_rows(indptr: IntArray, rows: IntArray) -> IntArray:
    """Positions of the entries of some rows of a CSR, row after row."""
    starts = np.asarray(indptr)[rows]
    counts = np.asarray(indptr)[rows + 1] - starts
    first = np.repeat(starts - np.cumsum(counts) + counts, counts)
    return np.asarray(first + np.arange(len(first)), dtype=np.int64)
