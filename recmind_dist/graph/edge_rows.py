"""Training edges in the order of table rows: one file, of which a rank maps the rows of its nodes.

Legend: U users, N nodes, E training edges (each in the rows of both its nodes), n nodes of a rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from recmind_dist.errors import StoreError
from recmind_dist.graph.csr import entries_of_rows
from recmind_dist.graph.store import Graph, map_array
from recmind_dist.ingest.dataset import is_complete, writing
from recmind_dist.storage import (
    atomic_directory,
    building,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from recmind_dist.types import Int32Array, IntArray

KIND = "graph-rows"
SCHEMA = 2  # 2: time ranks
BLOCK_EDGES = 1 << 24  # neighbours in memory at a time while the file is written


@dataclass(frozen=True)
class EdgeRows:
    """CSR rows over global ids: of all nodes in node order, or of one rank's in table order.

    Attributes:
        nodes: global ids, [n].
        indptr: int64 [n + 1], from 0.
        indices: int32, ascending in a row.
        time_rank: int32, as `Graph.time_rank`: that of edge e of a user's row is at the place that
            `indices` has it; of items' rows nothing is said.
        first_row: table row of nodes[0], for one rank's rows.
        whole: these are the rows of all nodes.
    """

    graph: Graph
    nodes: IntArray
    indptr: IntArray
    indices: Int32Array
    time_rank: Int32Array
    first_row: int = 0
    whole: bool = True

    @staticmethod
    def of_graph(graph: Graph) -> "EdgeRows":
        """All rows, as for `graph.placement: replicated`: row k is node k."""
        nodes = np.arange(graph.num_nodes, dtype=np.int64)
        return EdgeRows(graph, nodes, graph.indptr, graph.indices, graph.time_rank)

    @staticmethod
    def share(graph: Graph, bounds: IntArray, rank: int) -> "EdgeRows":
        """The rows of one rank: maps only the edges of table rows [bounds[rank], bounds[rank + 1]).

        Raises:
            StoreError: the rows are absent, damaged, or of another graph.
        """
        path = rows_directory(graph.path)
        _manifest_of_rows(graph)
        start, stop = int(bounds[rank]), int(bounds[rank + 1])
        nodes = map_array(path / "node_of_row.npy", np.int32, graph.num_nodes, start, stop)
        indptr = np.array(
            map_array(path / "indptr.npy", np.int64, graph.num_nodes + 1, start, stop + 1)
        )
        first, last = int(indptr[0]), int(indptr[-1])
        ends = 2 * graph.num_edges
        indices = map_array(path / "indices.npy", np.int32, ends, first, last)
        time_rank = map_array(path / "time_rank.npy", np.int32, ends, first, last)
        nodes = np.array(nodes, np.int64)
        return EdgeRows(graph, nodes, indptr - first, indices, time_rank, start, whole=False)

    def newest(self) -> Int32Array:
        """Position of each user's newest training edge in their row, 0 without any. Shape: [U]."""
        if self.whole:
            return _newest_positions(self.graph)
        path = rows_directory(self.graph.path) / "newest.npy"
        positions: Int32Array = map_array(path, np.int32, self.graph.num_users)
        return positions

    def rows_of(self, nodes: IntArray) -> IntArray:
        """Index of each node in `self.nodes`; −1 for nodes of other ranks. Shape: as `nodes`."""
        if self.whole:
            return nodes
        rows = np.asarray(self.graph.row_of_node)[nodes] - self.first_row
        return np.where((rows >= 0) & (rows < len(self.nodes)), rows, -1)

    def degrees_of(self, nodes: IntArray) -> IntArray:
        """Edges of nodes whose rows are here. Shape: as `nodes`."""
        rows = self.rows_of(nodes)
        degrees: IntArray = self.indptr[rows + 1] - self.indptr[rows]
        return degrees

    def edges_of(self, nodes: IntArray) -> tuple[IntArray, IntArray]:
        """Edges of nodes whose rows are here, node after node.

        Returns: the place of each edge's node in `nodes`, and its position in `indices`, [edges].
        """
        rows = self.rows_of(nodes)
        counts = self.indptr[rows + 1] - self.indptr[rows]
        place = np.repeat(np.arange(len(rows)), counts)
        return place, entries_of_rows(self.indptr, rows)


def rows_directory(graph: Path) -> Path:
    """The directory of a graph's edge rows."""
    return graph.with_name(graph.name + "-rows")


