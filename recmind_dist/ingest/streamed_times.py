"""Times of a Parquet log that is read in batches: their unit is found before the rows are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.ingest.layouts import with_partitions
from recmind_dist.ingest.objects import refused, stored_table
from recmind_dist.ingest.rows import LINE
from recmind_dist.ingest.times import (
    Readings,
    TimeLook,
    TimeRule,
    both_readings,
    read_times,
    rule_of,
)

Columns = dict[Path, dict[str, str]]
"""File → role → column."""


def batches(path: Path, columns: dict[str, str], batch_rows: int) -> Iterator[pl.DataFrame]:
    """Columns by role, and `LINE`, which counts from 1 in each batch."""
    with refused(path), arrow_parquet.ParquetFile(path) as file:
        own = file.schema_arrow.names
        wanted = [name for name in dict.fromkeys(columns.values()) if name in own]
        for batch in file.iter_batches(batch_rows, columns=wanted):
            batch.validate(full=True)
            raw = pl.from_arrow(stored_table(pa.Table.from_batches([batch])))
            assert isinstance(raw, pl.DataFrame)
            raw = with_partitions(raw, path, columns.values(), own)
            line = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE)
            roles = [pl.col(name).alias(role) for role, name in columns.items()]
            yield raw.with_columns(line).select(*roles, LINE)


class StreamedTimes:
    """The rule for the times of all files, found in passes over their time columns alone.

    Args:
        declared: see `LogSettings.time_format`.
    """

    def __init__(self, columns: Columns, declared: str | None, batch_rows: int) -> None:
        self._columns, self._declared, self._batch_rows = columns, declared, batch_rows
        self._is_dates: dict[Path, bool] = {}
        looks = []
        for path, roles in columns.items():
            if "time" in roles:
                self._is_dates[path] = self._are_dates(path)
                looks.append(self._look(path))
        self.rule = rule_of(looks, declared) if looks else TimeRule(None)

    def is_dates(self, path: Path) -> bool | None:
        """Whether a file's times are dates."""
        return self._is_dates.get(path)

    def scaled(self, good: Any, log: Any, first_row: int) -> pl.DataFrame:
        """A batch's sound rows with times in the unit of all, and `row` from `first_row`.

        Args:
            good: see `SoundRows`.
            log: see `StreamedLog`, whose `time_span` is kept up to date.
        """
        frame: pl.DataFrame = good.frame.with_columns(row=pl.col("row") + first_row).drop(LINE)
        if good.time_look is None:
            return frame.with_columns(time=pl.col("row"))
        times = self.rule.scaled(frame["time"], good.is_dates)
        if len(times):
            low, high = float(times.min()), float(times.max())  # type: ignore[arg-type]
            before = log.time_span or (low, high)
            log.time_span = min(low, before[0]), max(high, before[1])
        return frame.with_columns(times)

    def _of_file(self, path: Path) -> Iterator[pl.DataFrame]:
        return batches(path, {"time": self._columns[path]["time"]}, self._batch_rows)

    def _are_dates(self, path: Path) -> bool:
        readings = Readings()
        for frame in self._of_file(path):
            dates, numbers, _ = both_readings(frame["time"], path, self._declared)
            readings.add(Readings.of(dates, numbers))
        return readings.are_dates

    def _look(self, path: Path) -> TimeLook:
        look = TimeLook(path)
        before = 0
        for frame in self._of_file(path):
            dates = self._is_dates[path]
            _, part, _ = read_times(frame["time"], frame[LINE], path, self._declared, dates)
            look.add(part, before)
            before += frame.height
        return look
