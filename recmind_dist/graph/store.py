"""The graph on disk, memory-mapped (U users, I items, N = U + I nodes, E training edges)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmind_dist.errors import DataError, StoreError
from recmind_dist.storage import read_manifest, verify_manifest
from recmind_dist.types import FloatArray, Int32Array, IntArray, NodeId

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

KIND = "graph"
SCHEMA = 1
EDGE_WEIGHT = "edge_weight.npy"
BLOCK_ROWS = 65_536
"""Items whose texts are read at a time."""


@dataclass(frozen=True)
class HeldOut:
    """Items held out of training, per user."""

    indptr: IntArray  # int64 [U + 1]
    indices: Int32Array  # global ids, ascending in a row

    @property
    def num_edges(self) -> int:
        """Number of interactions held out."""
        return len(self.indices)


@dataclass(frozen=True)
class Graph:
    """A prepared graph: one CSR of both directions over global ids, in memory-mapped arrays.

    Attributes:
        indptr: int64 [N + 1].
        indices: int32 [2E], rows ascending; the first E are user → item.
        time_rank: int32 [E], position of an edge in its user's chronology, 0 the oldest.
        row_of_node: table row of each node, int64 [N].
        part_rows: part p has rows [part_rows[p], part_rows[p + 1]), int64 [num_parts + 1].
        edge_weight: float32 [E], mean 1, what the edges weigh in the ranking loss; None: the same.
    """

    path: Path
    manifest: dict[str, Any]
    indptr: IntArray
    indices: Int32Array
    time_rank: Int32Array
    row_of_node: IntArray
    part_rows: IntArray
    edge_weight: FloatArray | None = None

    @classmethod
    def open(cls, path: Path, verify: bool = False, edges: bool = True) -> "Graph":
        """Maps a graph directory.

        Args:
            verify: check the sha256 of every file.
            edges: map indices and time_rank; False for a rank that maps only its own edges (see
                `EdgeRows`).

        Raises:
            StoreError: the directory is absent, incomplete, damaged or of another schema version.
        """
        path = Path(path)
        manifest = read_manifest(path, KIND, SCHEMA)
        if verify:
            verify_manifest(path, manifest)
        for split in ("valid", "test"):
            _count(path, manifest, f"num_{split}")
        for key in ("key", "name", "dataset_key"):
            value = manifest.get(key)
            if not isinstance(value, str):
                raise StoreError(
                    f"{path}: the manifest's {key} is {value!r}: prepare the graph again"
                )
        num_nodes = _count(path, manifest, "num_users") + _count(path, manifest, "num_items")
        num_edges = _count(path, manifest, "num_edges")
        indices = time_rank = _NOT_MAPPED
        if edges:
            indices = map_array(path / "indices.npy", np.int32, 2 * num_edges)
            time_rank = map_array(path / "time_rank.npy", np.int32, num_edges)
        edge_weight = None
        if edges and (path / EDGE_WEIGHT).is_file():
            edge_weight = map_array(path / EDGE_WEIGHT, np.float32, num_edges)
        return cls(
            path=path,
            manifest=manifest,
            indptr=map_array(path / "indptr.npy", np.int64, num_nodes + 1),
            indices=indices,
            time_rank=time_rank,
            row_of_node=map_array(path / "row_of_node.npy", np.int64, num_nodes),
            part_rows=map_array(path / "part_rows.npy", np.int64, None),
            edge_weight=edge_weight,
        )

    @property
    def key(self) -> str:
        """Content key (hex) of the data set and the graph settings."""
        return str(self.manifest["key"])

    @property
    def name(self) -> str:
        """Name of the data set."""
        return str(self.manifest["name"])

    @property
    def dataset(self) -> Path:
        """Where the data set is that the graph was made of, if the cache still has it."""
        return self.path.parent / f"dataset-{self.manifest['dataset_key'][:12]}"

    @property
    def num_users(self) -> int:
        """U: users are the nodes [0, U)."""
        return int(self.manifest["num_users"])

    @property
    def num_items(self) -> int:
        """I: items are the nodes [U, U + I)."""
        return int(self.manifest["num_items"])

    @property
    def num_nodes(self) -> int:
        """N = U + I."""
        return self.num_users + self.num_items

    @property
    def num_edges(self) -> int:
        """E: training interactions."""
        return int(self.manifest["num_edges"])

    @cached_property
    def degree(self) -> IntArray:
        """Training degree of every node. Shape: int64 [N]."""
        return np.diff(self.indptr)

    def held_out(self, split: str) -> HeldOut:
        """The interactions of "valid" or "test". Opened only here, so training never reads them."""
        if split not in ("valid", "test"):
            raise ValueError(f"split {split!r}: valid or test")
        indptr = map_array(self.path / f"{split}_indptr.npy", np.int64, self.num_users + 1)
        indices = map_array(self.path / f"{split}_indices.npy", np.int32, int(indptr[-1]))
        return HeldOut(indptr, indices)

    def to_hetero_data(self, split: str | None = None) -> "HeteroData":
        """The training graph for PyG, in memory.

        Users and items are numbered from 0 each: item k is node U + k here. No `edge_index` has
        held-out edges.

        Args:
            split: "valid" or "test" adds its edges as `edge_label_index`; None opens neither.

        Returns:
            `torch_geometric.data.HeteroData` with
            ["user"], ["item"]: num_nodes; degree, int64, in training edges.
            ["user", "rates", "item"], ["item", "rev_rates", "user"]: edge_index, int64 [2, E],
                source and target; time_rank, int64 [E], position in the user's chronology.
            ["user", "rates", "item"], with `split`: edge_label_index, int64 [2, held out];
                edge_label, ones.

        Example:
            >>> data = Graph.open(path).to_hetero_data(split="valid")
            >>> edge_index = data.to_homogeneous(add_node_type=False).edge_index  # global ids again
        """
        from recmind_dist.graph.pyg_data import hetero_data_of_graph

        return hetero_data_of_graph(self, split)

    def users_frame(self, first: int = 0, last: int | None = None) -> pl.DataFrame:
        """Users [first, last), a row each: id, then texts (null where there is none)."""
        return _read_parquet(self.path / "users.parquet", None, first, last)

    def items_frame(self, first: int = 0, last: int | None = None) -> pl.DataFrame:
        """Items [first, last), as `users_frame`. Item k is node U + k."""
        return _read_parquet(self.path / "items.parquet", None, first, last)

    def item_blocks(self) -> Iterator[pl.DataFrame]:
        """`items_frame` a block at a time."""
        for first in range(0, max(self.num_items, 1), BLOCK_ROWS):
            yield self.items_frame(first, first + BLOCK_ROWS)

    def user_blocks(self) -> Iterator[pl.DataFrame]:
        """`users_frame` a block at a time."""
        for first in range(0, max(self.num_users, 1), BLOCK_ROWS):
            yield self.users_frame(first, first + BLOCK_ROWS)

    @cached_property
    def user_ids(self) -> pl.Series:
        """External ids of the users, in node order. Read on first use."""
        return _read_parquet(self.path / "users.parquet", ["id"]).get_column("id")

    @cached_property
    def item_ids(self) -> pl.Series:
        """External ids of the items, in node order. Read on first use."""
        return _read_parquet(self.path / "items.parquet", ["id"]).get_column("id")

    def user_index(self, external_id: str | int) -> NodeId:
        """The node of a user. Raises DataError for an id that is not in the graph."""
        wanted = str(external_id)
        found = (self.user_ids == wanted).arg_max()
        if found is None or self.user_ids[found] != wanted:
            raise DataError(
                f"user {wanted!r} is not in {self.name}: "
                f"its {self.num_users} users have ids like {self.user_ids[0]!r}"
            )
        return int(found)


class _NotMapped:
    """Placeholder for edges that a rank must not read: unlike an empty array, any use fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(
            f"edges of this graph are not mapped here ({name}): use EdgeRows.share"
        )


