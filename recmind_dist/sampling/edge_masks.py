"""Edges that sampling and propagation leave out.

A `batch_mask` masks a batch's own edges, for that batch only; `heldout` is the slice of the
training edges that the gates learn from, masked in every batch.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.randomness import integers, stream_key, uniforms
from recmind_dist.types import BoolArray, Int32Array, IntArray


@dataclass(frozen=True)
class EdgeMask:
    """Masked neighbours by node, as positions inside the node's CSR row.

    Attributes (n nodes with a masked edge):
        nodes: [n] distinct rows of the `EdgeRows` that the edges were looked up in. For a whole
            graph these are global ids.
        indptr: [n + 1] start of each node's positions.
        positions: [masked] ascending within a node.
    """

    nodes: IntArray
    indptr: IntArray
    positions: IntArray

    @staticmethod
    def of_edges(graph: Graph, edges: IntArray) -> "EdgeMask":
        """Masks edges in both directions, given as positions in the user half."""
        users, items = edge_endpoints(graph, edges)
        in_item_rows = _positions_in_rows(graph.indptr, graph.indices, items, users)
        positions = np.concatenate([edges - graph.indptr[users], in_item_rows])
        return EdgeMask._of_positions(np.concatenate([users, items]), positions)

    @staticmethod
    def of_pairs(rows: EdgeRows, users: IntArray, items: IntArray) -> "EdgeMask":
        """Masks edges in those directions whose row is here. Edges may repeat."""
        found = []
        for ends, others in ((users, items), (items, users)):
            row = rows.rows_of(ends)
            here = row >= 0
            found.append(
                (row[here], _positions_in_rows(rows.indptr, rows.indices, row[here], others[here]))
            )
        row, position = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return EdgeMask._of_positions(row, position)

    @staticmethod
    def of_ends(rows: EdgeRows, nodes: IntArray, neighbours: IntArray) -> "EdgeMask":
        """Masks neighbours in the rows of nodes, which are all here. Edges may repeat."""
        row = rows.rows_of(nodes)
        found = _positions_in_rows(rows.indptr, rows.indices, row, neighbours)
        return EdgeMask._of_positions(row, found)

    @staticmethod
    def _of_positions(node: IntArray, position: IntArray) -> "EdgeMask":
        order = np.lexsort((position, node))
        node, position = node[order], position[order]
        if len(node):
            new = np.r_[True, (node[1:] != node[:-1]) | (position[1:] != position[:-1])]
            node, position = node[new], position[new]
        nodes, starts = np.unique(node, return_index=True)
        return EdgeMask(nodes, np.append(starts, len(node)).astype(np.int64), position)

    def in_csr(self, graph: Graph | EdgeRows) -> IntArray:
        """Ascending positions in the `indices` that the edges were looked up in. [masked]."""
        return np.sort(np.repeat(graph.indptr[self.nodes], np.diff(self.indptr)) + self.positions)


NOTHING_MASKED = EdgeMask(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))


def are_among(edges: IntArray, ascending: IntArray) -> BoolArray:
    """Which edges occur in `ascending`. Shape: as `edges`."""
    if not len(ascending):
        return np.zeros(len(edges), np.bool_)
    position = np.minimum(np.searchsorted(ascending, edges), len(ascending) - 1)
    found: BoolArray = ascending[position] == edges
    return found


def edge_endpoints(graph: Graph, edges: IntArray) -> tuple[IntArray, IntArray]:
    """Global ids (user, item) of edges, given as positions in the user half. Shapes: as `edges`."""
    return users_of_edges(graph, edges), graph.indices[edges].astype(np.int64)


def users_of_edges(graph: Graph, edges: IntArray) -> IntArray:
    """Global ids of the users of edges. Reads `indptr` only. Shape: as `edges`."""
    users: IntArray = np.searchsorted(graph.indptr[: graph.num_users + 1], edges, side="right") - 1
    return users.astype(np.int64)


@njit(cache=True, nogil=True)
def _positions_in_rows(indptr, indices, rows, values):  # type: ignore[no-untyped-def]
    out = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        out[i] = np.searchsorted(indices[start:stop], values[i])
    return out


def heldout_slice(graph: Graph, share: float, seed: int, withheld_items: float = 0.0) -> BoolArray:
    """The edges that the gates learn from: a function of the seed.

    The newest training edge of a random share of the users and, of a random share of the items, all
    edges but 0..3 on average. A user with a single edge keeps it. Source: docs/model.md.

    Args:
        share: of the users, in [0, 1].
        withheld_items: share of the items.

    Returns: mask over the user half of the edges, [E].
    """
    rows = EdgeRows.of_graph(graph)
    mask = np.zeros(graph.num_edges, np.bool_)
    mask[newest_edges(graph, rows.newest(), share, seed)] = True
    mask[withheld_edges(rows, withheld_items, seed)] = True
    return mask


def newest_edges(graph: Graph, newest: Int32Array, share: float, seed: int) -> IntArray:
    """The newest edge of a random share of the users who have two or more.

    Args:
        newest: `EdgeRows.newest`.

    Returns: positions in the user half, ascending.
    """
    users = np.arange(graph.num_users, dtype=np.int64)
    degree = np.diff(graph.indptr[: graph.num_users + 1])
    chosen = users[(degree >= 2) & (uniforms(stream_key(seed, "held-out", 0), users) < share)]
    return np.asarray(graph.indptr)[chosen] + newest[chosen]


def withheld_edges(rows: EdgeRows, share: float, seed: int) -> IntArray:
    """Edges of a random share of the items, all but 0..3 of each on average.

    Whether an edge is among them depends on its position and its item's degree alone, but for a
    user who would lose all edges: they keep the first. So each rank knows those of its users.

    Args:
        rows: edges of some users, or of all.

    Returns: positions in the user half of the whole graph, in the order of the rows.
    """
    graph, key = rows.graph, stream_key(seed, "withheld", 0)
    if share == 0:
        return np.zeros(0, np.int64)
    items = np.arange(graph.num_items, dtype=np.int64)
    chosen = uniforms(stream_key(key, "items"), items) < share
    kept = integers(stream_key(key, "keeps"), items, 4)
    count = np.where(rows.nodes < graph.num_users, np.diff(rows.indptr), 0)
    row = np.repeat(np.arange(len(rows.nodes)), count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    item = np.asarray(rows.indices[rows.indptr[row] + place], np.int64) - graph.num_users
    edge = np.asarray(graph.indptr)[rows.nodes[row]] + place
    degree = np.asarray(graph.degree)[graph.num_users + item]
    withheld = chosen[item] & (uniforms(stream_key(key, "edges"), edge) * degree >= kept[item])
    left = np.bincount(row[~withheld], minlength=len(rows.nodes))
    return np.asarray(edge[withheld & ((left[row] > 0) | (place > 0))])
