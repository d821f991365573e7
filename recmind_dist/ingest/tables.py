"""Item and user files → one frame of texts, id first; bad rows set aside, repeated ids refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.delimited import read_delimited, read_header
from recmind_dist.ingest.ids import id_column, text_id
from recmind_dist.ingest.log import dialect_of, format_of
from recmind_dist.ingest.objects import (
    flat_text,
    parquet_columns,
    read_jsonl,
    read_parquet,
    unpaired,
)
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows, check_file, missing_column
from recmind_dist.ingest.settings import TableSettings


def empty_table() -> pl.DataFrame:
    """The table of a data set without a text file."""
    return pl.DataFrame(schema={"id": pl.String})


def read_table(settings: TableSettings, side: str, quarantine: Quarantine) -> pl.DataFrame:
    """Columns: id, then the text fields as strings, null where there is no text.

    Args:
        side: "item" or "user", for the usual id columns and for error messages.

    Raises:
        DataError: a file or column is missing, an id is repeated, or too many rows are malformed.
    """
    check_file(settings.path, f"dataset.{side}s.path")
    rows = _read(settings, side, quarantine.room)
    ids = id_column(rows.frame.get_column("id"))
    missing = [
        BadRow(rows.file, line, f"no {side} id", "" if rows.textual else "null")
        for line in rows.frame.get_column(LINE).filter(ids.is_null())
    ]
    quarantine.add(rows.bad + missing)
    frame = rows.frame.with_columns(ids.alias("id")).filter(pl.col("id").is_not_null())
    _refuse_repeated_ids(frame, rows.file, side)
    fields = [name for name in frame.columns if name not in ("id", LINE)]
    texts = [pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in fields]
    return frame.select("id", *texts)


def _read(settings: TableSettings, side: str, limit: int) -> Rows:
    path = settings.path
    layout = format_of(path, settings.format, f"dataset.{side}s.format")
    if layout == "lightgcn":
        raise DataError(
            f"{path}: the lightgcn layout holds no texts: give another file in dataset.{side}s.path"
        )
    if layout == "jsonl":
        return _read_objects(settings, side, limit)
    if layout == "parquet":
        identity, fields = _choose(settings, side, parquet_columns(path))
        rows = read_parquet(path, [identity, *fields])
    else:
        dialect = dialect_of(layout, settings.separator, multiline=layout == "csv")
        identity, fields = _choose(settings, side, read_header(path, dialect))
        rows = read_delimited(path, dialect, [identity, *fields], limit)
    texts = [_text_column(rows.frame.get_column(name), path) for name in fields]
    ids = rows.frame.get_column(identity)
    if ids.dtype.is_nested() or ids.dtype in (pl.Binary, pl.Boolean):
        raise DataError(f"{path}: column {identity!r} holds {ids.dtype}: ids are text or numbers")
    frame = pl.DataFrame([ids.alias("id"), *texts, rows.frame.get_column(LINE)])
    return Rows(path, frame, rows.bad, rows.textual)


def _text_column(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype == pl.String:
        return column.str.strip_chars()
    if isinstance(column.dtype, pl.List) and not column.dtype.inner.is_nested():
        return column.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(
            f"{path}: column {column.name!r} holds {column.dtype}: leave it out by naming the "
            "fields to keep"
        )
    return column.cast(pl.String)


def _usual_ids(settings: TableSettings, side: str) -> tuple[str, ...]:
    return (settings.id,) if settings.id else ("id", f"{side}_id", side)


def _fields(settings: TableSettings, names: Iterable[str], identity: str) -> list[str]:
    """The text columns to keep."""
    if settings.fields == "all":
        return [name for name in names if name != identity]
    return list(settings.fields)


def _choose(settings: TableSettings, side: str, present: list[str]) -> tuple[str, list[str]]:
    """The id column and the text columns. Raises DataError if the file lacks one of them."""
    usual = _usual_ids(settings, side)
    identity = next((name for name in usual if name in present), None)
    if identity is None:
        raise missing_column(settings.path, f"dataset.{side}s.id", " or ".join(usual), present)
    fields = _fields(settings, present, identity)
    for name in fields:
        if name not in present:
            raise missing_column(settings.path, f"dataset.{side}s.fields", name, present)
    if "id" in fields:
        raise DataError(
            f"{settings.path}: text column 'id' clashes with the id, {identity!r}: "
            f"name the columns to keep in dataset.{side}s.fields"
        )
    return identity, fields


class _ObjectPicker:
    """Picks id and texts of JSON objects. The first object with a usual id key decides which."""

    def __init__(self, settings: TableSettings, side: str) -> None:
        self._settings = settings
        self._side = side
        self.identity: str | None = None
        self.keys: dict[str, None] = {}  # of all objects, in order of first occurrence

    def __call__(self, value: dict[str, Any]) -> dict[str, str | None] | str:
        self.keys.update(dict.fromkeys(value))
        if self.identity is None:
            usual = _usual_ids(self._settings, self._side)
            self.identity = next((name for name in usual if name in value), None)
        if self.identity is None or self.identity not in value:
            return f"no {self._side} id"
        try:
            names = _fields(self._settings, value, self.identity)
            picked = {name: flat_text(value.get(name)) for name in names}
        except RecursionError:
            return "JSON nested too deep"
        picked["id"] = text_id(value[self.identity])
        if picked["id"] is None:
            return "the id is not text or a number"
        if any(map(unpaired, picked.values())) or any(map(unpaired, picked)):
            return "a text holds half a surrogate pair"
        return picked


def _read_objects(settings: TableSettings, side: str, limit: int) -> Rows:
    picker = _ObjectPicker(settings, side)
    rows = read_jsonl(settings.path, picker, limit)
    if rows.bad and not picker.keys:  # no line is an object
        empty = pl.DataFrame(schema={"id": pl.String, LINE: pl.Int64})
        return Rows(rows.file, empty, rows.bad)
    present = list(picker.keys)
    chosen = settings.model_copy(update={"id": picker.identity or settings.id})
    _, fields = _choose(chosen, side, present)
    missing = [name for name in ("id", *fields) if name not in rows.frame.columns]
    nulls = [pl.lit(None, pl.String).alias(name) for name in missing]
    return Rows(rows.file, rows.frame.with_columns(nulls).select("id", *fields, LINE), rows.bad)


def _refuse_repeated_ids(frame: pl.DataFrame, path: Path, side: str) -> None:
    repeated = frame.filter(pl.col("id").is_duplicated())
    if repeated.height:
        identity = repeated.get_column("id")[0]
        first, second = repeated.filter(pl.col("id") == identity).get_column(LINE)[:2]
        raise DataError(
            f"{path}:{first} and {path}:{second}: {side} id {identity!r} stands on both lines: "
            "remove one"
        )
