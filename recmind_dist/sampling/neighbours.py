"""Neighbour sampling: distinct neighbours without replacement, the same for everyone who asks with the same key.

The neighbours of (hop, node) are a function of (key, hop, node) alone, so a block does not depend on which rank builds
it. Every hop draws afresh for *all* nodes of its frontier, old ones included: one neighbourhood reused in all layers
would bias walks that revisit a node.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.fetch_ahead import fetch_ahead
from recmind_dist.graph import Graph
from recmind_dist.randomness import mix64, mix64_pair, stream_key
from recmind_dist.sampling.hidden import NOTHING_HIDDEN, HiddenEdges
from recmind_dist.types import Int32Array, IntArray

_AT_ONCE = 256
"""Edges drawn before the first of them is read: what they lead to is on its way meanwhile, all of it at the same time."""
_NODES_AHEAD = 16


@dataclass(frozen=True)
class Hop:
    """One sampled bipartite hop, CSR over local ids; destinations are the first `num_dst` local nodes.

    Shapes:
        indptr: int64 [num_dst + 1]; indices: int32 [edges], local source ids; dst_scale: float32 [num_dst], the factor
        (available / sampled) / √degree that makes the sampled sum an unbiased estimate of LightGCN's, up to the
        source's own 1/√degree.
    """

    indptr: Tensor
    indices: Tensor
    dst_scale: Tensor
    num_src: int

    @property
    def num_dst(self) -> int:
        return len(self.indptr) - 1

    def to(self, device: torch.device) -> "Hop":
        """Moves every tensor."""
        indptr, indices, scale = (t.to(device, non_blocking=True) for t in (self.indptr, self.indices, self.dst_scale))
        return Hop(indptr, indices, scale, self.num_src)

    @staticmethod
    def of_arrays(indptr: np.ndarray, indices: np.ndarray, dst_scale: np.ndarray, num_src: int) -> "Hop":
        """Wraps numpy arrays without a copy."""
        return Hop(torch.from_numpy(indptr), torch.from_numpy(indices), torch.from_numpy(dst_scale), num_src)


@dataclass(frozen=True)
class SampledHops:
    """Hops from the seeds outwards. The nodes of each hop are a prefix of those of the next, so one id array serves all.

    Shapes:
        n_id: [N] global ids, seeds first; degree: [N] training degree (or the simulated one).
    """

    n_id: IntArray
    degree: IntArray
    hops: list[Hop]


class NeighborSampler(Protocol):
    """What a sampling backend offers."""

    def sample(
        self, seeds: IntArray, key: int, hidden: HiddenEdges = NOTHING_HIDDEN, simulated: dict[int, int] | None = None
    ) -> SampledHops:
        """Samples all hops around distinct `seeds` (global ids).

        Args:
            key: 64-bit stream key of this block; hidden: edges to leave out, beside those the sampler always hides;
            simulated: node → degree as which it shall be treated (cold simulation).
        """
        ...


class NumbaNeighborSampler:
    """Floyd's method with counter-based randomness over the memory-mapped CSR.

    Holds three to four arrays of 4 bytes a node, so one instance serves one thread.

    Args:
        graph: the training graph; num_neighbors: fan-out a hop, -1 for all; hidden: edges that no batch may see.
    """

    def __init__(self, graph: Graph, num_neighbors: tuple[int, ...], hidden: HiddenEdges = NOTHING_HIDDEN) -> None:
        self.graph = graph
        self.num_neighbors = num_neighbors
        self._local_of = np.full(graph.num_nodes, -1, np.int32)
        self._hidden_slot = np.full(graph.num_nodes if len(hidden.nodes) else 0, -1, np.int32)
        self._hidden_slot[hidden.nodes] = np.arange(len(hidden.nodes), dtype=np.int32)
        self._hidden = hidden
        self._step_slot = np.full(graph.num_nodes, -1, np.int32)
        self._simulated = np.full(graph.num_nodes, -1, np.int32)

    def sample(
        self, seeds: IntArray, key: int, hidden: HiddenEdges = NOTHING_HIDDEN, simulated: dict[int, int] | None = None
    ) -> SampledHops:
        """See `NeighborSampler.sample`. `seeds` must be distinct."""
        step_hidden = self._merged(hidden)
        self._step_slot[step_hidden.nodes] = np.arange(len(step_hidden.nodes), dtype=np.int32)
        cold_nodes = np.fromiter(simulated or {}, np.int64)
        plays_cold = self._simulated if simulated else self._simulated[:0]
        self._simulated[cold_nodes] = np.fromiter((simulated or {}).values(), np.int32)
        try:
            return self._sample(seeds.astype(np.int64), key, step_hidden, plays_cold)
        finally:
            self._step_slot[step_hidden.nodes] = -1
            self._simulated[cold_nodes] = -1

    def _sample(self, seeds: IntArray, key: int, step_hidden: HiddenEdges, simulated: Int32Array) -> SampledHops:
        graph, n_id, hops = self.graph, seeds.copy(), []
        self._local_of[n_id] = np.arange(len(n_id), dtype=np.int32)
        try:
            for hop, fan_out in enumerate(self.num_neighbors):
                indptr, indices, scale, n_id = _sample_hop(
                    graph.indptr, graph.indices, n_id, fan_out, np.uint64(stream_key(key, "hop", hop)),
                    np.uint64(stream_key(key, "cold")), self._local_of, self._hidden_slot, self._hidden.indptr,
                    self._hidden.positions, self._step_slot, step_hidden.indptr, step_hidden.positions, simulated,
                )  # fmt: skip
                hops.append(Hop.of_arrays(indptr, indices, scale, len(n_id)))
            degree = np.asarray(graph.degree)[n_id]
            if len(simulated):
                degree = np.where(simulated[n_id] >= 0, simulated[n_id], degree)
            return SampledHops(n_id, degree, hops)
        finally:
            self._local_of[n_id] = -1

    def _merged(self, step: HiddenEdges) -> HiddenEdges:
        """The step's hidden edges with, for the same nodes, those always hidden: so one list answers for a node."""
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
            [np.repeat(np.arange(len(slots)), np.diff(step.indptr)), np.repeat(np.arange(len(slots)), counts)]
        )
        position = np.concatenate([step.positions, extra])
        pairs = np.unique(np.stack([rank, position]), axis=1)
        indptr = np.searchsorted(pairs[0], np.arange(len(slots) + 1)).astype(np.int64)
        return HiddenEdges(step.nodes, indptr, pairs[1])


