"""Neighbour sampling: distinct neighbours without replacement, the same for everyone who asks with
the same key.

The neighbours of (hop, node) are a function of (key, hop, node) alone, so a block does not depend
on which rank builds it. Every hop draws afresh for *all* nodes of its frontier, old ones included:
one neighbourhood reused in all layers would bias walks that revisit a node.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.prefetch import fetch_ahead
from recmind_dist.randomness import mix64, mix64_pair, stream_key
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask
from recmind_dist.types import FloatArray, Int32Array, IntArray

_AT_ONCE = 256
"""Edges drawn before the first of them is read: what they lead to is on its way meanwhile, all of
it at the same time.
"""
_NODES_AHEAD = 16


@dataclass(frozen=True)
class SampledHops:
    """Hops from the seeds outwards. The nodes of each hop are a prefix of those of the next, so one
    id array serves all.

    Attributes:
        n_id: [N] global ids, seeds first.
        degree: [N] training degree.
        hops: over local ids. An edge u → v weighs (available / sampled) / √(deg_u deg_v), which
            makes the sampled sum an unbiased estimate of LightGCN's.
    """

    n_id: IntArray
    degree: IntArray
    hops: list[Hop]


class NeighborSampler(Protocol):
    """What a sampling backend offers."""

    def sample(self, seeds: IntArray, key: int, hidden: EdgeMask = NOTHING_MASKED) -> SampledHops:
        """Samples all hops around distinct `seeds` (global ids).

        Args:
            key: 64-bit stream key of this block; hidden: edges to leave out, beside those the
            sampler always hides.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """Sampled neighbours of some nodes, node after node.

    Attributes (n nodes that were asked for):
        counts: int32 [n].
        scale: float32 [n], (available / sampled) / √degree.
        neighbours: int32, local ids.
        n_id: [N] global ids by local id, those that were asked for first.
    """

    counts: Int32Array
    scale: FloatArray
    neighbours: Int32Array
    n_id: IntArray


class NeighborDraws(Protocol):
    """Who draws the neighbours of a hop: this process out of rows that are here, or the owners of
    the nodes.
    """

    def begin(self, hidden: EdgeMask) -> None:
        """A block begins, with edges of its own to hide."""
        ...

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """Neighbours of `n_id`, each a function of (key, node). Where owners are asked, every rank
        must call.

        Args:
            local_of: [N] local ids of all nodes, −1 where they have none; new nodes are numbered on
            in it.
        """
        ...

    def end(self) -> None:
        """The block is done."""
        ...


class LocalDraws:
    """Floyd's method with counter-based randomness over rows that are here. Holds one or two arrays
    of 4 bytes a row.

    Args:
        hidden: edges that no block may see.
    """

    def __init__(self, rows: EdgeRows, hidden: EdgeMask = NOTHING_MASKED) -> None:
        self.rows, self._hidden = rows, hidden
        count = len(rows.nodes)
        self._hidden_slot = np.full(count if len(hidden.nodes) else 0, -1, np.int32)
        self._hidden_slot[hidden.nodes] = np.arange(len(hidden.nodes), dtype=np.int32)
        self._step_slot = np.full(count, -1, np.int32)
        self._step = NOTHING_MASKED

    def begin(self, hidden: EdgeMask) -> None:
        """See `NeighborDraws`."""
        self._step = self._merged(hidden)
        self._step_slot[self._step.nodes] = np.arange(len(self._step.nodes), dtype=np.int32)

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """See `NeighborDraws`; all nodes must have their rows here."""
        return Drawn(*self._draw(n_id, fan_out, key, local_of))

    def answer(
        self, nodes: IntArray, fan_out: int, key: int
    ) -> tuple[Int32Array, FloatArray, Int32Array]:
        """What `draw` finds, with neighbours as global ids, for another rank that asks: counts,
        scale, neighbours.
        """
        counts, scale, neighbours, _ = self._draw(nodes, fan_out, key, np.empty(0, np.int32))
        return counts, scale, neighbours

    def _draw(
        self, nodes: IntArray, fan_out: int, key: int, local_of: Int32Array
    ) -> tuple[Int32Array, FloatArray, Int32Array, IntArray]:
        found: tuple[Int32Array, FloatArray, Int32Array, IntArray] = _draw_hop(
            self.rows.indptr,
            self.rows.indices,
            self.rows.rows_of(nodes),
            nodes,
            fan_out,
            np.uint64(key),
            local_of,
            self._hidden_slot,
            self._hidden.indptr,
            self._hidden.positions,
            self._step_slot,
            self._step.indptr,
            self._step.positions,
        )
        return found

    def end(self) -> None:
        """See `NeighborDraws`."""
        self._step_slot[self._step.nodes] = -1

    def _merged(self, step: EdgeMask) -> EdgeMask:
        """The step's hidden edges with, for the same nodes, those always hidden: so one list
        answers for a node.
        """
        if not len(step.nodes) or not len(self._hidden.nodes):
            return step
        slots = self._hidden_slot[step.nodes]
        both = slots >= 0
        counts = np.zeros(len(slots), np.int64)
        counts[both] = np.diff(self._hidden.indptr)[slots[both]]
        starts = np.where(both, self._hidden.indptr[np.maximum(slots, 0)], 0)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        extra = self._hidden.positions[np.repeat(starts, counts) + within]
        rank = np.concatenate(
            [
                np.repeat(np.arange(len(slots)), np.diff(step.indptr)),
                np.repeat(np.arange(len(slots)), counts),
            ]
        )
        position = np.concatenate([step.positions, extra])
        pairs = np.unique(np.stack([rank, position]), axis=1)
        indptr = np.searchsorted(pairs[0], np.arange(len(slots) + 1)).astype(np.int64)
        return EdgeMask(step.nodes, indptr, pairs[1])


