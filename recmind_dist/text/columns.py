"""Columns of texts: lists, or files of which only what is read is in memory.

Such a file is of Arrow's IPC format: one column "text", in blocks, not compressed, to be mapped.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import pyarrow as pa

from recmind_dist.types import BoolArray, IntArray

BLOCK_ROWS = 65_536
SCHEMA = pa.schema([("text", pa.large_string())])
Block = list[str | None]


class MappedTexts(Sequence[str | None]):
    """Texts in a mapped file. Slices and pickles are lists; `part` reads nothing.

    Args:
        column: of large strings, null where there is no text.
    """

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, at: int) -> str | None: ...

    @overload
    def __getitem__(self, at: slice) -> Block: ...

    def __getitem__(self, at: int | slice) -> str | Block | None:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            assert step == 1, "texts are read in order"
            return cast(Block, self.part(start, stop).column.to_pylist())
        return cast("str | None", self.column[at].as_py())

    def __iter__(self) -> Iterator[str | None]:
        for block in blocks_of(self):
            yield from block

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self[:],)

    def part(self, start: int, stop: int) -> "MappedTexts":
        """Rows [start, stop)."""
        return MappedTexts(self.column.slice(start, max(stop - start, 0)))


Column = Block | MappedTexts


def part_of(texts: Column, start: int, stop: int) -> Column:
    """Rows [start, stop), read when they are used."""
    return texts.part(start, stop) if isinstance(texts, MappedTexts) else texts[start:stop]


def blocks_of(texts: Column) -> Iterator[Block]:
    """The texts in blocks of `BLOCK_ROWS`."""
    for start in range(0, len(texts), BLOCK_ROWS):
        yield texts[start : start + BLOCK_ROWS]


def num_texts(texts: Column) -> int:
    """Rows that have a text."""
    if isinstance(texts, MappedTexts):
        return len(texts) - int(texts.column.null_count)
    return sum(text is not None for text in texts)


def has_text(texts: Column) -> BoolArray:
    """Which rows have a text. Shape: [rows]."""
    if isinstance(texts, MappedTexts):
        return np.asarray(texts.column.is_valid().to_numpy(), np.bool_)
    return np.array([text is not None for text in texts], np.bool_)


def take(texts: Column, rows: IntArray) -> Block:
    """The texts of these rows."""
    if isinstance(texts, MappedTexts):
        return cast(Block, texts.column.take(pa.array(rows)).to_pylist())
    return [texts[row] for row in rows.tolist()]


def spooled(blocks: Iterable[Block], folder: Path | None) -> Column:
    """All texts of these blocks, in a file without a name that goes with the column.

    Args:
        folder: where the file is made, which may be absent or closed to writers: then in the
            system's own; None: a list.
    """
    if folder is None:
        return [text for block in blocks for text in block]
    there = str(folder) if os.access(folder, os.W_OK) else None
    handle, name = tempfile.mkstemp(".arrow", "texts-", there)
    os.close(handle)
    try:
        write_column(Path(name), blocks)
        return read_column(Path(name))[0]
    finally:
        os.unlink(name)  # what is mapped stays


def write_column(path: Path, blocks: Iterable[Block], about: dict[str, str] | None = None) -> None:
    """Writes a file of texts, a block at a time, with a few words on it."""
    schema = SCHEMA.with_metadata(about)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in blocks:
            writer.write_batch(pa.record_batch([pa.array(block, pa.large_string())], schema))


def read_column(path: Path, verify: bool = False) -> tuple[MappedTexts, dict[str, str]]:
    """Maps a file of `write_column`. Returns its texts, and what it says of itself.

    Args:
        verify: read everything; without it only a file that was verified is safe to read.
    Raises:
        ValueError, OSError: it is no such file.
    """
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"columns {table.schema.names}, not the texts'")
    if verify:
        table.validate(full=True)
    about = table.schema.metadata or {}
    words = {name.decode(): value.decode() for name, value in about.items()}
    return MappedTexts(table.column(0)), words
