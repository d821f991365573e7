"""Partition: a permutation node → table row; the rows of a part are contiguous (N nodes)."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph.csr import counting_order, starts_of
from recmind_dist.graph.fennel import assign_parts
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.store import Graph
from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.types import Int32Array, IntArray

Partition = tuple[IntArray, IntArray]  # row_of_node [N], part_rows [num_parts + 1]


def partition_nodes(settings: GraphSettings, indptr: IntArray, indices: Int32Array) -> Partition:
    """Partitions the nodes of a CSR.

    Raises:
        DataError: there are more parts than nodes.
    """
    num_nodes = len(indptr) - 1
    num_parts, seed = settings.num_parts, settings.seed
    if num_parts > num_nodes:
        raise DataError(
            f"graph.num_parts = {num_parts} is more parts than the {num_nodes} nodes: lower it"
        )
    if settings.partition == "range":
        return by_range(np.diff(indptr), num_parts)
    if settings.partition == "metis" and num_parts > 1:
        return by_metis(indptr, indices, num_parts, seed)
    if settings.partition == "fennel" and num_parts > 1:
        return by_parts(assign_parts(indptr, indices, num_parts, seed), num_parts)
    return by_hash(num_nodes, num_parts, seed)


def even_cut(num_rows: int, num_parts: int) -> IntArray:
    """Bounds of parts whose sizes differ by one at most. Shape: [num_parts + 1]."""
    return (np.arange(num_parts + 1, dtype=np.int64) * num_rows) // num_parts


def by_hash(num_nodes: int, num_parts: int, seed: int) -> Partition:
    """A keyed shuffle, cut evenly: parts are random samples, so their degrees balance."""
    shuffle = Permutation(num_nodes, stream_key(seed, "partition"))
    return shuffle(np.arange(num_nodes, dtype=np.int64)), even_cut(num_nodes, num_parts)


def by_range(degree: IntArray, num_parts: int) -> Partition:
    """Node order kept, cut where the sums of (degree + 1) balance; no part is empty."""
    num_nodes = len(degree)
    weight = np.cumsum(degree + 1)
    targets = weight[-1] * np.arange(1, num_parts) / num_parts
    cuts = np.searchsorted(weight, targets) + 1
    # a hub heavier than a part makes cuts coincide: move each by at least one node
    first = np.arange(1, num_parts)
    cuts = np.maximum.accumulate(cuts - first) + first
    cuts = np.minimum(cuts, num_nodes - num_parts + first)
    return np.arange(num_nodes, dtype=np.int64), np.r_[0, cuts, num_nodes].astype(np.int64)


def by_metis(indptr: IntArray, indices: Int32Array, num_parts: int, seed: int) -> Partition:
    """METIS k-way with weights degree + 1: balanced degrees, few cut edges. A part may be empty."""
    import pymetis

    options = pymetis.Options(seed=seed % (1 << 31))
    adjacency = pymetis.CSRAdjacency(np.asarray(indptr), np.asarray(indices))
    weights = np.diff(indptr) + 1
    _, membership = pymetis.part_graph(
        num_parts, adjacency=adjacency, vweights=weights, options=options
    )
    return by_parts(np.asarray(membership, dtype=np.int32), num_parts)


def by_parts(part: Int32Array, num_parts: int) -> Partition:
    """Rows part by part, in node order within a part."""
    order = counting_order(part, num_parts)
    row_of_node = np.empty(len(part), dtype=np.int64)
    row_of_node[order] = np.arange(len(part))
    return row_of_node, starts_of(part, num_parts)


@dataclass(frozen=True)
class Balance:
    """Quality of a partition.

    Attributes:
        cut: share of edges between parts.
        edges: edges of the fullest part over the mean.
        nodes: nodes of the fullest part over the mean.
    """

    cut: float
    edges: float
    nodes: float


def judge(graph: Graph, bounds: IntArray) -> Balance:
    """Measures parts with rows [bounds[p], bounds[p + 1]). Reads all edges once."""
    rows = np.asarray(graph.row_of_node)
    part = (np.searchsorted(bounds, rows, side="right") - 1).astype(np.int32)
    cut = _count_cut(graph.indptr[: graph.num_users + 1], graph.indices, part)
    edges = np.bincount(part, weights=np.asarray(graph.degree), minlength=len(bounds) - 1)
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
