"""What a loader needs from the edges: items of a batch, masks, negatives, neighbours.

`WholeGraph` reads the whole graph in this process; `sampling/partitioned_graph.py` asks the ranks
that own the nodes.

Legend: P ranks, b pairs of this rank, U distinct users of this rank, GB pairs of the global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.sampling.edge_masks import EdgeMask, edge_endpoints, heldout_slice
from recmind_dist.sampling.neighbor_sampler import LocalDraws, NeighborDraws
from recmind_dist.sampling.newest_items import Newest, NewestItems
from recmind_dist.sampling.owners import all_gather_ids
from recmind_dist.types import BoolArray, IndexArray, IntArray

if TYPE_CHECKING:
    from recmind_dist.sampling.shares import Share


@dataclass(frozen=True)
class Pairs:
    """Pairs of a global batch whose users' rows are in this process.

    Attributes:
        users, items: [n] global ids.
        input_id: [n] positions in the global batch.
    """

    users: IntArray
    items: IntArray
    input_id: IntArray


class PairLookup(Protocol):
    """Computes on this rank's pairs of a global batch, where the rows of their users are."""

    def map_pairs(self, answer: Callable[[Pairs], IntArray]) -> IntArray:
        """`answer` of each pair, [b, k]. Collective: every rank must call.

        Args:
            answer: [n] pairs → numbers below 2^31, [n, k]; called where the users' rows are.
        """
        ...

    def map_users(self, answer: Callable[[IntArray], BoolArray]) -> BoolArray:
        """`answer` of each distinct user, ascending, [U, k].

        Collective: every rank must call.

        Args:
            answer: users → [users, k]; called where the users' rows are.
        """
        ...

    def mask(self, items: IntArray) -> EdgeMask:
        """Masks the edges of the global batch in the rows that this process draws from.

        Collective: every rank must call.

        Args:
            items: [b] of this rank's pairs.
        """
        ...

    def gather_items(self, items: IntArray) -> IntArray:
        """The items of the global batch, [GB]. Collective: every rank must call.

        Its cost grows with the number of ranks.

        Args:
            items: [b] of this rank's pairs.
        """
        ...


class GraphAccess(Protocol):
    """Every rank calls the same methods in the same order."""

    rows: EdgeRows

    def items_of_edges(self, edges: IntArray, users: IntArray) -> IntArray:
        """Global item ids of edges that are known to all. Collective: every rank must call.

        Args:
            edges: positions in the user half, the same on every rank.
            users: global ids. Shape: as `edges`.
        """
        ...

    def mask_edges(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """Masks edges that are known to all, in the rows that this process draws from."""
        ...

    def heldout_edges(self, share: float, seed: int, withheld_items: float = 0.0) -> IntArray:
        """Edges that the gates learn from: see `heldout_slice`. Collective: every rank must call.

        Returns: positions in the user half, ascending, the same on every rank.
        """
        ...

    def draws(self, heldout: EdgeMask, degree: IndexArray) -> NeighborDraws:
        """Draws of neighbours, without the edges that no batch may see.

        Args:
            degree: [N] degrees to normalise by.
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

    def look_up(self, share: "Share", users: IntArray) -> PairLookup:
        """Looks this rank's pairs up. Collective: every rank must call.

        Args:
            share: of a global batch.
            users: [b] global ids of its edges.
        """
        ...

    def gather_counts(self, count: Callable[[int], IntArray]) -> IntArray:
        """What all ranks count, [P, n]. Collective: every rank must call.

        Args:
            count: rank → its numbers, [n].
        """
        ...


class WholeGraph:
    """`graph.placement: replicated`: every rank maps all edges.

    Args:
        context: of real ranks, which exchange counts alone. Default: they are worked out here, for
            one rank of `world_size` that is not there.
    """

    def __init__(
        self,
        graph: Graph,
        rank: int = 0,
        world_size: int = 1,
        context: DistContext | None = None,
    ) -> None:
        self.rows, self.context = EdgeRows.of_graph(graph), context
        self._rank, self._world_size = rank, world_size

    def items_of_edges(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `GraphAccess`."""
        return self.rows.indices[edges].astype(np.int64)

    def mask_edges(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """See `GraphAccess`."""
        return EdgeMask.of_edges(self.rows.graph, edges)

    def heldout_edges(self, share: float, seed: int, withheld_items: float = 0.0) -> IntArray:
        """See `GraphAccess`."""
        return np.flatnonzero(heldout_slice(self.rows.graph, share, seed, withheld_items))

    def draws(self, heldout: EdgeMask, degree: IndexArray) -> NeighborDraws:
        """See `GraphAccess`."""
        return LocalDraws(self.rows, heldout, degree)

    def newest_items(self, users: IntArray, newest: NewestItems, count: int) -> Newest:
        """See `GraphAccess`."""
        return newest.of_users(users, count)

    def look_up(self, share: "Share", users: IntArray) -> PairLookup:
        """See `GraphAccess`."""
        return WholeLookup(self.rows, share, users)

    def gather_counts(self, count: Callable[[int], IntArray]) -> IntArray:
        """See `GraphAccess`. Collective: every rank must call."""
        if self.context is not None:
            return gather_counts(count, self.context)
        return np.stack([count(rank) for rank in range(self._world_size)])


class WholeLookup:
    """See `PairLookup`: the rows of all nodes are here."""

    def __init__(self, rows: EdgeRows, share: "Share", users: IntArray) -> None:
        self._rows, self._share = rows, share
        items = rows.indices[share.edges].astype(np.int64)
        self._pairs = Pairs(users, items, share.input_id)

    def map_pairs(self, answer: Callable[[Pairs], IntArray]) -> IntArray:
        """See `PairLookup`."""
        return answer(self._pairs)

    def map_users(self, answer: Callable[[IntArray], BoolArray]) -> BoolArray:
        """See `PairLookup`."""
        return answer(np.unique(self._pairs.users))

    def mask(self, items: IntArray) -> EdgeMask:
        """See `PairLookup`. Reads the whole global batch."""
        return EdgeMask.of_edges(self._rows.graph, self._share.whole())

    def gather_items(self, items: IntArray) -> IntArray:
        """See `PairLookup`."""
        return edge_endpoints(self._rows.graph, self._share.whole())[1]


def gather_counts(count: Callable[[int], IntArray], context: DistContext) -> IntArray:
    """See `GraphAccess.gather_counts`. Collective: every rank must call."""
    own = count(context.rank)
    counts = np.full(context.world_size, len(own))
    return all_gather_ids(own, counts, context).reshape(context.world_size, -1)


def share_sizes(total: int, world_size: int) -> IntArray:
    """Pairs of a global batch that each rank has, [P]."""
    return np.diff(total * np.arange(world_size + 1, dtype=np.int64) // world_size)
