"""Which training edges of a global batch are whose.

An epoch's order is a permutation that is evaluated point by point. A step's positions in it (of
pairs, or of users with all their edges) are cut into P cells. Each rank counts the edges of its own
cell; from the counts of all cells follows in which few cells a rank's share of the edges lies. So a
share costs as much on a thousand ranks as on two.

Legend: P ranks, GB edges of a global batch, b of one rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from recmind_dist.graph import Graph
from recmind_dist.graph.csr import entries_of_rows
from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.sampling.edge_masks import are_among
from recmind_dist.sampling.graph_access import GraphAccess
from recmind_dist.types import IntArray

COUNTED_AHEAD = 1 << 14
"""Positions of a rank whose edges are counted before counts are exchanged."""


@dataclass(frozen=True)
class Share:
    """A rank's edges of a global batch, which follow one another there.

    Attributes:
        edges: [b] positions in the user half; of a `DeviceLoader` a tensor.
        first: position of the first one in the global batch.
        total: GB.
        whole: makes the edges of the global batch, [GB]. Its cost grows with the number of ranks.
    """

    edges: Any
    first: int
    total: int
    whole: Callable[[], Any]

    @property
    def input_id(self) -> IntArray:
        """[b] positions in the global batch."""
        return np.arange(self.first, self.first + len(self.edges), dtype=np.int64)


class Shares:
    """A rank's shares of the global batches of all epochs.

    Args:
        batch_size: pairs, or users, of the global batch.
        batch_of: "pairs" or "users".
        steps: in an epoch.
        heldout: ascending positions of edges that are in no batch.
        seed: of the order.
        source: through which counts are exchanged.
    """

    def __init__(
        self,
        graph: Graph,
        batch_size: int,
        batch_of: str,
        steps: int,
        heldout: IntArray,
        seed: int,
        rank: int,
        world_size: int,
        source: GraphAccess,
    ) -> None:
        self._graph, self._batch_size, self._steps = graph, batch_size, steps
        self.batch_of = batch_of
        self._heldout, self._seed, self._source = heldout, seed, source
        self.rank, self.world_size = rank, world_size
        self._num_positions = graph.num_users if batch_of == "users" else graph.num_edges
        self._counted: tuple[int, range, IntArray] = -1, range(0), np.zeros((0, 0), np.int64)

    def of_step(self, epoch: int, i: int) -> Share:
        """This rank's share of an epoch's i-th global batch. Collective: every rank must call."""
        whole = partial(self._edges, epoch, i, 0, self.world_size)
        if self.world_size == 1:
            edges = whole()
            return Share(edges, 0, len(edges), whole)
        ends = np.append(0, np.cumsum(self._count(epoch, i)))
        total = int(ends[-1])
        first, last = (total * (self.rank + k) // self.world_size for k in (0, 1))
        if first == last:
            return Share(np.zeros(0, np.int64), first, total, whole)
        cell = int(np.searchsorted(ends, first, side="right")) - 1
        stop = int(np.searchsorted(ends, last, side="left"))
        edges = self._edges(epoch, i, cell, stop)[first - ends[cell] : last - ends[cell]]
        return Share(edges, first, total, whole)

    def _count(self, epoch: int, i: int) -> IntArray:
        """Edges of each cell, [P]: those of some steps are exchanged at once.

        Collective: every rank must call.
        """
        if self.batch_of == "pairs" and not len(self._heldout):
            return np.diff(self._cells(i))
        if not self._knows(epoch, i):
            ahead = max(1, COUNTED_AHEAD * self.world_size // self._batch_size)
            steps = range(i, min(i + ahead, self._steps))
            counts = self._source.gather_counts(partial(self._count_cell, epoch, steps))
            self._counted = epoch, steps, counts
        _, steps, counts = self._counted
        return counts[:, i - steps.start]

    def _knows(self, epoch: int, i: int) -> bool:
        """Whether the counts of this step have come; the same on every rank."""
        known, steps, _ = self._counted
        return known == epoch and i in steps

    def _count_cell(self, epoch: int, steps: range, rank: int) -> IntArray:
        """Edges of a rank's cell in some steps."""
        sizes = [len(self._edges(epoch, i, rank, rank + 1)) for i in steps]
        return np.array(sizes, np.int64)

    def _cells(self, i: int) -> IntArray:
        """Where the cells of a step begin in the epoch's order, and end, [P + 1]."""
        start = i * self._batch_size
        count = min(start + self._batch_size, self._num_positions) - start
        return start + count * np.arange(self.world_size + 1, dtype=np.int64) // self.world_size

    def _edges(self, epoch: int, i: int, cell: int, stop: int) -> IntArray:
        """The edges of cells [cell, stop) of an epoch's i-th global batch."""
        cells = self._cells(i)
        order = Permutation(self._num_positions, stream_key(self._seed, "epoch", epoch))
        drawn = order(np.arange(cells[cell], cells[stop], dtype=np.int64))
        edges = edges_of_users(self._graph, drawn) if self.batch_of == "users" else drawn
        return edges[~are_among(edges, self._heldout)]


def gate_share(
    edges: IntArray, batch_size: int, step: int, seed: int, rank: int, world_size: int
) -> Share:
    """A rank's share of a step's gate batch, which goes round and round `edges` in one order.

    Args:
        edges: that gates learn from, as positions in the user half.
        batch_size: pairs of the global gate batch.
    """
    draw = partial(_gate_edges, edges, step * batch_size, stream_key(seed, "gate-order"))
    first, last = (batch_size * (rank + k) // world_size for k in (0, 1))
    return Share(draw(first, last), first, batch_size, partial(draw, 0, batch_size))


def _gate_edges(edges: IntArray, start: int, key: int, first: int, last: int) -> IntArray:
    """Those at [first, last) of the gate batch that begins at `start` of the order."""
    order = Permutation(len(edges), key)
    return edges[order((np.arange(first, last, dtype=np.int64) + start) % len(edges))]


def edges_of_users(graph: Graph, users: IntArray) -> IntArray:
    """All edges of `users` as positions in the user half, user after user, ascending in each."""
    return entries_of_rows(graph.indptr, users)
