"""Which table rows each rank holds."""

import numpy as np
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph.partition import even_cut
from recmind_dist.graph.store import Graph
from recmind_dist.types import IntArray


def row_bounds(graph: Graph, world_size: int) -> IntArray:
    """Rank p holds rows [bounds[p], bounds[p + 1]). Shape: int64 [world_size + 1].

    The parts of the partition, one after the other as many to a rank, where their number is a
    multiple of the world's; else an even cut by count, which keeps most of the partition's locality
    because its rows are contiguous.

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
    """Places of these table rows rank by rank, in their order within each, [n], and where each
    rank's begin, [P + 1].

    Args:
        rows: [n]; bounds: [P + 1] of the ranks.
    """
    order, starts = np.empty(len(rows), np.int64), np.zeros(len(bounds) + 1, np.int64)
    _deal(rows, bounds, order, starts)
    return order, starts[:-1]


@njit(cache=True, nogil=True)
def _deal(rows, bounds, order, starts):  # type: ignore[no-untyped-def]
    """Beginnings stand one place late in `starts` [P + 2] until each rank was dealt its rows."""
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
