"""Checks of a graph directory without its data set: hashes, then ranges, order and counts."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import StoreError
from recmind_dist.graph.store import Graph

_BLOCK = 1 << 22


def audit_graph(path: Path) -> Graph:
    """Reads all of a graph directory, block by block.

    Raises:
        StoreError: the first fault, which names the file.
    """
    graph = Graph.open(path, verify=True)
    users, nodes, edges = graph.num_users, graph.num_nodes, graph.num_edges
    _check_offsets(path / "indptr.npy", graph.indptr, 2 * edges)
    _check_range(path / "indices.npy", graph.indices[:edges], users, nodes)  # user → item
    _check_range(path / "indices.npy", graph.indices[edges:], 0, users)
    if int(graph.indptr[users]) != edges:
        counts = f"users have {int(graph.indptr[users])} edges, the manifest says {edges}"
        raise StoreError(f"{path / 'indptr.npy'}: {counts}")
    max_degree = int(graph.degree.max(initial=0))
    _check_range(path / "time_rank.npy", graph.time_rank, 0, max(max_degree, 1))
    if not np.array_equal(np.sort(graph.row_of_node), np.arange(nodes)):
        fault = f"not one row for each of the {nodes} nodes"
        raise StoreError(f"{path / 'row_of_node.npy'}: {fault}: prepare the graph again")
    _check_offsets(path / "part_rows.npy", graph.part_rows, nodes)
    for split in ("valid", "test"):
        held = graph.held_out(split)
        _check_offsets(path / f"{split}_indptr.npy", held.indptr, len(held.indices))
        _check_range(path / f"{split}_indices.npy", held.indices, users, nodes)
        if held.num_edges != graph.manifest[f"num_{split}"]:
            expected = graph.manifest[f"num_{split}"]
            counts = f"{held.num_edges} edges, the manifest says {expected}"
            raise StoreError(f"{path / f'{split}_indices.npy'}: {counts}")
    for name, ids, count in (
        ("users", graph.user_ids, users),
        ("items", graph.item_ids, nodes - users),
    ):
        if len(ids) != count or ids.n_unique() != count:
            fault = f"not {count} different ids"
            raise StoreError(f"{path / f'{name}.parquet'}: {fault}: prepare the graph again")
    return graph


def _check_offsets(path: Path, offsets: NDArray[Any], end: int) -> None:
    ends_fit = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == end
    if not ends_fit or bool((np.diff(offsets) < 0).any()):
        raise StoreError(f"{path}: offsets do not rise from 0 to {end}: prepare the graph again")


def _check_range(path: Path, values: NDArray[Any], low: int, high: int) -> None:
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        bad = np.flatnonzero((block < low) | (block >= high))
        if len(bad):
            row = start + int(bad[0])
            fault = f"entry {row} is {int(values[row])}, not in [{low}, {high})"
            raise StoreError(f"{path}: {fault}: prepare the graph again")
