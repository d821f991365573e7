"""Training edges by table row: all of them in one file, of which a rank maps the slice of the nodes
it owns.

Legend: N nodes, E training edges (each stands twice, once from either end), n nodes of a share, U
users.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from recmind_dist.errors import StoreError
from recmind_dist.graph.store import Graph, map_array
from recmind_dist.ingest.dataset import is_complete, writing
from recmind_dist.storage import atomic_directory, building, read_manifest, write_manifest
from recmind_dist.types import Int32Array, IntArray

KIND = "graph-rows"
SCHEMA = 1
BLOCK_EDGES = 1 << 24  # neighbours in memory at a time while the file is written


@dataclass(frozen=True)
class EdgeRows:
    """CSR rows of some nodes over global ids: of all nodes in their own order, or of one rank's in
    table order.

    Shapes: nodes: [n] global ids; indptr: int64 [n + 1], from 0; indices: int32, ascending within a
    row.
    """

    graph: Graph
    nodes: IntArray
    indptr: IntArray
    indices: Int32Array
    first_row: int = 0
    whole: bool = True

    @staticmethod
    def all_of(graph: Graph) -> "EdgeRows":
        """Every node's, as `graph.placement: replicated` has it: row k is node k."""
        return EdgeRows(
            graph, np.arange(graph.num_nodes, dtype=np.int64), graph.indptr, graph.indices
        )

    @staticmethod
    def share(graph: Graph, bounds: IntArray, rank: int) -> "EdgeRows":
        """One rank's: maps of the edges only what stands in table rows [bounds[rank], bounds[rank +
        1]).

        Raises:
            StoreError: the rows are not there, damaged, or of another graph.
        """
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
        start, stop = int(bounds[rank]), int(bounds[rank + 1])
        node_of_row = map_array(path / "node_of_row.npy", np.int32, graph.num_nodes, start, stop)
        indptr = np.array(
            map_array(path / "indptr.npy", np.int64, graph.num_nodes + 1, start, stop + 1)
        )
        indices = map_array(
            path / "indices.npy", np.int32, 2 * graph.num_edges, int(indptr[0]), int(indptr[-1])
        )
        return EdgeRows(
            graph, np.array(node_of_row, np.int64), indptr - indptr[0], indices, start, whole=False
        )

    def newest(self) -> Int32Array:
        """Place of each user's newest training edge in the user's row, 0 without any. Shape: [U]."""
        if self.whole:
            return newest_places(self.graph)
        found: Int32Array = map_array(
            rows_directory(self.graph.path) / "newest.npy", np.int32, self.graph.num_users
        )
        return found

    def rows_of(self, nodes: IntArray) -> IntArray:
        """Where nodes stand here; −1 for those of other ranks. Shape: as `nodes`."""
        if self.whole:
            return nodes
        rows = np.asarray(self.graph.row_of_node)[nodes] - self.first_row
        return np.where((rows >= 0) & (rows < len(self.nodes)), rows, -1)


def rows_directory(graph: Path) -> Path:
    """Where the rows of a graph directory are, once prepared."""
    return graph.with_name(graph.name + "-rows")


def prepare_rows(graph_path: Path) -> Path:
    """Writes a prepared graph's edges in table order, which serves any number of ranks. What is
    there is returned untouched.

    Raises:
        StoreError: the directory cannot be written.
    """
    graph = Graph.open(graph_path)
    final = rows_directory(graph_path)
    if _has_rows_of(graph, final):
        return final
    with building(final):
        if not _has_rows_of(graph, final):  # another run may have made them while this one waited
            _write_rows(graph, final)
    return final


def _has_rows_of(graph: Graph, final: Path) -> bool:
    return (
        is_complete(final, KIND, SCHEMA)
        and read_manifest(final, KIND, SCHEMA).get("graph_key") == graph.key
    )


def _write_rows(graph: Graph, final: Path) -> None:
    node_of_row = np.empty(graph.num_nodes, np.int32)
    node_of_row[graph.row_of_node] = np.arange(graph.num_nodes, dtype=np.int32)
    indptr = np.zeros(graph.num_nodes + 1, np.int64)
    np.cumsum(np.asarray(graph.degree)[node_of_row], out=indptr[1:])
    with writing(final.parent), atomic_directory(final) as work:
        np.save(work / "node_of_row.npy", node_of_row)
        np.save(work / "indptr.npy", indptr)
        np.save(work / "newest.npy", newest_places(graph))
        write_array(
            work / "indices.npy",
            np.int32,
            2 * graph.num_edges,
            _reordered(graph, node_of_row, indptr),
        )
        write_manifest(work, KIND, SCHEMA, {"graph_key": graph.key, "num_edges": graph.num_edges})


def newest_places(graph: Graph) -> Int32Array:
    """Place of each user's newest training edge in the user's row, 0 without any. Shape: [U]."""
    found: Int32Array = _newest(graph.indptr, graph.time_rank, graph.num_users)
    return found


def write_array(
    path: Path, dtype: type[np.generic], length: int, blocks: Iterator[np.ndarray]
) -> None:
    """A one-dimensional .npy file out of blocks that are never in memory together."""
    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (length,),
        }
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)
            written += len(block)
    assert written == length, f"{path}: {written} entries of {length}"


def _reordered(graph: Graph, node_of_row: Int32Array, indptr: IntArray) -> Iterator[np.ndarray]:
    start = 0
    while start < graph.num_nodes:
        stop = max(
            start + 1, int(np.searchsorted(indptr, indptr[start] + BLOCK_EDGES, side="right")) - 1
        )
        block = np.empty(int(indptr[stop] - indptr[start]), np.int32)
        _copy_rows(graph.indptr, graph.indices, node_of_row[start:stop], block)
        yield block
        start = stop


@njit(cache=True, nogil=True)
def _copy_rows(indptr, indices, nodes, out):  # type: ignore[no-untyped-def]
    at = 0
    for k in range(len(nodes)):
        for e in range(indptr[nodes[k]], indptr[nodes[k] + 1]):
            out[at] = indices[e]
            at += 1


@njit(cache=True, nogil=True)
def _newest(indptr, time_rank, num_users):  # type: ignore[no-untyped-def]
    out = np.zeros(num_users, np.int32)
    for u in range(num_users):
        start, stop = indptr[u], indptr[u + 1]
        if stop > start:
            out[u] = np.argmax(time_rank[start:stop])
    return out
