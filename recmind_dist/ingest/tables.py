"""Item and user files → one frame of texts (id first), malformed rows set aside, double ids
refused.
"""

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
    """The texts of nobody."""
    return pl.DataFrame(schema={"id": pl.String})


def read_table(settings: TableSettings, side: str, quarantine: Quarantine) -> pl.DataFrame:
    """Columns: id, then the text fields as strings, null where there is no text.

    Args:
        side: "item" or "user", for the usual id columns and for error messages.

    Raises:
        DataError: a file or column is missing, an id stands on two lines, or too many rows are
        malformed.
    """
    key = f"dataset.{side}s"
    check_file(settings.path, f"{key}.path")
    rows = _read(settings, side, key, quarantine.room)
    ids = id_column(rows.frame.get_column("id"))
    lines = rows.frame.get_column(LINE)
    missing = [
        BadRow(rows.file, line, f"no {side} id", "" if rows.textual else "null")
        for line in lines.filter(ids.is_null())
    ]
    quarantine.add(rows.bad + missing)
    frame = rows.frame.with_columns(ids.alias("id")).filter(pl.col("id").is_not_null())
    _refuse_doubles(frame, rows.file, side)
    fields = [name for name in frame.columns if name not in ("id", LINE)]
    texts = [pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in fields]
    return frame.select("id", *texts)


def _read(settings: TableSettings, side: str, key: str, limit: int) -> Rows:
    path = settings.path
    layout = format_of(path, settings.format, f"{key}.format")
    if layout == "lightgcn":
        raise DataError(
            f"{path}: the lightgcn layout holds no texts: give another file in {key}.path"
        )
    if layout == "jsonl":
        return _read_objects(settings, side, key, limit)
    if layout == "parquet":
        names = parquet_columns(path)
        identity, fields = _choose(settings, side, key, names)
        rows = read_parquet(path, [identity, *fields])
    else:
        dialect = dialect_of(layout, settings.separator, multiline=layout == "csv")
        names = read_header(path, dialect)
        identity, fields = _choose(settings, side, key, names)
        rows = read_delimited(path, dialect, [identity, *fields], limit)
    texts = [_text_column(rows.frame.get_column(name), path) for name in fields]
    ids = rows.frame.get_column(identity)
    if ids.dtype.is_nested() or ids.dtype in (pl.Binary, pl.Boolean):
        raise DataError(f"{path}: column {identity!r} holds {ids.dtype}: ids are text or numbers")
    return Rows(
        path,
        pl.DataFrame([ids.alias("id"), *texts, rows.frame.get_column(LINE)]),
        rows.bad,
        rows.textual,
    )


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


def _choose(
    settings: TableSettings, side: str, key: str, there: list[str]
) -> tuple[str, list[str]]:
    """The id column and the text columns."""
    usual = ("id", f"{side}_id", side)
    identity = settings.id or next((name for name in usual if name in there), None)
    if identity is None or identity not in there:
        raise missing_column(settings.path, f"{key}.id", identity or " or ".join(usual), there)
    fields = (
        [name for name in there if name != identity]
        if settings.fields == "all"
        else list(settings.fields)
    )
    for name in fields:
        if name not in there:
            raise missing_column(settings.path, f"{key}.fields", name, there)
    if "id" in fields:
        raise DataError(
            f"{settings.path}: text column 'id' clashes with the id, {identity!r}: "
            f"name the columns to keep in {key}.fields"
        )
    return identity, fields


def _read_objects(settings: TableSettings, side: str, key: str, limit: int) -> Rows:
    """JSON objects: the id column is settled by the first object that has one of the usual names."""
    seen: dict[str, None] = {}
    usual = (settings.id,) if settings.id else ("id", f"{side}_id", side)
    chosen: list[str] = []

    def pick(value: dict[str, Any]) -> dict[str, str | None] | str:
        seen.update(dict.fromkeys(value))
        if not chosen:
            chosen.extend([name for name in usual if name in value][:1])
        if not chosen or chosen[0] not in value:
            return f"no {side} id"
        return _pick(value, chosen[0], settings)

    rows = read_jsonl(settings.path, pick, limit)
    if not chosen and rows.bad and not seen:
        return Rows(
            rows.file, pl.DataFrame(schema={"id": pl.String, LINE: pl.Int64}), rows.bad
        )  # no line is an object
    if not chosen:
        raise missing_column(settings.path, f"{key}.id", " or ".join(usual), seen)
    _choose(settings.model_copy(update={"id": chosen[0]}), side, key, list(seen))
    frame = (
        rows.frame
        if "id" in rows.frame.columns
        else rows.frame.with_columns(id=pl.lit(None, pl.String))
    )
    fields = (
        [n for n in seen if n != chosen[0]] if settings.fields == "all" else list(settings.fields)
    )
    absent = [pl.lit(None, pl.String).alias(name) for name in fields if name not in frame.columns]
    return Rows(rows.file, frame.with_columns(absent).select("id", *fields, LINE), rows.bad)


def _pick(
    value: dict[str, Any], identity: str, settings: TableSettings
) -> dict[str, str | None] | str:
    names = (
        [name for name in value if name != identity]
        if settings.fields == "all"
        else settings.fields
    )
    try:
        picked = {name: flat_text(value.get(name)) for name in names}
    except RecursionError:
        return "JSON nested too deep"
    picked["id"] = text_id(value[identity])
    if picked["id"] is None:
        return "the id is not text or a number"
    if any(unpaired(text) for text in picked.values()) or any(map(unpaired, picked)):
        return "a text holds half a surrogate pair"
    return picked


def _refuse_doubles(frame: pl.DataFrame, path: Path, side: str) -> None:
    doubles = frame.filter(pl.col("id").is_duplicated())
    if doubles.height:
        twice = doubles.get_column("id")[0]
        first, second = doubles.filter(pl.col("id") == twice).get_column(LINE)[:2]
        raise DataError(
            f"{path}:{first} and {path}:{second}: {side} id {twice!r} stands on both lines: "
            "remove one"
        )
