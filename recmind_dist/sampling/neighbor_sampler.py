"""Neighbour sampling: distinct neighbours, drawn without replacement.

The neighbours of (hop, node) are a function of (key, hop, node), so a block does not depend on the
rank that builds it. Every hop draws anew for *all* nodes of its frontier: one neighbourhood reused
in all layers would bias walks that revisit a node.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.kernels.edge_arrays import edge_weights
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.neighbor_draws import draw_hop
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask
from recmind_dist.types import FloatArray, IndexArray, Int32Array, IntArray


@dataclass(frozen=True)
class SampledHops:
    """Hops from the seeds outwards, over local ids.

    The nodes of each hop are a prefix of those of the next, so one id array serves all hops.

    Attributes:
        n_id: [N] global ids, seeds first.
        degree: [N] degrees to normalise by.
        hops: an edge u → v weighs (available / sampled) / √(deg_u deg_v), so that the sampled sum
            is an unbiased estimate of LightGCN's.
    """

    n_id: IntArray
    degree: IntArray
    hops: list[Hop]


class NeighborSampler(Protocol):
    """A sampling backend."""

    def sample(
        self, seeds: IntArray, key: int, batch_mask: EdgeMask = NOTHING_MASKED
    ) -> SampledHops:
        """Samples all hops around `seeds`.

        Collective with a partitioned graph: every rank must call.

        Args:
            seeds: distinct global ids.
            key: 64-bit stream key of this block.
            batch_mask: edges to leave out, besides held-out ones.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """Sampled neighbours of some nodes, node after node.

    Attributes (n nodes whose neighbours were drawn):
        counts: [n] neighbours of each.
        scale: [n] (available / sampled) / √degree.
        neighbours: local ids.
        n_id: [N] global ids by local id; the n nodes come first.
    """

    counts: Int32Array
    scale: FloatArray
    neighbours: Int32Array
    n_id: IntArray


class NeighborDraws(Protocol):
    """Draws the neighbours of a hop, from rows of this process or through the nodes' owners."""

    def begin(self, batch_mask: EdgeMask) -> None:
        """Begins a block that leaves out the edges of `batch_mask`."""
        ...

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """Neighbours of `n_id`, each a function of (key, node).

        Collective with a partitioned graph: every rank must call.

        Args:
            n_id: global ids.
            fan_out: neighbours of each, -1 for all.
            key: 64-bit stream key of this hop.
            local_of: [num_nodes] local id of each node, -1 for none. New nodes get the next ids.
        """
        ...

    def end(self) -> None:
        """Ends the block."""
        ...


class LocalDraws:
    """Floyd's method with counter-based randomness, over rows of this process.

    Holds one or two arrays of 4 bytes a row.

    Args:
        rows: those of all nodes that will be drawn for.
        heldout: edges that no block may see.
        degree: [N] degrees to normalise by; by default those of all training edges.
    """

    def __init__(
        self,
        rows: EdgeRows,
        heldout: EdgeMask = NOTHING_MASKED,
        degree: IndexArray | None = None,
    ) -> None:
        self.rows, self._heldout = rows, heldout
        self._degree: IndexArray = np.asarray(rows.graph.degree) if degree is None else degree
        count = len(rows.nodes)
        self._heldout_slot = np.full(count if len(heldout.nodes) else 0, -1, np.int32)
        self._heldout_slot[heldout.nodes] = np.arange(len(heldout.nodes), dtype=np.int32)
        self._batch_mask = NOTHING_MASKED
        self._batch_slot = np.full(count, -1, np.int32)

    def begin(self, batch_mask: EdgeMask) -> None:
        """See `NeighborDraws`."""
        self._batch_mask = self._with_heldout(batch_mask)
        nodes = self._batch_mask.nodes
        self._batch_slot[nodes] = np.arange(len(nodes), dtype=np.int32)

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """See `NeighborDraws`."""
        return Drawn(*self._draw(n_id, fan_out, key, local_of))

    def draw_global_ids(
        self, nodes: IntArray, fan_out: int, key: int
    ) -> tuple[Int32Array, FloatArray, Int32Array]:
        """Counts, scale and neighbours as `draw` returns them, but neighbours as global ids."""
        counts, scale, neighbours, _ = self._draw(nodes, fan_out, key, np.empty(0, np.int32))
        return counts, scale, neighbours

    def _draw(
        self, nodes: IntArray, fan_out: int, key: int, local_of: Int32Array
    ) -> tuple[Int32Array, FloatArray, Int32Array, IntArray]:
        found: tuple[Int32Array, FloatArray, Int32Array, IntArray] = draw_hop(
            self.rows.indptr,
            self.rows.indices,
            self.rows.rows_of(nodes),
            nodes,
            self._degree[nodes].astype(np.int64, copy=False),
            fan_out,
            np.uint64(key),
            local_of,
            self._heldout_slot,
            self._heldout.indptr,
            self._heldout.positions,
            self._batch_slot,
            self._batch_mask.indptr,
            self._batch_mask.positions,
        )
        return found

    def end(self) -> None:
        """See `NeighborDraws`."""
        self._batch_slot[self._batch_mask.nodes] = -1

    def _with_heldout(self, batch_mask: EdgeMask) -> EdgeMask:
        """`batch_mask` plus the held-out edges of its nodes, so that one list serves a node."""
        if not len(batch_mask.nodes) or not len(self._heldout.nodes):
            return batch_mask
        slots = self._heldout_slot[batch_mask.nodes]
        both = slots >= 0
        counts = np.zeros(len(slots), np.int64)
        counts[both] = np.diff(self._heldout.indptr)[slots[both]]
        starts = np.where(both, self._heldout.indptr[np.maximum(slots, 0)], 0)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        extra = self._heldout.positions[np.repeat(starts, counts) + within]
        slot = np.tile(np.arange(len(slots)), 2)
        slot = np.repeat(slot, np.concatenate([np.diff(batch_mask.indptr), counts]))
        position = np.concatenate([batch_mask.positions, extra])
        pairs = np.unique(np.stack([slot, position]), axis=1)
        indptr = np.searchsorted(pairs[0], np.arange(len(slots) + 1)).astype(np.int64)
        return EdgeMask(batch_mask.nodes, indptr, pairs[1])