class NumbaNeighborSampler:
    """Blocks out of the draws of `LocalDraws` over the memory-mapped CSR, or of other draws that
    keep to the same rule.

    Holds an array of 4 bytes a node beside theirs, so one instance serves one thread.

    Args:
        graph: the training graph; num_neighbors: fan-out a hop, -1 for all; hidden: edges that no
        batch may see; draws: who draws; None: this process, out of the whole graph.
    """

    def __init__(
        self,
        graph: Graph,
        num_neighbors: tuple[int, ...],
        hidden: EdgeMask = NOTHING_MASKED,
        draws: NeighborDraws | None = None,
    ) -> None:
        self.graph = graph
        self.num_neighbors = num_neighbors
        self._draws = draws if draws is not None else LocalDraws(EdgeRows.all_of(graph), hidden)
        self._local_of = np.full(graph.num_nodes, -1, np.int32)

    def sample(self, seeds: IntArray, key: int, hidden: EdgeMask = NOTHING_MASKED) -> SampledHops:
        """See `NeighborSampler.sample`. `seeds` must be distinct. Where owners draw, every rank
        must call.
        """
        self._draws.begin(hidden)
        try:
            n_id, drawn = self._draw_hops(seeds.astype(np.int64), key)
        finally:
            self._draws.end()
        degree = np.asarray(self.graph.degree)[n_id]
        return SampledHops(n_id, degree, hops_of(drawn, degree))

    def _draw_hops(self, seeds: IntArray, key: int) -> tuple[IntArray, list[Drawn]]:
        """Where owners draw, every rank must call."""
        n_id, hops = seeds.copy(), []
        self._local_of[n_id] = np.arange(len(n_id), dtype=np.int32)
        try:
            for hop, fan_out in enumerate(self.num_neighbors):
                drawn = self._draws.draw(n_id, fan_out, stream_key(key, "hop", hop), self._local_of)
                n_id = drawn.n_id
                hops.append(drawn)
            return n_id, hops
        finally:
            self._local_of[n_id] = -1


def hops_of(drawn: list[Drawn], degree_N: IntArray) -> list[Hop]:
    """Hops out of what was drawn for each, from the seeds outwards.

    Args:
        degree_N: of all local nodes.
    """
    inverse_root = np.maximum(degree_N, 1).astype(np.float32) ** -0.5
    hops = []
    for hop in drawn:
        indptr = np.zeros(len(hop.counts) + 1, np.int32)
        np.cumsum(hop.counts, out=indptr[1:])
        weight = _edge_weights(indptr, hop.neighbours, hop.scale, inverse_root)
        matrix = CsrMatrix.of_arrays(indptr, hop.neighbours, weight, len(hop.n_id))
        hops.append(Hop.of(matrix))
    return hops


@njit(cache=True, nogil=True)
def _edge_weights(indptr, indices, dst_scale, src_scale):  # type: ignore[no-untyped-def]
    out = np.empty(len(indices), np.float32)
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            out[e] = dst_scale[v] * src_scale[indices[e]]
    return out


