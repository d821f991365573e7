"""What a loader must ask of the edges: items of a batch, what is hidden, negatives, neighbours. Answered by the whole graph
here, or by the ranks that own the nodes (`parallel/partitioned.py`).

Legend: GB pairs of the global batch, b of this rank, P ranks.
"""

from typing import Protocol

import numpy as np

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.sampling.hidden import HiddenEdges
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbours import LocalDraws, NeighborDraws
from recmind_dist.types import BoolArray, IntArray


class EdgeSource(Protocol):
    """Every rank calls each method in the same order with the same global batch."""

    rows: EdgeRows

    def all_items(self, edges: IntArray, users: IntArray) -> IntArray:
        """Global item ids of edges (positions in the user half) of `users`. Shape: [GB]. Every rank must call."""
        ...

    def hidden(self, users: IntArray, items: IntArray, edges: IntArray) -> HiddenEdges:
        """These edges as far as this process draws over them."""
        ...

    def draws(self, hidden: HiddenEdges) -> NeighborDraws:
        """Who draws neighbours, with edges that no block may see."""
        ...

    def all_negatives(self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int) -> IntArray:
        """Negatives of this rank's pairs of the global batch [GB]. Shape: [b, num]. Every rank must call."""
        ...

    def all_positives(self, negatives: NegativeSampler, users: IntArray, shared: IntArray) -> BoolArray:
        """Which shared items are training positives of which distinct user, ascending, of this
        rank's pairs. Shape: [U, M]. Every rank must call.
        """
        ...


class WholeGraph:
    """`graph.placement: replicated`: every rank maps all edges and asks nobody."""

    def __init__(self, graph: Graph, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self._rank, self._world_size = EdgeRows.all_of(graph), rank, world_size

    def all_items(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `EdgeSource`."""
        return self.rows.indices[edges].astype(np.int64)

    def hidden(self, users: IntArray, items: IntArray, edges: IntArray) -> HiddenEdges:
        """See `EdgeSource`."""
        return HiddenEdges.of_edges(self.rows.graph, edges)

    def draws(self, hidden: HiddenEdges) -> NeighborDraws:
        """See `EdgeSource`."""
        return LocalDraws(self.rows, hidden)

    def all_negatives(self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int) -> IntArray:
        """See `EdgeSource`."""
        ids = share_of(len(users), self._rank, self._world_size)
        return negatives.for_pairs(users[ids], ids, key, items)

    def all_positives(self, negatives: NegativeSampler, users: IntArray, shared: IntArray) -> BoolArray:
        """See `EdgeSource`."""
        return negatives.positives_among(np.unique(users[share_of(len(users), self._rank, self._world_size)]), shared)


def share_of(total: int, rank: int, world_size: int) -> IntArray:
    """Places in a global batch that are a rank's. Shape: [b]."""
    return np.arange(total * rank // world_size, total * (rank + 1) // world_size, dtype=np.int64)