@njit(cache=True, nogil=True)
def _sample_hop(  # type: ignore[no-untyped-def]
    indptr, indices, n_id, fan_out, key, cold_key, local_of,
    always_slot, always_indptr, always_positions, step_slot, step_indptr, step_positions, simulated,
):  # fmt: skip
    num_dst = len(n_id)
    starts, degrees, total, widest = _rows_and_sizes(indptr, n_id, fan_out, simulated)
    out_indptr = np.empty(num_dst + 1, np.int64)
    out = np.empty(total, np.int32)
    scale = np.zeros(num_dst, np.float32)
    nodes = np.empty(min(num_dst + total, len(local_of)), np.int64)
    nodes[:num_dst] = n_id
    num_nodes, edge, done = num_dst, 0, 0
    picked = np.empty(widest, np.int64)
    places = np.empty(widest + _AT_ONCE, np.int64)  # of edges that are drawn but not yet read
    address = indices.ctypes.data
    for i in range(num_dst):
        out_indptr[i] = edge
        v, degree = n_id[i], degrees[i]
        hidden = _hidden_of(v, step_slot, step_indptr, step_positions) if len(step_positions) else step_positions
        if not len(hidden) and len(always_slot):
            hidden = _hidden_of(v, always_slot, always_indptr, always_positions)
        population = available = degree - len(hidden)
        want = available if fan_out < 0 else min(fan_out, available)
        draw = mix64_pair(key, v)
        if len(simulated) and simulated[v] >= 0:
            # a node that plays cold keeps one small neighbourhood for the whole block
            available = min(np.int64(simulated[v]), available)
            want = min(want, available)
            degree = available
            draw = mix64_pair(cold_key, v)
        if want <= 0:
            continue
        scale[i] = np.float32(available / (want * np.sqrt(np.float64(degree))))
        for j in range(want):
            position = np.int64(j)
            if want != population:
                # Floyd: the j-th draw is from one position more than the last; a repeat takes the new position itself
                top = population - want + j
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
        if edge - done >= _AT_ONCE:
            num_nodes = _name(indices, places, local_of, nodes, num_nodes, out, done, edge)
            done = edge
    num_nodes = _name(indices, places, local_of, nodes, num_nodes, out, done, edge)
    out_indptr[num_dst] = edge
    return out_indptr, out[:edge], scale, nodes[:num_nodes].copy()


@njit(cache=True, nogil=True)
def _rows_and_sizes(indptr, n_id, fan_out, simulated):  # type: ignore[no-untyped-def]
    """Where the rows of nodes begin, their degrees, the most edges that they can give, and the most that one can."""
    starts, degrees = np.empty(len(n_id), np.int64), np.empty(len(n_id), np.int64)
    total, widest, address = 0, np.int64(max(fan_out, 1)), indptr.ctypes.data
    for i in range(len(n_id)):
        if i + _NODES_AHEAD < len(n_id):
            fetch_ahead(address + 8 * n_id[i + _NODES_AHEAD])
        start = indptr[n_id[i]]
        degree = indptr[n_id[i] + 1] - start
        starts[i], degrees[i] = start, degree
        total += degree if fan_out < 0 else min(degree, fan_out)
        widest = max(widest, degree if fan_out < 0 else widest)
        if len(simulated):
            widest = max(widest, np.int64(simulated[n_id[i]]))
    return starts, degrees, total, widest


@njit(cache=True, nogil=True)
def _name(indices, places, local_of, nodes, num_nodes, out, first, last):  # type: ignore[no-untyped-def]
    """Reads drawn edges and gives local ids to nodes met for the first time, in the order of the draws."""
    address = local_of.ctypes.data
    for edge in range(first, last):
        u = np.int64(indices[places[edge - first]])
        fetch_ahead(address + 4 * u)
        out[edge] = u
    for edge in range(first, last):
        u = out[edge]
        if local_of[u] < 0:
            local_of[u] = num_nodes
            nodes[num_nodes] = u
            num_nodes += 1
        out[edge] = local_of[u]
    return num_nodes


@njit(inline="always", cache=True)
def _hidden_of(v, slot, indptr, positions):  # type: ignore[no-untyped-def]
    """Hidden positions of a node's row, ascending; none where it has no slot."""
    if slot[v] < 0:
        return positions[:0]
    return positions[indptr[slot[v]] : indptr[slot[v] + 1]]


@njit(inline="always", cache=True)
def _hidden_before(hidden, k):  # type: ignore[no-untyped-def]
    """How many hidden positions lie before the k-th visible one: the largest i with hidden[i - 1] - (i - 1) <= k."""
    low, high = 0, len(hidden)
    while low < high:
        middle = (low + high) // 2
        if hidden[middle] - middle <= k:
            low = middle + 1
        else:
            high = middle
    return low
