"""The bundle on disk: what ranks items for users, read without torch.

    manifest.json       sizes and hashes of all files, and what vectors and states are of
    config.yaml         of the run
    README.md           the model card
    items.parquet       a row an item: id, vector, title, degree, then the item file's fields
    users.parquet       a row a user: id, vector, history, degree; with fold-in base and text, and
                        what items that come later take from users (see `new_items`)
    states.safetensors  what a user takes from items, whatever their history (see `fold_in`)
    gates.safetensors   the gates' small networks
    projection.safetensors  the text view's weights, and the map that whitens text vectors
    text/               the language model, merged with its adapters (see `bundle_text`)

A score is the inner product of a user's and an item's vector.

Legend: U users, I items, C columns of a vector, D embedding dims, T text dims.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recmind_dist.errors import StoreError
from recmind_dist.recommend.parquet_tables import (
    check_columns,
    damaged,
    open_parquet,
    read_columns,
    unlike,
    vector_width,
)
from recmind_dist.storage.keys import sha256_file
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.storage.manifest import read_manifest, verify_manifest
from recmind_dist.types import FloatArray, Int32Array, IntArray

if TYPE_CHECKING:
    import pyarrow.parquet as pq

KIND = "bundle"
SCHEMA = 1
OWN_COLUMNS = ("id", "vector", "title", "degree")
"""Of items.parquet; an item file's field of one of these names is kept as `item.<name>`."""
LEARNT_NAMES = {"text": "learnt_propagated", "content": "learnt"}
"""What views of item vectors are called for people where no text is read, by their own names."""
ROW_GROUP = 4096
"""Users that are read at a time."""
_FEW_ROWS = 64
_HISTORIES = ("list<element: int32>", "list<item: int32>")
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class View:
    """Columns [start, stop) of a vector: a node's view, weighted by its gate."""

    name: str
    start: int
    stop: int


