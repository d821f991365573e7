"""Which table rows each rank holds."""

import numpy as np

from recmind_dist.errors import DataError
from recmind_dist.graph.partition import even_cut
from recmind_dist.graph.store import Graph
from recmind_dist.types import IntArray


def row_bounds(graph: Graph, world_size: int) -> IntArray:
    """Rank p holds rows [bounds[p], bounds[p + 1]). Shape: int64 [world_size + 1].

    The parts of the partition, one after the other as many to a rank, where their number is a multiple of the world's; else
    an even cut by count, which keeps most of the partition's locality because its rows are contiguous.

    Raises:
        DataError: there are more ranks than nodes.
    """
    if world_size > graph.num_nodes:
        raise DataError(
            f"{graph.name}: more ranks than nodes ({world_size} ranks, {graph.num_nodes} nodes): use fewer workers"
        )
    num_parts = len(graph.part_rows) - 1
    if num_parts % world_size == 0:
        return np.ascontiguousarray(graph.part_rows[:: num_parts // world_size])
    return even_cut(graph.num_nodes, world_size)
