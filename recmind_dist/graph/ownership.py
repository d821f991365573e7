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


@njit(cache=True, nogil=True)
def _group(rows, bounds, order, starts):  # type: ignore[no-untyped-def]
    """Fills `order` and `starts` [P + 2], where starts[p + 1] is the cursor of rank p meanwhile."""
    owner = np.empty(len(rows), np.int32)
    for k in range(len(rows)):
        low, high = 0, len(bounds) - 1  # bounds[low] <= row < bounds[high]
        while high - low > 1:
            middle = (low + high) // 2
            if rows[k] < bounds[middle]:
                high = middle
            else:
                low = middle
        owner[k] = low
        starts[low + 2] += 1
    for p in range(2, len(starts)):
        starts[p] += starts[p - 1]
    for k in range(len(rows)):
        at = starts[owner[k] + 1]
        starts[owner[k] + 1] = at + 1
        order[at] = k