def verify_rows(graph_path: Path) -> None:
    """Checks size and sha256 of every file of a graph's edge rows, which ranks map unread.

    Raises:
        StoreError: the rows are absent, damaged, or of another graph.
    """
    graph = Graph.open(graph_path, edges=False)
    verify_manifest(rows_directory(graph_path), _manifest_of_rows(graph))


def _manifest_of_rows(graph: Graph) -> dict[str, Any]:
    """Raises StoreError: the rows are absent, of another graph, or their manifest is damaged."""
    path = rows_directory(graph.path)
    if not path.is_dir():
        raise StoreError(
            f"{path}: edges by table row, for graph.placement: partitioned, are absent: run "
            "`recmind prepare`"
        )
    manifest = read_manifest(path, KIND, SCHEMA)
    if manifest.get("graph_key") != graph.key:
        raise StoreError(
            f"{path}: made of another graph than {graph.path}: remove it, then run `recmind "
            "prepare`"
        )
    return manifest


def prepare_rows(graph_path: Path) -> Path:
    """Writes a graph's edges in table order, for any number of ranks, unless that has been done.

    Raises:
        StoreError: the directory cannot be written.
    """
    graph = Graph.open(graph_path)
    final = rows_directory(graph_path)
    if _has_rows_of(graph, final):
        return final
    with building(final):
        if not _has_rows_of(graph, final):  # unless another run made them meanwhile
            _write_rows(graph, final)
    return final


def _has_rows_of(graph: Graph, final: Path) -> bool:
    if not is_complete(final, KIND, SCHEMA):
        return False
    return read_manifest(final, KIND, SCHEMA).get("graph_key") == graph.key


def _write_rows(graph: Graph, final: Path) -> None:
    node_of_row = np.empty(graph.num_nodes, np.int32)
    node_of_row[graph.row_of_node] = np.arange(graph.num_nodes, dtype=np.int32)
    indptr = np.zeros(graph.num_nodes + 1, np.int64)
    np.cumsum(np.asarray(graph.degree)[node_of_row], out=indptr[1:])
    with writing(final.parent), atomic_directory(final) as work:
        np.save(work / "node_of_row.npy", node_of_row)
        np.save(work / "indptr.npy", indptr)
        np.save(work / "newest.npy", _newest_positions(graph))
        for name, values in (("indices", graph.indices), ("time_rank", graph.time_rank)):
            blocks = _reordered(graph, values, node_of_row, indptr)
            write_array(work / f"{name}.npy", np.int32, 2 * graph.num_edges, blocks)
        write_manifest(work, KIND, SCHEMA, {"graph_key": graph.key, "num_edges": graph.num_edges})


def _newest_positions(graph: Graph) -> Int32Array:
    positions: Int32Array = _argmax_of_rows(graph.indptr, graph.time_rank, graph.num_users)
    return positions


def write_array(
    path: Path, dtype: type[np.generic], length: int, blocks: Iterator[np.ndarray]
) -> None:
    """Writes a one-dimensional .npy file block by block."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (length,)}
    written = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)
            written += len(block)
    assert written == length, f"{path}: {written} entries of {length}"


def _reordered(
    graph: Graph, values: Int32Array, node_of_row: Int32Array, indptr: IntArray
) -> Iterator[np.ndarray]:
    """Values of the edges of all rows in table order, about `BLOCK_EDGES` at a time.

    Args:
        values: [2E], or [E] of the user half alone: then items' rows are zero.
    """
    start = 0
    while start < graph.num_nodes:
        limit = indptr[start] + BLOCK_EDGES
        stop = max(start + 1, int(np.searchsorted(indptr, limit, side="right")) - 1)
        block = np.empty(int(indptr[stop] - indptr[start]), np.int32)
        _copy_rows(graph.indptr, values, node_of_row[start:stop], block)
        yield block
        start = stop


@njit(cache=True, nogil=True)
def _copy_rows(indptr, values, nodes, out):  # type: ignore[no-untyped-def]
    at = 0
    for k in range(len(nodes)):
        for e in range(indptr[nodes[k]], indptr[nodes[k] + 1]):
            out[at] = values[e] if e < len(values) else 0
            at += 1


@njit(cache=True, nogil=True)
def _argmax_of_rows(indptr, values, num_rows):  # type: ignore[no-untyped-def]
    out = np.zeros(num_rows, np.int32)
    for row in range(num_rows):
        start, stop = indptr[row], indptr[row + 1]
        if stop > start:
            out[row] = np.argmax(values[start:stop])
    return out
