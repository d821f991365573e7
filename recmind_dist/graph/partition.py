"""Who owns which node: a permutation node → table row in which every part's rows are contiguous (N
nodes).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph.csr import counting_order
from recmind_dist.graph.fennel import assign_parts
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.store import Graph
from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.types import Int32Array, IntArray

Partition = tuple[IntArray, IntArray]  # row_of_node [N], part_rows [num_parts + 1]


def partition_nodes(settings: GraphSettings, indptr: IntArray, indices: Int32Array) -> Partition:
    """Deals the nodes of a CSR to `num_parts` parts.

    Raises:
        DataError: there are more parts than nodes.
    """
    num_nodes = len(indptr) - 1
    if settings.num_parts > num_nodes:
        raise DataError(
            f"graph.num_parts = {settings.num_parts} is more parts than the {num_nodes} nodes: "
            "lower it"
        )
    if settings.partition == "range":
        return by_range(np.diff(indptr), settings.num_parts)
    if settings.partition == "metis" and settings.num_parts > 1:
        return by_metis(indptr, indices, settings.num_parts, settings.seed)
    if settings.partition == "fennel" and settings.num_parts > 1:
        return by_parts(
            assign_parts(indptr, indices, settings.num_parts, settings.seed), settings.num_parts
        )
    return by_hash(num_nodes, settings.num_parts, settings.seed)


def even_cut(num_rows: int, num_parts: int) -> IntArray:
    """Bounds of parts whose sizes differ by one at most. Shape: [num_parts + 1]."""
    return (np.arange(num_parts + 1, dtype=np.int64) * num_rows) // num_parts


def by_hash(num_nodes: int, num_parts: int, seed: int) -> Partition:
    """A keyed shuffle, cut evenly: parts are alike in degree because they are samples of one
    another.
    """
    shuffle = Permutation(num_nodes, stream_key(seed, "partition"))
    return shuffle(np.arange(num_nodes, dtype=np.int64)), even_cut(num_nodes, num_parts)


def by_range(degree: IntArray, num_parts: int) -> Partition:
    """Node order kept, cut where the sums of (degree + 1) balance; no part is empty."""
    num_nodes = len(degree)
    weight = np.cumsum(degree + 1)
    targets = weight[-1] * np.arange(1, num_parts) / num_parts
    cuts = np.searchsorted(weight, targets) + 1
    # a hub may be heavier than a part: cuts then coincide, and each moves on to leave one node
    # behind it
    place = np.arange(1, num_parts)
    cuts = np.maximum.accumulate(cuts - place) + place
    cuts = np.minimum(cuts, num_nodes - num_parts + place)
    return np.arange(num_nodes, dtype=np.int64), np.r_[0, cuts, num_nodes].astype(np.int64)


def by_metis(indptr: IntArray, indices: Int32Array, num_parts: int, seed: int) -> Partition:
    """METIS k-way with weights degree + 1: parts of like degree with few edges between them. A part
    may be empty.
    """
    import pymetis

    options = pymetis.Options(seed=seed % (1 << 31))
    adjacency = pymetis.CSRAdjacency(np.asarray(indptr), np.asarray(indices))
    weights = np.diff(indptr) + 1
    _, membership = pymetis.part_graph(
        num_parts, adjacency=adjacency, vweights=weights, options=options
    )
    return by_parts(np.asarray(membership, dtype=np.int32), num_parts)


def by_parts(part: Int32Array, num_parts: int) -> Partition:
    """Rows part by part, nodes in their own order within one."""
    order = counting_order(part, num_parts)
    row_of_node = np.empty(len(part), dtype=np.int64)
    row_of_node[order] = np.arange(len(part))
    return row_of_node, np.r_[0, np.cumsum(np.bincount(part, minlength=num_parts))].astype(np.int64)


@dataclass(frozen=True)
class Balance:
    """How good a partition is.

    Attributes:
        cut: share of the edges between parts; edges, nodes: of the fullest part, over the mean.
    """

    cut: float
    edges: float
    nodes: float


def judge(graph: Graph, bounds: IntArray) -> Balance:
    """Reads all edges once. Args: bounds: [P + 1] rows of the parts."""
    part = (np.searchsorted(bounds, np.asarray(graph.row_of_node), side="right") - 1).astype(
        np.int32
    )
    num_parts, users = len(bounds) - 1, graph.num_users
    cut = _count_cut(graph.indptr[: users + 1], graph.indices, part)
    edges = np.bincount(part, weights=np.asarray(graph.degree), minlength=num_parts)
    nodes = np.diff(bounds)
    return Balance(
        cut / max(graph.num_edges, 1),
        float(edges.max() / edges.mean()),
        float(nodes.max() / nodes.mean()),
    )


@njit(cache=True, nogil=True)
def _count_cut(indptr, indices, part):  # type: ignore[no-untyped-def]
    cut = 0
    for user in range(len(indptr) - 1):
        for e in range(indptr[user], indptr[user + 1]):
            cut += part[indices[e]] != part[user]
    return cut
