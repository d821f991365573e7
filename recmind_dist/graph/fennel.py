"""Streaming partition: each node goes to the part with room that has most of its neighbours.

Source: Fennel, doi 10.1145/2556195.2556213, with loads in degrees (a rank's memory is its edges),
streamed several times (restreaming, doi 10.1145/2487575.2487696). Memory: 12 bytes a node besides
the graph.

Legend: N nodes.
"""

import numpy as np
from numba import njit

from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.types import Int32Array, IntArray

PASSES = 3
SLACK = 1.05  # of a part's even share of degrees; a node of more than that has a part to itself
GAMMA = 1.5


def assign_parts(indptr: IntArray, indices: Int32Array, num_parts: int, seed: int) -> Int32Array:
    """The part of each node. Shape: [N]."""
    num_nodes = len(indptr) - 1
    shuffle = Permutation(num_nodes, stream_key(seed, "fennel"))
    order = shuffle(np.arange(num_nodes, dtype=np.int64)).astype(np.int32)
    part = np.full(num_nodes, -1, np.int32)
    load = np.zeros(num_parts, np.float64)
    total = float(indptr[-1] + num_nodes)
    alpha = 0.5 * float(indptr[-1]) * num_parts ** (GAMMA - 1) / total**GAMMA
    for _ in range(PASSES):
        _stream(indptr, indices, order, part, load, SLACK * total / num_parts, alpha)
    return part


@njit(cache=True, nogil=True)
def _stream(indptr, indices, order, part, load, cap, alpha):  # type: ignore[no-untyped-def]
    """One pass over the nodes. Updates `part` and `load`."""
    num_parts = len(load)
    neighbors = np.zeros(num_parts, np.int64)  # of the node, in each part
    for k in range(len(order)):
        v = order[k]
        weight = indptr[v + 1] - indptr[v] + 1
        if part[v] >= 0:
            load[part[v]] -= weight
        for e in range(indptr[v], indptr[v + 1]):
            p = part[indices[e]]
            if p >= 0:
                neighbors[p] += 1
        best, best_score, lightest = -1, -1e300, 0
        for p in range(num_parts):
            if load[p] < load[lightest]:
                lightest = p
            if load[p] + weight <= cap:
                score = neighbors[p] - alpha * GAMMA * np.sqrt(load[p]) * weight
                if score > best_score:
                    best, best_score = p, score
            neighbors[p] = 0
        part[v] = best if best >= 0 else lightest
        load[part[v]] += weight
