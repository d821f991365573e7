"""Edges that a batch must not see: the held-out slice that teaches the gates, and the batch's own
edges.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.randomness import integers, stream_key, uniforms, words
from recmind_dist.types import BoolArray, Int32Array, IntArray


@dataclass(frozen=True)
class EdgeMask:
    """Hidden neighbours by node, as positions inside the node's CSR row.

    Shapes:
        nodes: [n] distinct nodes with a hidden edge, by their row in the `EdgeRows` that they were
        found in (of a whole graph:
        their global ids); indptr: [n + 1]; positions: [hidden], ascending within a node.
    """

    nodes: IntArray
    indptr: IntArray
    positions: IntArray

    @staticmethod
    def of_edges(graph: Graph, edges: IntArray) -> "EdgeMask":
        """Hides training edges, given by their positions in the user half of `graph.indices`, in
        both directions.
        """
        users, items = edge_endpoints(graph, edges)
        node = np.concatenate([users, items])
        position = np.concatenate(
            [
                edges - graph.indptr[users],
                _positions_in_rows(graph.indptr, graph.indices, items, users),
            ]
        )
        return EdgeMask._of_positions(node, position)

    @staticmethod
    def of_pairs(rows: EdgeRows, users: IntArray, items: IntArray) -> "EdgeMask":
        """Hides training edges, given by their ends, where the rows of an end are here; edges may
        repeat.
        """
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
    def _of_positions(node: IntArray, position: IntArray) -> "EdgeMask":
        order = np.lexsort((position, node))
        node, position = node[order], position[order]
        if len(node):
            new = np.r_[True, (node[1:] != node[:-1]) | (position[1:] != position[:-1])]
            node, position = node[new], position[new]
        nodes, starts = np.unique(node, return_index=True)
        return EdgeMask(nodes, np.append(starts, len(node)).astype(np.int64), position)

    def in_csr(self, graph: Graph | EdgeRows) -> IntArray:
        """The same as positions in the `indices` that they were found in, ascending. Shape:
        [hidden].
        """
        return np.sort(np.repeat(graph.indptr[self.nodes], np.diff(self.indptr)) + self.positions)


NOTHING_MASKED = EdgeMask(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))


def edge_endpoints(graph: Graph, edges: IntArray) -> tuple[IntArray, IntArray]:
    """Global ids (user, item) of edges given by position in the user half. Shapes: as `edges`."""
    return users_of_edges(graph, edges), graph.indices[edges].astype(np.int64)


def users_of_edges(graph: Graph, edges: IntArray) -> IntArray:
    """Global ids of the users of edges given by position in the user half: known without the edges.
    Shape: as `edges`.
    """
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
    """The edges from which the gates learn: the newest training edge of a random share of the
    users, and of a random
    share of the items all but 0..3 edges.

    Users with a single edge keep it, so that nobody is emptied. Depends on the seed alone.

    Args:
        share: of the users, in [0, 1]; withheld_items: of the items.
    Returns:
        Mask over the user half of the edges, [E]. Source: DESIGN of this project, docs/model.md.
    """
    mask = np.zeros(graph.num_edges, np.bool_)
    chosen = _chosen_users(graph, share, seed)
    if len(chosen):
        newest = _newest_edges(graph.indptr, graph.time_rank, chosen)
        mask[newest] = True
    if withheld_items:
        mask |= withheld_edges(graph, withheld_items, stream_key(seed, "withheld", 0))
    return mask


def heldout_edges(graph: Graph, newest: Int32Array, share: float, seed: int) -> IntArray:
    """Positions of `heldout_slice` without withheld items, for a rank that has no other rank's
    edges.

    Args:
        newest: `EdgeRows.newest`.
    Returns: [held out] positions in the user half, ascending.
    """
    chosen = _chosen_users(graph, share, seed)
    return np.asarray(graph.indptr)[chosen] + newest[chosen]


def _chosen_users(graph: Graph, share: float, seed: int) -> IntArray:
    users = np.arange(graph.num_users, dtype=np.int64)
    degree = np.diff(graph.indptr[: graph.num_users + 1])
    return users[(degree >= 2) & (uniforms(stream_key(seed, "held-out", 0), users) < share)]


def withheld_edges(graph: Graph, share: float, key: int) -> BoolArray:
    """Edges of a random share of the items, all but 0..3 of each, drawn; a user keeps at least one.
    Shape: [E].
    """
    items = np.arange(graph.num_items, dtype=np.int64)
    chosen = uniforms(stream_key(key, "items"), items) < share
    keeps = integers(stream_key(key, "keeps"), items, 4)
    edges = np.arange(graph.num_edges, dtype=np.int64)
    item = np.asarray(graph.indices[: graph.num_edges], dtype=np.int64) - graph.num_users
    draw = words(stream_key(key, "edges"), edges)
    order = np.lexsort((draw, item))
    first = np.searchsorted(item[order], items)
    place = np.empty(graph.num_edges, np.int64)
    place[order] = np.arange(graph.num_edges) - first[item[order]]
    mask = np.asarray(chosen[item] & (place >= keeps[item]))
    # a user all of whose items are withheld keeps the first of them
    user = np.repeat(np.arange(graph.num_users), np.asarray(graph.degree)[: graph.num_users])
    left = np.bincount(user[~mask], minlength=graph.num_users)
    emptied = np.flatnonzero((left == 0) & (np.asarray(graph.degree)[: graph.num_users] > 0))
    mask[graph.indptr[emptied]] = False
    return mask


@njit(cache=True, nogil=True)
def _newest_edges(indptr, time_rank, users):  # type: ignore[no-untyped-def]
    out = np.empty(len(users), np.int64)
    for i in range(len(users)):
        start, stop = indptr[users[i]], indptr[users[i] + 1]
        out[i] = start + np.argmax(time_rank[start:stop])
    return out
