"""Text vectors on disk: Zarr v3, float16, checksummed chunks, and a ledger of complete shards.

    <store>/store.json               encoder, width, rows, layout
    <store>/items, <store>/users     arrays [rows, T]; a row without text is NaN
    <store>/ledger/items-00000.json  rows, sha256 of the float16 bytes, content key; written once
                                     the shard is durable

Zarr reads a missing shard as fill values and cannot tell whether an array is complete: the ledger
can. Each shard has one writer.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import content_key as content_key_of
from recmind_dist.storage import fsync_directory, read_json, write_json
from recmind_dist.types import IntArray

SIDES = ("items", "users")
LAYOUT = ("shard_rows", "chunk_rows")
KIND = "text"
SCHEMA = 2  # 1 had one layout for both sides
META = "store.json"
MAX_SHARDS = 1 << 18  # a side
TARGET_SHARDS = 8  # at least, of a side that is not tiny: several workers share the work
MIN_SHARD_ROWS, MAX_SHARD_ROWS, MAX_CHUNK_ROWS = 64, 131072, 8192
ITEM_VECTORS = "item_vectors"
"""A run's own store, of vectors that have learnt (pipeline/item_vectors.py)."""
HalfArray = NDArray[np.float16]


def default_layout(num_rows: int) -> tuple[int, int]:
    """Rows of a shard and of a chunk, for a side of `num_rows`.

    Powers of two: a side that grows keeps the boundaries of its shards, so that they can be copied
    from an older store, until it crosses the next power.
    """
    shard_rows = 1 << (max(num_rows // TARGET_SHARDS, 1).bit_length() - 1)
    shard_rows = min(max(shard_rows, MIN_SHARD_ROWS), MAX_SHARD_ROWS)
    return shard_rows, min(shard_rows, MAX_CHUNK_ROWS)


def remedy_of(path: Path) -> str:
    """What to run where a store is damaged."""
    if path.name == ITEM_VECTORS:
        return f"run `recmind doctor {path.parent} --repair`, which learns them again"
    return "run `recmind embed`"


class TextStore:
    """Vectors of one encoder for all items and users. See `open` and `create`.

    The first read of each shard verifies it against the ledger.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self._arrays: dict[str, Any] = {}
        self._verified: set[tuple[str, int]] = set()

    @classmethod
    def open(cls, path: Path) -> "TextStore":
        """Raises StoreError if `path` holds no text store. Does not look at shards."""
        if not (path / META).is_file():
            raise StoreError(f"{path}: no {META}: not a text store: {remedy_of(path)}")
        meta = read_json(path / META)
        if not isinstance(meta, dict) or meta.get("kind") != KIND:
            raise StoreError(
                f"{path / META}: not that of a text store: delete {path} and {remedy_of(path)}"
            )
        if meta.get("schema") == 1:
            meta |= {name: dict.fromkeys(SIDES, meta.get(name)) for name in LAYOUT}
        elif meta.get("schema") != SCHEMA:
            raise StoreError(
                f"{path / META}: schema version {meta.get('schema')!r}, this program reads "
                f"{SCHEMA}: use the version that wrote it"
            )
        if not _is_layout(meta):
            raise StoreError(
                f"{path / META}: describes no layout of ours: delete {path} and {remedy_of(path)}"
            )
        return cls(path, meta)

    @classmethod
    def create(
        cls,
        path: Path,
        encoder: dict[str, Any],
        dim: int,
        num_rows: dict[str, int],
        shard_rows: int | None = None,
        chunk_rows: int | None = None,
    ) -> "TextStore":
        """Creates a store, or opens the existing one, which keeps its layout and good shards.

        Args:
            encoder: plain data that decides the vectors, kept for people to read.
            num_rows: by side.
            shard_rows: of both sides of a new store. Default: by `default_layout` of each side.
            chunk_rows: a divisor of `shard_rows`, given with it.

        Raises:
            StoreError: the existing store has another width or other numbers of rows.
        """
        if (path / META).is_file():
            store = cls.open(path)
            found, wanted = (store.dim, store.meta["num_rows"]), (dim, dict(num_rows))
            if found != wanted:
                raise StoreError(
                    f"{path / META}: says width and rows {found}, not {wanted}: delete {path} and "
                    f"{remedy_of(path)}"
                )
            return store
        (path / "ledger").mkdir(parents=True, exist_ok=True)
        meta = {"kind": KIND, "schema": SCHEMA, "dim": dim, "num_rows": dict(num_rows)}
        for i, given in enumerate((shard_rows, chunk_rows)):
            meta[LAYOUT[i]] = {side: given or default_layout(num_rows[side])[i] for side in SIDES}
        meta["encoder"] = encoder
        store = cls(path, meta)
        for side in SIDES:
            store._create_array(side)
        write_json(path / META, meta)
        return store

    @property
    def shard_remedy(self) -> str:
        """What to run where a shard is damaged."""
        learns = self.path.name == ITEM_VECTORS
        return remedy_of(self.path) + ("" if learns else ", which makes only this shard again")

    @property
    def dim(self) -> int:
        """Width T."""
        return int(self.meta["dim"])

    def shard_rows(self, side: str) -> int:
        """Rows of a full shard."""
        return int(self.meta["shard_rows"][side])

    def chunk_rows(self, side: str) -> int:
        """Rows of a checksummed chunk inside a shard."""
        return int(self.meta["chunk_rows"][side])

    def num_rows(self, side: str) -> int:
        """Rows of "items" or "users", with and without text."""
        return int(self.meta["num_rows"][side])

    def num_shards(self, side: str) -> int:
        """Shard files of a side."""
        return -(-self.num_rows(side) // self.shard_rows(side))

    def shard_range(self, side: str, shard: int) -> tuple[int, int]:
        """Rows [start, stop) of a shard."""
        start = shard * self.shard_rows(side)
        return start, min(start + self.shard_rows(side), self.num_rows(side))

    def read(self, side: str, start: int, stop: int) -> HalfArray:
        """Rows [start, stop). Shape: [stop - start, T] float16, NaN where there is no text."""
        try:
            out = np.empty((stop - start, self.dim), dtype=np.float16)
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"{self.path}: {stop - start} rows of {side} do not fit in memory: use more workers"
            ) from error
        shard_rows = self.shard_rows(side)
        end = -(-stop // shard_rows) if stop > start else 0
        for shard in range(start // shard_rows, end):
            first, last = self.shard_range(side, shard)
            low, high = max(first, start), min(last, stop)
            if (side, shard) in self._verified:
                rows = self._rows(side, shard, low, high)
            else:
                rows = self.read_shard(side, shard)[low - first : high - first]
            out[low - start : high - start] = rows
        return out

    def read_all(self, side: str) -> HalfArray:
        """All rows of a side. Shape: [rows, T] float16."""
        return self.read(side, 0, self.num_rows(side))

    def gather(self, side: str, rows: IntArray) -> HalfArray:
        """Rows in any order; reads each of their shards once. Shape: [len(rows), T] float16."""
        out = np.empty((len(rows), self.dim), dtype=np.float16)
        shard_of, row_in_shard = np.divmod(np.asarray(rows), self.shard_rows(side))
        for shard in np.unique(shard_of).tolist():
            chosen = np.flatnonzero(shard_of == shard)
            out[chosen] = self.read_shard(side, shard)[row_in_shard[chosen]]
        return out

    def shards(self, side: str) -> Iterator[HalfArray]:
        """The rows of a side, one verified shard at a time."""
        for shard in range(self.num_shards(side)):
            yield self.read_shard(side, shard)

    def read_shard(self, side: str, shard: int) -> HalfArray:
        """One verified shard. Raises StoreError, naming it, if it is missing or damaged."""
        entry = self.entry(side, shard)
        name = f"{self.path}: shard {shard} of {side}"
        start, stop = self.shard_range(side, shard)
        if entry is None:
            raise StoreError(f"{name} has no entry in the ledger: {self.shard_remedy}")
        if not entry.get("textless") and not self.shard_file(side, shard).is_file():
            raise StoreError(f"{name} is missing: {self.shard_remedy}")
        vectors = self._rows(side, shard, start, stop)
        if entry.get("rows") != stop - start or entry.get("sha256") != _sha256(vectors):
            raise StoreError(f"{name} differs from its ledger entry: {self.shard_remedy}")
        self._verified.add((side, shard))
        return vectors

    def write_shard(self, side: str, shard: int, vectors: HalfArray, content_key: str) -> None:
        """Writes a shard durably, reads it back, then enters it in the ledger.

        Raises:
            TextError: wrong shape, or a row that is neither finite nor all NaN.
            StoreError: the disk is full or returns other bytes.
        """
        start, stop = self.shard_range(side, shard)
        _refuse_bad_vectors(vectors, (stop - start, self.dim), f"shard {shard} of {side}")
        file = self.shard_file(side, shard)
        try:
            self._ledger_file(side, shard).unlink(missing_ok=True)
            file.unlink(missing_ok=True)  # Zarr would merge into the old file, perhaps damaged
            self._array(side)[start:stop] = vectors
            textless = bool(np.isnan(vectors).all())
            if not textless:  # else all are fill values, for which Zarr keeps no file
                _fsync(file)
            back = self._rows(side, shard, start, stop)
            if not np.array_equal(back.view(np.uint16), vectors.view(np.uint16)):
                raise StoreError(
                    f"{file}: other bytes came back than were written: check the disk, then "
                    f"{self.shard_remedy}"
                )
            entry = {
                "rows": stop - start,
                "sha256": _sha256(vectors),
                "content_key": content_key,
                "textless": textless,
            }
            write_json(self._ledger_file(side, shard), entry)
        except OSError as error:
            raise StoreError(
                f"{file}: cannot be written ({error.strerror}): free space, then run again: "
                "finished shards are kept"
            ) from error
        self._verified.discard((side, shard))

    def entry(self, side: str, shard: int) -> dict[str, Any] | None:
        """A shard's ledger entry; None if it was never completed. Raises StoreError if damaged."""
        path = self._ledger_file(side, shard)
        if not path.is_file():
            return None
        entry = read_json(path)
        return entry if isinstance(entry, dict) else {}

    def content_key(self) -> str:
        """One key for the content of all shards, from the ledger."""
        shards = ((side, shard) for side in SIDES for shard in range(self.num_shards(side)))
        return content_key_of(
            [(self.entry(side, shard) or {}).get("content_key") for side, shard in shards]
        )

    def layout(self, side: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of the array, of a shard and of a chunk, from Zarr's metadata."""
        array = self._open_array(side)
        return tuple(array.shape), tuple(array.shards or ()), tuple(array.chunks)

    def forget(self, side: str, shard: int) -> None:
        """Removes a shard from the ledger, so that the next extraction makes it again."""
        self._ledger_file(side, shard).unlink(missing_ok=True)
        fsync_directory(self.path / "ledger")
        self._verified.discard((side, shard))

    def verify(self) -> None:
        """Reads everything. Raises StoreError naming the first missing or damaged shard."""
        for side in SIDES:
            for shard in range(self.num_shards(side)):
                self.read_shard(side, shard)

    def clean(self) -> int:
        """Removes half-written files of dead writers; returns their number.

        Only the holder of the store's lock may call.
        """
        files = [
            path
            for path in self.path.rglob("*")
            if path.name.endswith(".partial") or ".partial-" in path.name
        ]
        for path in files:
            path.unlink(missing_ok=True)
        return len(files)

    def shard_file(self, side: str, shard: int) -> Path:
        """The file in which Zarr keeps a shard."""
        return self.path / side / "c" / str(shard) / "0"

    def _ledger_file(self, side: str, shard: int) -> Path:
        return self.path / "ledger" / f"{side}-{shard:05d}.json"

    def _rows(self, side: str, shard: int, start: int, stop: int) -> HalfArray:
        try:
            return np.asarray(self._array(side)[start:stop], dtype=np.float16)
        except StoreError:
            raise
        except Exception as error:  # Zarr and its codecs raise anything on damaged bytes
            raise StoreError(
                f"{self.path}: shard {shard} of {side} is damaged ({_one_line(error)}): "
                f"{self.shard_remedy}"
            ) from error

    def _array(self, side: str) -> Any:
        if side not in self._arrays:
            array = self._open_array(side)
            if array.shape != (self.num_rows(side), self.dim):
                raise StoreError(
                    f"{self.path / side}: {array.shape[0]} rows, {META} says "
                    f"{self.num_rows(side)}: {remedy_of(self.path)}"
                )
            self._arrays[side] = array
        return self._arrays[side]

    def _open_array(self, side: str) -> Any:
        import zarr

        path = self.path / side
        try:
            # write empty chunks too, so that a missing shard file always means a loss
            return zarr.open_array(path, mode="r+", config={"write_empty_chunks": True})
        except Exception as error:  # Zarr raises anything on a damaged zarr.json
            raise StoreError(
                f"{path}: not a Zarr array ({_one_line(error)}): delete {self.path}, run `recmind "
                "embed`"
            ) from error

    def _create_array(self, side: str) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec

        self._arrays[side] = zarr.create_array(
            store=self.path / side,
            shape=(self.num_rows(side), self.dim),
            dtype="float16",
            chunks=(self.chunk_rows(side), self.dim),
            shards=(self.shard_rows(side), self.dim),
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],  # float16 vectors hardly compress (1.1 times)
            config={"write_empty_chunks": True},
            overwrite=True,
        )


def _refuse_bad_vectors(vectors: HalfArray, shape: tuple[int, int], name: str) -> None:
    if vectors.shape != shape or vectors.dtype != np.float16:
        found = f"{vectors.dtype} {vectors.shape}"
        raise TextError(f"{name}: the encoder gave {found}, not float16 {shape}: check text.model")
    bad = ~np.isfinite(vectors).all(axis=1) & ~np.isnan(vectors).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise TextError(
            f"{name}: row {row} is not finite in float16: check text.model and text.dtype"
        )


def _is_layout(meta: dict[str, Any]) -> bool:
    """Whether sizes are possible: a loop over declared shards must end."""
    by_side: list[Any] = [meta.get(name) for name in ("num_rows", *LAYOUT)]
    if not isinstance(meta.get("encoder"), dict):
        return False
    if not all(isinstance(sizes, dict) and set(sizes) == set(SIDES) for sizes in by_side):
        return False
    num_rows, shard_rows, chunk_rows = by_side
    sizes = [meta.get("dim"), *shard_rows.values(), *chunk_rows.values()]
    if any(type(size) is not int or size < 1 for size in sizes):
        return False
    return all(
        type(n) is int and 0 <= n <= MAX_SHARDS * shard_rows[side] for side, n in num_rows.items()
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sha256(vectors: HalfArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors).view(np.uint8).data).hexdigest()


def _fsync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    fsync_directory(file.parent)
    fsync_directory(file.parent.parent)
