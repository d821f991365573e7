"""Which table rows each rank holds (P ranks)."""

import numpy as np
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph.partition import even_cut
from recmind_dist.graph.store import Graph
from recmind_dist.types import IntArray


def row_bounds(graph: Graph, world_size: int) -> IntArray:
    """Rank p holds rows [bounds[p], bounds[p + 1]). Shape: int64 [P + 1].

    If the number of parts is a multiple of `world_size`, each rank holds the same number of
    consecutive parts. Otherwise rows are cut evenly, which keeps most of the partition's locality.

    Raises:
        DataError: there are more ranks than nodes.
    """
    if world_size > graph.num_nodes:
        raise DataError(
            f"{graph.name}: more ranks than nodes ({world_size} ranks, {graph.num_nodes} nodes): "
            "use fewer workers"
        )
    num_parts = len(graph.part_rows) - 1
    if num_parts % world_size == 0:
        return np.ascontiguousarray(graph.part_rows[:: num_parts // world_size])
    return even_cut(graph.num_nodes, world_size)


def by_owner(rows: IntArray, bounds: IntArray) -> tuple[IntArray, IntArray]:
    """Groups table rows by the rank that holds them, in stable order.

    Args:
        rows: table rows, [n].
        bounds: see `row_bounds`, [P + 1].

    Returns:
        Positions in `rows` rank by rank, [n], and the start of each rank's positions, [P + 1].
    """
    order = np.empty(len(rows), np.int64)
    starts = np.zeros(len(bounds) + 1, np.int64)
    _group(rows, bounds, order, starts)
    return order, starts[:-1]


_BUCKETS = 8  # of rows, for each rank, at most


@njit(cache=True, nogil=True)
def _group(rows, bounds, order, starts):  # type: ignore[no-untyped-def]
    """Fills `order` and `starts` [P + 2], where starts[p + 1] is the cursor of rank p meanwhile."""
    world_size = len(bounds) - 1
    # the rank of a row is that of its bucket's first row, or one of the next few
    shift = 0
    while bounds[world_size] >> shift > _BUCKETS * world_size:
        shift += 1
    first_rank = np.empty((bounds[world_size] >> shift) + 1, np.int32)
    p = 0
    for bucket in range(len(first_rank)):
        while p < world_size - 1 and bucket << shift >= bounds[p + 1]:
            p += 1
        first_rank[bucket] = p
    owner = np.empty(len(rows), np.int32)
    for k in range(len(rows)):
        p = first_rank[rows[k] >> shift]
        while rows[k] >= bounds[p + 1]:
            p += 1
        owner[k] = p
        starts[p + 2] += 1
    for p in range(2, len(starts)):
        starts[p] += starts[p - 1]
    for k in range(len(rows)):
        at = starts[owner[k] + 1]
        starts[owner[k] + 1] = at + 1
        order[at] = k
