"""What a loader needs from the edges: items of a batch, masks, negatives, neighbours.

`WholeGraph` reads the whole graph in this process; `sampling/partitioned_graph.py` asks the ranks
that own the nodes.

Legend: GB pairs of the global batch, b of this rank, U distinct users of this rank, M shared
negatives.
"""

from typing import Protocol

import numpy as np

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.sampling.edge_masks import EdgeMask, heldout_slice
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import LocalDraws, NeighborDraws
from recmind_dist.sampling.newest_items import Newest, NewestItems
from recmind_dist.types import BoolArray, IntArray


class GraphAccess(Protocol):
    """Every rank calls the same methods in the same order with the same global batch."""

    rows: EdgeRows

    def items_of_edges(self, edges: IntArray, users: IntArray) -> IntArray:
        """Global item ids of edges of `users`. Collective: every rank must call.

        Args:
            edges: [GB] positions in the user half.
            users: [GB] global ids.
        """
        ...

    def mask_edges(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """Masks these edges in the rows that this process draws from."""
        ...

    def heldout_edges(self, share: float, seed: int, withheld_items: float = 0.0) -> IntArray:
        """Edges that the gates learn from: see `heldout_slice`. Collective: every rank must call.

        Returns: positions in the user half, ascending, the same on every rank.
        """
        ...

    def draws(self, heldout: EdgeMask, degree: IntArray) -> NeighborDraws:
        """Draws of neighbours, without the edges that no batch may see.

        Args:
            degree: [N] as which nodes count.
        """
        ...

    def newest_items(self, users: IntArray, newest: NewestItems, count: int) -> Newest:
        """The newest items of these users. Collective: every rank must call.

        Args:
            users: [U] distinct global ids, this rank's own choice.
            newest: of the rows that this process has.
            count: most items of a user; -1 for all.
        """
        ...

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """Negatives of this rank's pairs, [b, num]. Collective: every rank must call.

        Args:
            users, items: [GB] global ids.
        """
        ...

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """Whether each shared item is a training positive of each distinct user of this rank.

        Users ascend. Shape: [U, M]. Collective: every rank must call.
        """
        ...


class WholeGraph:
    """`graph.placement: replicated`: every rank maps all edges, and nothing is sent."""

    def __init__(self, graph: Graph, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self._rank, self._world_size = EdgeRows.of_graph(graph), rank, world_size

    def items_of_edges(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `GraphAccess`."""
        return self.rows.indices[edges].astype(np.int64)

    def mask_edges(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """See `GraphAccess`."""
        return EdgeMask.of_edges(self.rows.graph, edges)

    def heldout_edges(self, share: float, seed: int, withheld_items: float = 0.0) -> IntArray:
        """See `GraphAccess`."""
        return np.flatnonzero(heldout_slice(self.rows.graph, share, seed, withheld_items))

    def draws(self, heldout: EdgeMask, degree: IntArray) -> NeighborDraws:
        """See `GraphAccess`."""
        return LocalDraws(self.rows, heldout, degree)

    def newest_items(self, users: IntArray, newest: NewestItems, count: int) -> Newest:
        """See `GraphAccess`."""
        return newest.of_users(users, count)

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """See `GraphAccess`."""
        pairs = rank_slice(len(users), self._rank, self._world_size)
        return negatives.for_pairs(users[pairs], pairs, key, items)

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """See `GraphAccess`."""
        pairs = rank_slice(len(users), self._rank, self._world_size)
        return negatives.positives_among(np.unique(users[pairs]), shared)


def rank_slice(total: int, rank: int, world_size: int) -> IntArray:
    """Positions in a global batch that belong to a rank. Shape: [b]."""
    return np.arange(total * rank // world_size, total * (rank + 1) // world_size, dtype=np.int64)