_NOT_MAPPED: Any = _NotMapped()


def _count(path: Path, manifest: dict[str, Any], key: str) -> int:
    value = manifest.get(key)
    if not isinstance(value, int) or value < 0:
        raise StoreError(f"{path}: the manifest's {key} is {value!r}: prepare the graph again")
    return value


def _read_parquet(
    path: Path, columns: list[str] | None = None, first: int = 0, last: int | None = None
) -> pl.DataFrame:
    """Rows [first, last) of a file."""
    try:
        if first == 0 and last is None:
            return pl.read_parquet(path, columns=columns)
        return pl.scan_parquet(path).slice(first, None if last is None else last - first).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        said = (str(error).splitlines() or [""])[0][:120]
        raise StoreError(f"{path}: cannot be read ({said}): prepare the graph again") from error


def map_array(
    path: Path, dtype: type[np.generic], length: int | None, start: int = 0, stop: int | None = None
) -> NDArray[Any]:
    """Memory-maps a one-dimensional .npy file, or only the pages of [start, stop).

    Args:
        length: number of elements that the file must have; None: any.

    Raises:
        StoreError: the file cannot be read, or is of another type or length.
    """
    array: NDArray[Any]
    try:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # mmap refuses a file without elements
            array = _read_empty(path)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"{path}: cannot be read ({str(error)[:120]}): prepare the graph again"
        ) from error
    if array.ndim != 1 or array.dtype != dtype or (length is not None and len(array) != length):
        raise StoreError(
            f"{path}: {array.dtype} {list(array.shape)} where the manifest says {length}: prepare "
            "the graph again"
        )
    if stop is None or not len(array):
        return array
    assert isinstance(array, np.memmap)
    offset = int(array.offset) + start * array.itemsize
    del array  # the mapping of the whole file
    if start == stop:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset, (stop - start,))


def _read_empty(path: Path) -> NDArray[Any]:
    """An array without elements. Raises ValueError for any other, whatever its header declares."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"format version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if shape != (0,):
        raise ValueError(f"shape {list(shape)} in a file of {path.stat().st_size} bytes")
    return np.empty(0, dtype)
