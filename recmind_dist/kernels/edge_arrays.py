"""Loops over the edges of a CSR matrix: their weights, and parts of the matrix."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def edge_weights(indptr, indices, row_scale, other_scale):  # type: ignore[no-untyped-def]
    """row_scale[v] · other_scale[u] of each entry (v, u). Shape: float32 [entries]."""
    out = np.empty(len(indices), np.float32)
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            out[e] = row_scale[v] * other_scale[indices[e]]
    return out


@njit(cache=True, nogil=True)
def edges_to(indptr, indices, weight, sources):  # type: ignore[no-untyped-def]
    """The columns `sources` of a symmetric CSR matrix, with entries in the matrix's order.

    One branchless pass over all entries in memory order; going through the rows of the sources
    would read the other ends at random.
    """
    num_rows, most, widest = len(indptr) - 1, 0, 0
    for v in range(num_rows):
        widest = max(widest, indptr[v + 1] - indptr[v])
    wanted = np.zeros(num_rows, np.uint8)
    for v in sources:
        wanted[v] = 1
        most += indptr[v + 1] - indptr[v]
    # an unwanted entry is written, then overwritten by the next one: a row needs spare room
    out_indptr, out = np.empty(num_rows + 1, np.int32), np.empty(most + widest + 1, np.int32)
    values = np.empty(most + widest + 1, np.float32)
    found = 0
    for v in range(num_rows):
        out_indptr[v] = found
        for e in range(indptr[v], indptr[v + 1]):
            out[found] = indices[e]
            values[found] = weight[e]
            found += wanted[indices[e]]
        assert found <= most, "edges must go both ways"
    out_indptr[num_rows] = found
    return out_indptr, out[:found], values[:found]


@njit(cache=True, nogil=True)
def rows_of(indptr, indices, row_of_node, own):  # type: ignore[no-untyped-def]
    out_indptr = np.zeros(len(own) + 1, np.int64)
    for k in range(len(own)):
        out_indptr[k + 1] = out_indptr[k] + indptr[own[k] + 1] - indptr[own[k]]
    out = np.zeros(out_indptr[-1], np.int32)
    for k in range(len(own)):
        start = indptr[own[k]]
        for e in range(out_indptr[k + 1] - out_indptr[k]):
            out[out_indptr[k] + e] = row_of_node[indices[start + e]]
    return out_indptr, out


@njit(cache=True, nogil=True)
def positions_of_edges(indptr, indices, num_users, num_edges, row, out_indptr):  # type: ignore[no-untyped-def]
    """[2, E]: position of each user-half edge in its user's and its item's row, -1 if not here."""
    out = np.full((2, num_edges), -1, np.int64)
    # rows ascend, so an item's entries come in the order of the user half
    filled = indptr[num_users:-1].copy()
    for u in range(num_users):
        for e in range(indptr[u], indptr[u + 1]):
            item = indices[e]
            if row[u] >= 0:
                out[0, e] = out_indptr[row[u]] + e - indptr[u]
            if row[item] >= 0:
                out[1, e] = out_indptr[row[item]] + filled[item - num_users] - indptr[item]
            filled[item - num_users] += 1
    return out