@njit(cache=True, nogil=True)
def _draw_hop(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    rows,
    ids,
    fan_out,
    key,
    local_of,
    always_slot,
    always_indptr,
    always_positions,
    step_slot,
    step_indptr,
    step_positions,
):
    starts, degrees, total, widest = _rows_and_sizes(indptr, rows, fan_out)
    counts = np.zeros(len(rows), np.int32)
    out = np.empty(total, np.int32)
    scale = np.zeros(len(rows), np.float32)
    edge, done, num_nodes = 0, 0, len(ids)
    nodes = np.empty(min(len(ids) + total, len(local_of)), np.int64)
    if len(local_of):
        nodes[:num_nodes] = ids
    picked = np.empty(widest, np.int64)
    places = np.empty(widest + _AT_ONCE, np.int64)  # of edges that are drawn but not yet read
    address = indices.ctypes.data
    for i in range(len(rows)):
        r, degree = rows[i], degrees[i]
        hidden = (
            _hidden_of(r, step_slot, step_indptr, step_positions)
            if len(step_positions)
            else step_positions
        )
        if not len(hidden) and len(always_slot):
            hidden = _hidden_of(r, always_slot, always_indptr, always_positions)
        available = degree - len(hidden)
        want = available if fan_out < 0 else min(fan_out, available)
        draw = mix64_pair(key, ids[i])
        if want > 0:
            counts[i] = want
            scale[i] = np.float32(available / (want * np.sqrt(np.float64(degree))))
        for j in range(want):
            position = np.int64(j)
            if want != available:
                # Floyd: the j-th draw is from one position more than the last; a repeat takes the
                # new position itself
                top = available - want + j
                word = mix64(draw + np.uint64(j) * np.uint64(0x9E3779B97F4A7C15))
                position = np.int64(((word >> np.uint64(32)) * np.uint64(top + 1)) >> np.uint64(32))
                for other in range(j):
                    if picked[other] == position:
                        position = top
                        break
                picked[j] = position
            if len(hidden):
                position += _hidden_before(hidden, position)
            place = starts[i] + position
            fetch_ahead(address + 4 * place)
            places[edge - done] = place
            edge += 1
        if edge - done >= _AT_ONCE or i == len(rows) - 1:
            for e in range(done, edge):
                out[e] = indices[places[e - done]]
            if len(local_of):
                num_nodes = _name(out, done, edge, local_of, nodes, num_nodes)
            done = edge
    return counts, scale, out[:edge], nodes[:num_nodes].copy()


@njit(cache=True, nogil=True)
def _rows_and_sizes(indptr, rows, fan_out):  # type: ignore[no-untyped-def]
    """Where rows begin, their degrees, the most edges that they can give, and the most that one
    can.
    """
    starts, degrees = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    total, widest, address = 0, np.int64(max(fan_out, 1)), indptr.ctypes.data
    for i in range(len(rows)):
        if i + _NODES_AHEAD < len(rows):
            fetch_ahead(address + 8 * rows[i + _NODES_AHEAD])
        start = indptr[rows[i]]
        degree = indptr[rows[i] + 1] - start
        starts[i], degrees[i] = start, degree
        total += degree if fan_out < 0 else min(degree, fan_out)
        widest = max(widest, degree if fan_out < 0 else widest)
    return starts, degrees, total, widest


@njit(cache=True, nogil=True)
def _name(ids, first, last, local_of, nodes, num_nodes):  # type: ignore[no-untyped-def]
    """Global ids [first, last) → local ones, in place; nodes met for the first time are numbered
    on. Returns their number.
    """
    address = local_of.ctypes.data
    for e in range(first, last):
        fetch_ahead(address + 4 * np.int64(ids[e]))
    for e in range(first, last):
        u = ids[e]
        if local_of[u] < 0:
            local_of[u] = num_nodes
            nodes[num_nodes] = u
            num_nodes += 1
        ids[e] = local_of[u]
    return num_nodes


@njit(cache=True, nogil=True)
def relabel(n_id, ids, local_of):  # type: ignore[no-untyped-def]
    """Global ids → local ones, in place. Returns the global ids by local id."""
    nodes = np.empty(min(len(n_id) + len(ids), len(local_of)), np.int64)
    nodes[: len(n_id)] = n_id
    num_nodes = len(n_id)
    for first in range(0, len(ids), _AT_ONCE):
        num_nodes = _name(ids, first, min(first + _AT_ONCE, len(ids)), local_of, nodes, num_nodes)
    return nodes[:num_nodes].copy()


@njit(inline="always", cache=True)
def _hidden_of(v, slot, indptr, positions):  # type: ignore[no-untyped-def]
    """Hidden positions of a node's row, ascending; none where it has no slot."""
    if slot[v] < 0:
        return positions[:0]
    return positions[indptr[slot[v]] : indptr[slot[v] + 1]]


@njit(inline="always", cache=True)
def _hidden_before(hidden, k):  # type: ignore[no-untyped-def]
    """How many hidden positions lie before the k-th visible one: the largest i with hidden[i - 1] -
    (i - 1) <= k.
    """
    low, high = 0, len(hidden)
    while low < high:
        middle = (low + high) // 2
        if hidden[middle] - middle <= k:
            low = middle + 1
        else:
            high = middle
    return low