class Bundle:
    """An opened bundle; files are read when first asked for.

    Attributes:
        path: the directory.
        manifest: see `write_bundle`.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "Bundle":
        """Opens a directory.

        Args:
            verify: check the sha256 of every file now; otherwise a file is checked when it is read.
        Raises:
            StoreError: not a bundle, of another schema version, incomplete or damaged.
        """
        path = Path(path)
        manifest = read_manifest(path, KIND, SCHEMA)
        for name, entry in manifest["files"].items():
            if not (path / name).is_file() or (path / name).stat().st_size != entry["bytes"]:
                raise StoreError(
                    f"{path / name}: missing or truncated: copy or export the bundle again"
                )
        if verify:
            verify_manifest(path, manifest)
        bundle = cls(path, manifest)
        try:
            _ = bundle.name, bundle.num_users, bundle.num_items, bundle.views, manifest["model"]
            _ = manifest["fold_in"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path / MANIFEST}: not what a bundle's manifest says") from error
        return bundle

    @property
    def num_users(self) -> int:
        """U."""
        return int(self.manifest["num_users"])

    @property
    def num_items(self) -> int:
        """I."""
        return int(self.manifest["num_items"])

    @property
    def name(self) -> str:
        """Of the data set."""
        return str(self.manifest["name"])

    @cached_property
    def views(self) -> list[View]:
        """Of the vectors, in the order of their columns. Columns past the last are the item's bias,
        or one of a user.
        """
        found, start = [], 0
        for name, columns in self.manifest["views"]:
            found.append(View(name, start, start + columns))
            start += columns
        return found

    @cached_property
    def view_names(self) -> list[str]:
        """Names of the views for people, in the same order: where no text is read, views of item
        vectors are called by what they have learnt.
        """
        names = [view.name for view in self.views]
        manifest = self.manifest
        if manifest["model"] == "recmind" and "text" in manifest and manifest["text"] is None:
            return [LEARNT_NAMES.get(name, name) for name in names]
        return names

    @cached_property
    def item_vectors(self) -> FloatArray:
        """Shape: [I, C]."""
        return matrix_of_column(self._items(["vector"])["vector"])

    @cached_property
    def item_lengths(self) -> FloatArray:
        """Of the items' vectors without their biases, by which cosines divide. Shape: [I]."""
        views = self.item_vectors[:, : self.views[-1].stop]
        return np.asarray(np.maximum(np.linalg.norm(views, axis=1), 1e-12), np.float32)

    @cached_property
    def item_ids(self) -> list[str]:
        """External ids, in the order of all arrays of items."""
        return [str(item_id) for item_id in self._items(["id"])["id"].to_pylist()]

    @cached_property
    def item_position(self) -> dict[str, int]:
        """External id → row of the items' arrays."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def titles(self) -> list[str]:
        """Of the items; empty where they have none."""
        return [title or "" for title in self._items(["title"])["title"].to_pylist()]

    @cached_property
    def metadata(self) -> pa.Table:
        """The item file's fields, and `degree`: a row an item."""
        names = self._items_file.schema_arrow.names
        return self._items([name for name in names if name not in ("id", "vector", "title")])

    @cached_property
    def columns(self) -> list[str]:
        """Names of the items' columns, the vector not among them."""
        return [name for name in self._items_file.schema_arrow.names if name != "vector"]

    def column(self, name: str) -> pa.ChunkedArray:
        """One of the items' columns: a value an item."""
        return self._items([name])[name]

    @cached_property
    def users(self) -> "Users":
        """The users' rows, read in groups."""
        users = Users(self.path / "users.parquet", self.num_items)
        users.check(self.num_users, self.item_width)
        return users

    @cached_property
    def states(self) -> dict[str, NDArray[Any]]:
        """Arrays of states.safetensors; see `fold_in`. Empty where nobody can be folded in."""
        return self._tensors("states.safetensors")

    @cached_property
    def gates(self) -> dict[str, FloatArray]:
        """Weights of the gates' networks by name; see `gates`."""
        return self._tensors("gates.safetensors")

    @cached_property
    def projection(self) -> dict[str, FloatArray]:
        """Weights of the text view by name, and of the whitening. Empty without texts."""
        return self._tensors("projection.safetensors")

    @property
    def item_width(self) -> int:
        """C."""
        return int(self._items_file.schema_arrow.field("vector").type.list_size)

    @cached_property
    def _items_file(self) -> "pq.ParquetFile":
        path = self.path / "items.parquet"
        file = open_parquet(path)
        check_columns(file, path, {"id": "string", "title": "string"}, self.num_items)
        if vector_width(file, "vector") - self.views[-1].stop not in (0, 1):
            raise unlike(path, "vector")
        return file

    def _items(self, columns: list[str]) -> pa.Table:
        return read_columns(self._items_file, self.path / "items.parquet", columns)

    def _tensors(self, name: str) -> dict[str, Any]:
        from safetensors.numpy import load_file

        entry = self.manifest["files"].get(name)
        if entry is None:
            return {}
        if sha256_file(self.path / name) != entry["sha256"]:
            raise StoreError(f"{self.path / name}: damaged: copy or export the bundle again")
        return load_file(self.path / name)


