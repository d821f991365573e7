"""What a loader must ask of the edges: items of a batch, what is hidden, negatives, neighbours.
Answered by the whole graph
here, or by the ranks that own the nodes (`sampling/partitioned_graph.py`).

Legend: GB pairs of the global batch, b of this rank, P ranks.
"""

from typing import Protocol

import numpy as np

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.sampling.edge_masks import EdgeMask
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import LocalDraws, NeighborDraws
from recmind_dist.types import BoolArray, IntArray


class GraphAccess(Protocol):
    """Every rank calls each method in the same order with the same global batch."""

    rows: EdgeRows

    def all_items(self, edges: IntArray, users: IntArray) -> IntArray:
        """Global item ids of edges (positions in the user half) of `users`. Shape: [GB]. Every rank
        must call.
        """
        ...

    def hidden(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """These edges as far as this process draws over them."""
        ...

    def draws(self, hidden: EdgeMask) -> NeighborDraws:
        """Who draws neighbours, with edges that no block may see."""
        ...

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """Negatives of this rank's pairs of the global batch [GB]. Shape: [b, num]. Every rank must
        call.
        """
        ...

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """Which shared items are training positives of which distinct user, ascending, of this
        rank's pairs. Shape: [U, M]. Every rank must call.
        """
        ...


class WholeGraph:
    """`graph.placement: replicated`: every rank maps all edges and asks nobody."""

    def __init__(self, graph: Graph, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self._rank, self._world_size = EdgeRows.all_of(graph), rank, world_size

    def all_items(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `GraphAccess`."""
        return self.rows.indices[edges].astype(np.int64)

    def hidden(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """See `GraphAccess`."""
        return EdgeMask.of_edges(self.rows.graph, edges)

    def draws(self, hidden: EdgeMask) -> NeighborDraws:
        """See `GraphAccess`."""
        return LocalDraws(self.rows, hidden)

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """See `GraphAccess`."""
        ids = rank_slice(len(users), self._rank, self._world_size)
        return negatives.for_pairs(users[ids], ids, key, items)

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """See `GraphAccess`."""
        return negatives.positives_among(
            np.unique(users[rank_slice(len(users), self._rank, self._world_size)]), shared
        )


def rank_slice(total: int, rank: int, world_size: int) -> IntArray:
    """Places in a global batch that are a rank's. Shape: [b]."""
    return np.arange(total * rank // world_size, total * (rank + 1) // world_size, dtype=np.int64)