class NumbaNeighborSampler:
    """See `NeighborSampler`. Holds an array of 4 bytes a node, so an instance serves one thread.

    Args:
        graph: the training graph.
        num_neighbors: fan-out of each hop, -1 for all neighbours.
        heldout: edges that no batch may see, unless `draws` is given.
        draws: source of neighbours. Default: `LocalDraws` over the whole graph.
        degree: [N] degrees to normalise by; by default those of all training edges.
    """

    def __init__(
        self,
        graph: Graph,
        num_neighbors: tuple[int, ...],
        heldout: EdgeMask = NOTHING_MASKED,
        draws: NeighborDraws | None = None,
        degree: IndexArray | None = None,
    ) -> None:
        self.graph = graph
        self.num_neighbors = num_neighbors
        self._degree: IndexArray = np.asarray(graph.degree) if degree is None else degree
        self._draws = draws or LocalDraws(EdgeRows.of_graph(graph), heldout, self._degree)
        self._local_of = np.full(graph.num_nodes, -1, np.int32)

    def sample(
        self, seeds: IntArray, key: int, batch_mask: EdgeMask = NOTHING_MASKED
    ) -> SampledHops:
        """See `NeighborSampler`. Collective with a partitioned graph: every rank must call."""
        self._draws.begin(batch_mask)
        try:
            n_id, drawn = self._draw_hops(seeds.astype(np.int64), key)
        finally:
            self._draws.end()
        degree = self._degree[n_id].astype(np.int64, copy=False)
        return SampledHops(n_id, degree, hops_of(drawn, degree))

    def _draw_hops(self, seeds: IntArray, key: int) -> tuple[IntArray, list[Drawn]]:
        """Collective with a partitioned graph: every rank must call."""
        n_id, hops = seeds.copy(), list[Drawn]()
        self._local_of[n_id] = np.arange(len(n_id), dtype=np.int32)
        try:
            for hop, fan_out in enumerate(self.num_neighbors):
                key_of_hop = stream_key(key, "hop", hop)
                hops.append(self._draws.draw(n_id, fan_out, key_of_hop, self._local_of))
                n_id = hops[-1].n_id
            return n_id, hops
        finally:
            self._local_of[n_id] = -1


def hops_of(drawn: list[Drawn], degree_N: IntArray) -> list[Hop]:
    """Weighted hops of what was drawn, from the seeds outwards.

    Args:
        degree_N: as which the local nodes count.
    """
    inverse_root = np.maximum(degree_N, 1).astype(np.float32) ** -0.5
    hops = []
    for hop in drawn:
        indptr = np.zeros(len(hop.counts) + 1, np.int32)
        np.cumsum(hop.counts, out=indptr[1:])
        weight = edge_weights(indptr, hop.neighbours, hop.scale, inverse_root)
        matrix = CsrMatrix.of_arrays(indptr, hop.neighbours, weight, len(hop.n_id))
        hops.append(Hop.of(matrix))
    return hops