class Users:
    """users.parquet, read a row group at a time.

    Args:
        num_items: which positions of a history may be there; None: any.
    """

    def __init__(self, path: Path, num_items: int | None = None) -> None:
        self._path, self._num_items = path, num_items or np.iinfo(np.int32).max
        self._file = open_parquet(path)

    def check(self, num_users: int, width: int) -> None:
        """Raises StoreError: not the columns of `num_users` users with vectors of this width."""
        check_columns(self._file, self._path, {"id": "string"}, num_users)
        if vector_width(self._file, "vector") != width:
            raise unlike(self._path, "vector")
        if str(self._file.schema_arrow.field("history").type) not in _HISTORIES:
            raise unlike(self._path, "history")

    @cached_property
    def ids(self) -> list[str]:
        """External ids, in row order."""
        table = read_columns(self._file, self._path, ["id"])
        return [str(user_id) for user_id in table["id"].to_pylist()]

    @cached_property
    def position(self) -> dict[str, int]:
        """External id → row."""
        return {user_id: row for row, user_id in enumerate(self.ids)}

    def vectors(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """Shape: [len(rows), C], in the order of `rows`."""
        return matrix_of_column(self._take(rows, "vector"))

    def base(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """What a row of the table has beside what its items give. Shape: [len(rows), D]."""
        return matrix_of_column(self._take(rows, "base"))

    def text(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """The users' own text views. Shape: [len(rows), D]."""
        return matrix_of_column(self._take(rows, "text"))

    def matrix(self, rows: NDArray[np.integer[Any]], column: str) -> FloatArray:
        """A column of vectors. Shape: [len(rows), width]."""
        return matrix_of_column(self._take(rows, column))

    def degree(self, rows: NDArray[np.integer[Any]]) -> IntArray:
        """Training interactions of each user. Shape: [len(rows)]."""
        return np.asarray(self._take(rows, "degree").to_numpy(), np.int64)

    def histories(self, rows: NDArray[np.integer[Any]]) -> list[Int32Array]:
        """Positions of each user's items, the oldest first."""
        return self._lists(self._take(rows, "history"))

    def width(self, column: str) -> int:
        """Numbers in each vector of a column."""
        return int(self._file.schema_arrow.field(column).type.list_size)

    @cached_property
    def columns(self) -> list[str]:
        """Names."""
        return list(self._file.schema_arrow.names)

    def blocks(self) -> Iterator[tuple[list[str], FloatArray, list[Int32Array]]]:
        """All users, a row group at a time: ids, vectors, histories."""
        for group in range(self._file.num_row_groups):
            table = self._group(group, ("id", "vector", "history"))
            ids = [str(user_id) for user_id in table["id"].to_pylist()]
            yield ids, matrix_of_column(table["vector"]), self._lists(table["history"])

    def _lists(self, column: pa.ChunkedArray) -> list[Int32Array]:
        """Positions of items, which must be some."""
        lists = lists_of_column(column)
        for items in lists:
            if len(items) and not 0 <= items.min() <= items.max() < self._num_items:
                raise unlike(self._path, "history")
        return lists

    def parts(self) -> Iterator[pa.Table]:
        """All columns of all users, a row group at a time."""
        for group in range(self._file.num_row_groups):
            yield self._group(group, tuple(self.columns))

    def _take(self, rows: NDArray[np.integer[Any]], column: str) -> pa.ChunkedArray:
        groups, inside = np.divmod(np.asarray(rows), ROW_GROUP)
        wanted, at = np.unique(groups, return_inverse=True)
        parts = [self._group(int(group), (column,))[column] for group in wanted]
        kind = self._file.schema_arrow.field(column).type
        joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind)
        starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
        return _taken(joined, starts[at] + inside) if len(wanted) else joined

    def _group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._path, error) from error


def matrix_of_column(column: pa.ChunkedArray) -> FloatArray:
    """A column of vectors. Shape: [rows, width]."""
    width, parts = column.type.list_size, []
    for chunk in column.chunks:
        flat = numbers_of(chunk.values, np.float32)
        parts.append(flat[chunk.offset * width :][: len(chunk) * width].reshape(-1, width))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty((0, width), np.float32), *parts])


def lists_of_column(column: pa.ChunkedArray) -> list[Int32Array]:
    """A column of lists of numbers, a list a row."""
    found: list[Int32Array] = []
    for chunk in column.chunks:
        values, ends = numbers_of(chunk.values, np.int32), numbers_of(chunk.offsets, np.int32)
        found += [values[start:stop] for start, stop in pairwise(ends.tolist())]
    return found


def numbers_of(array: pa.Array, kind: type[_Number]) -> NDArray[_Number]:
    """Arrow's numbers without a copy. `numpy.asarray` does the same, but imports pandas where it is
    installed: half a second.
    """
    if array.null_count:
        raise StoreError("a number is missing in a bundle's file: copy or export the bundle again")
    values = np.frombuffer(array.buffers()[1] or b"", kind)
    return values[array.offset : array.offset + len(array)]


def arrow_numbers(values: NDArray[Any]) -> pa.Array:
    """NumPy's numbers without a copy, and without pandas."""
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _taken(column: pa.ChunkedArray, at: NDArray[np.integer[Any]]) -> pa.ChunkedArray:
    """Rows of a column; of a few without pyarrow.compute, which takes longer to import."""
    if len(at) > _FEW_ROWS:
        return column.take(arrow_numbers(at))
    parts = [column.slice(int(row), 1).chunks[0] for row in at]
    return pa.chunked_array(parts, column.type)


def vector_column(matrix: FloatArray) -> pa.FixedSizeListArray:
    """[rows, width] as a column."""
    flat = arrow_numbers(np.ascontiguousarray(matrix, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
