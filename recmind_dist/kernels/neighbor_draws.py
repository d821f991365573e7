"""Loops of the neighbour sampler: draws, local ids, weights. Tests have their plain twins."""

import numpy as np
from numba import njit

from recmind_dist.kernels.cache_prefetch import fetch_ahead
from recmind_dist.randomness import mix64, mix64_pair

_CHUNK = 256  # edges drawn before the first is read: their cache lines arrive at the same time
_NODES_AHEAD = 16  # rows whose `indptr` is fetched before they are reached


@njit(cache=True, nogil=True)
def draw_hop(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    rows,
    ids,
    counted_degree,
    fan_out,
    key,
    local_of,
    heldout_slot,
    heldout_indptr,
    heldout_positions,
    batch_slot,
    batch_indptr,
    batch_positions,
):
    """Counts, scale and neighbours of nodes, and global ids by local id: see `Drawn` of
    sampling/neighbor_sampler.py.

    Args:
        rows, ids, counted_degree: [n] rows of `indptr`, the nodes, degrees to normalise by.
        fan_out: -1 for all.
        local_of: [num_nodes] local ids, -1 for none; empty: neighbours stay global ids.
        …_slot, …_indptr, …_positions: edges to leave out, by row.
    """
    starts, degrees, total, widest = _rows_and_sizes(indptr, rows, fan_out)
    counts = np.zeros(len(rows), np.int32)
    out = np.empty(total, np.int32)
    scale = np.zeros(len(rows), np.float32)
    edge, done, num_nodes = 0, 0, len(ids)
    nodes = np.empty(min(len(ids) + total, len(local_of)), np.int64)
    nodes[:num_nodes] = ids[: len(nodes)]  # none where neighbours stay global ids
    picked = np.empty(widest, np.int64)
    unread = np.empty(widest + _CHUNK, np.int64)  # positions of edges that are drawn, not yet read
    address = indices.ctypes.data
    for i in range(len(rows)):
        r, degree = rows[i], degrees[i]
        masked = batch_positions
        if len(batch_positions):
            masked = _masked_of(r, batch_slot, batch_indptr, batch_positions)
        if not len(masked) and len(heldout_slot):
            masked = _masked_of(r, heldout_slot, heldout_indptr, heldout_positions)
        available = degree - len(masked)
        want = available if fan_out < 0 else min(fan_out, available)
        draw = mix64_pair(key, ids[i])
        if want > 0:
            counts[i] = want
            scale[i] = np.float32(available / (want * np.sqrt(np.float64(counted_degree[i]))))
        for j in range(want):
            position = _position(picked, j, want, available, draw, masked)
            fetch_ahead(address + 4 * (starts[i] + position))
            unread[edge - done] = starts[i] + position
            edge += 1
        if edge - done >= _CHUNK or i == len(rows) - 1:
            for e in range(done, edge):
                out[e] = indices[unread[e - done]]
            if len(local_of):
                num_nodes = _to_local(out, done, edge, local_of, nodes, num_nodes)
            done = edge
    return counts, scale, out[:edge], nodes[:num_nodes].copy()


@njit(inline="always", cache=True)
def _position(picked, j, want, available, draw, masked):  # type: ignore[no-untyped-def]
    """The j-th of `want` edges that are drawn from a row's available ones."""
    position = np.int64(j)
    if want != available:
        position = _floyd(picked, j, available - want + j, draw)
    if len(masked):
        position += _masked_before(masked, position)
    return position


@njit(inline="always", cache=True)
def _floyd(picked, j, top, draw):  # type: ignore[no-untyped-def]
    """The j-th distinct draw, from the positions up to `top`, one more than the draw before had: a
    position that was drawn already is replaced by `top`. Source: Bentley and Floyd, CACM 1987.
    """
    word = mix64(draw + np.uint64(j) * np.uint64(0x9E3779B97F4A7C15))
    position = np.int64(((word >> np.uint64(32)) * np.uint64(top + 1)) >> np.uint64(32))
    for other in range(j):
        if picked[other] == position:
            position = top
            break
    picked[j] = position
    return position


