"""Parquet tables written in row groups, and the ids of a side that are in them."""

from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow.parquet as arrow_parquet

from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.importers.columns import Column
from recmind_dist.ingest.rows import LINE
from recmind_dist.types import BoolArray, IntArray

GROUP_BYTES = 32 << 20  # of frames in memory before a row group is written
LOG, FILE = 0, 1  # where an id was met


class TableWriter:
    """A Parquet file of the columns, in row groups of about `GROUP_BYTES`."""

    def __init__(self, path: Path, columns: tuple[Column, ...]) -> None:
        self.path = path
        self.rows = 0
        self.bounds: tuple[int, int] | None = None  # of the column `time`
        self._schema = {column.name: column.dtype for column in columns}
        empty = pl.DataFrame(schema=self._schema)
        self._arrow = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        few = [column.name for column in columns if column.reads in ("number", "text")]
        self._writer = arrow_parquet.ParquetWriter(
            path, self._arrow, compression="zstd", use_dictionary=few
        )
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Appends rows; columns that the frame lacks are null."""
        if frame.is_empty():
            return
        lacking = [pl.lit(None, t).alias(n) for n, t in self._schema.items() if n not in frame]
        frame = frame.with_columns(lacking).select(list(self._schema))
        if "time" in self._schema:
            low, high = frame["time"].min(), frame["time"].max()
            if low is not None:
                old = self.bounds or (low, high)
                self.bounds = (min(old[0], low), max(old[1], high))  # type: ignore[type-var,assignment]
        self.rows += frame.height
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            frame = pl.concat(self._waiting)
            self._writer.write_table(
                frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._arrow)
            )
        self._waiting, self._bytes = [], 0


class SideIds:
    """The ids of items or users: which are in the log, and which have a row of texts.

    Memory: the ids' bytes and about 40 bytes each.
    """

    def __init__(self) -> None:
        self._codes = IdCodes()
        self._met: list[BoolArray] = [np.zeros(1024, np.bool_), np.zeros(1024, np.bool_)]
        self._hashes = np.zeros(1024, np.uint64)

    def add_log(self, ids: pl.Series) -> None:
        """Ids of interactions."""
        codes = self._codes_of(ids)
        self._met[LOG][codes] = True

    def first_rows(self, frame: pl.DataFrame, column: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows whose ids had none before; the others with `alike`: equal to the first one."""
        codes = self._codes_of(frame.get_column(column))
        hashes = frame.drop(LINE).hash_rows().to_numpy()
        _, first = np.unique(codes, return_index=True)
        is_first = np.zeros(len(codes), np.bool_)
        is_first[first] = True
        is_new = is_first & ~self._met[FILE][codes]
        self._hashes[codes[is_new]] = hashes[is_new]
        self._met[FILE][codes] = True
        alike = pl.Series("alike", self._hashes[codes] == hashes)
        again = frame.with_columns(alike).filter(pl.Series(~is_new))
        return frame.filter(pl.Series(is_new)), again

    def counts(self) -> dict[str, int]:
        """In the log, in the file, in both."""
        log, file = (met[: self._codes.count] for met in self._met)
        return {"log": int(log.sum()), "file": int(file.sum()), "both": int((log & file).sum())}

    def _codes_of(self, ids: pl.Series) -> IntArray:
        codes = self._codes.of(ids)
        if self._codes.count > len(self._hashes):
            size = 2 * self._codes.count
            self._met = [_longer(met, size) for met in self._met]
            self._hashes = _longer(self._hashes, size)
        return codes


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    grown = np.zeros(size, array.dtype)
    grown[: len(array)] = array
    return grown