@njit(cache=True, nogil=True)
def _rows_and_sizes(indptr, rows, fan_out):  # type: ignore[no-untyped-def]
    """Start and degree of each row, and the most edges that all rows and that one row can yield."""
    starts, degrees = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    total, widest, address = 0, np.int64(max(fan_out, 1)), indptr.ctypes.data
    for i in range(len(rows)):
        if i + _NODES_AHEAD < len(rows):
            fetch_ahead(address + 8 * rows[i + _NODES_AHEAD])
        start = indptr[rows[i]]
        degree = indptr[rows[i] + 1] - start
        starts[i], degrees[i] = start, degree
        total += degree if fan_out < 0 else min(degree, fan_out)
        widest = max(widest, degree if fan_out < 0 else widest)
    return starts, degrees, total, widest


@njit(cache=True, nogil=True)
def _to_local(ids, first, last, local_of, nodes, num_nodes):  # type: ignore[no-untyped-def]
    """Replaces global ids [first, last) by local ones. New nodes get the next local ids.

    Returns the number of local nodes.
    """
    address = local_of.ctypes.data
    for e in range(first, last):
        fetch_ahead(address + 4 * np.int64(ids[e]))
    return _name_nodes(ids, first, last, local_of, nodes, num_nodes)


@njit(inline="always", cache=True)
def _name_nodes(ids, first, last, local_of, nodes, num_nodes):  # type: ignore[no-untyped-def]
    """As `_to_local`, of ids whose places in `local_of` have been fetched."""
    for e in range(first, last):
        u = ids[e]
        if local_of[u] < 0:
            local_of[u] = num_nodes
            nodes[num_nodes] = u
            num_nodes += 1
        ids[e] = local_of[u]
    return num_nodes


@njit(cache=True, nogil=True)
def relabel(n_id, values, starts, counts, local_of):  # type: ignore[no-untyped-def]
    """Neighbours of nodes, which stand at values[starts[k] : starts[k] + counts[k]], as local ids.

    Returns the neighbours, node after node, and global ids by local id.
    """
    ids = np.empty(counts.sum(), np.int32)
    nodes = np.empty(min(len(n_id) + len(ids), len(local_of)), np.int64)
    nodes[: len(n_id)] = n_id
    num_nodes, done, edge = len(n_id), 0, 0
    of_values, of_local = values.ctypes.data, local_of.ctypes.data
    for k in range(len(starts)):
        if k + _NODES_AHEAD < len(starts):
            fetch_ahead(of_values + 4 * starts[k + _NODES_AHEAD])
        start = np.uint64(starts[k])  # an index that cannot be negative is not checked for it
        for e in range(np.uint64(counts[k])):
            u = values[start + e]
            ids[edge] = u
            fetch_ahead(of_local + 4 * np.int64(u))
            edge += 1
        if edge - done >= _CHUNK or k == len(starts) - 1:
            num_nodes = _name_nodes(ids, done, edge, local_of, nodes, num_nodes)
            done = edge
    return ids, nodes[:num_nodes].copy()


@njit(inline="always", cache=True)
def _masked_of(v, slot, indptr, positions):  # type: ignore[no-untyped-def]
    """Masked positions of a row, ascending."""
    if slot[v] < 0:
        return positions[:0]
    return positions[indptr[slot[v]] : indptr[slot[v] + 1]]


@njit(inline="always", cache=True)
def _masked_before(masked, k):  # type: ignore[no-untyped-def]
    """Masked positions before the k-th visible one: the largest i, masked[i - 1] - (i - 1) <= k."""
    low, high = 0, len(masked)
    while low < high:
        middle = (low + high) // 2
        if masked[middle] - middle <= k:
            low = middle + 1
        else:
            high = middle
    return low
