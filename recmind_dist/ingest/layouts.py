"""The layout of a file, and its raw columns: what logs, items and users have in common."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.delimited import Dialect, read_delimited, read_header
from recmind_dist.ingest.lightgcn import refuse_other_layout
from recmind_dist.ingest.objects import jsonl_columns, parquet_columns, read_parquet
from recmind_dist.ingest.rows import LINE, Rows
from recmind_dist.ingest.settings import FileSettings
from recmind_dist.ingest.sources import NO_VALUE, open_utf8, partition_columns, plain_suffix

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".inter": "atomic",
    ".item": "atomic",
    ".user": "atomic",
}
LIGHTGCN_NAMES = ("train.txt", "valid.txt", "test.txt")


def format_of(path: Path, declared: str, key: str, encoding: str = "utf-8") -> str:
    """The layout of a file: as declared, or by its name.

    Raises:
        DataError: neither tells, or a file of LightGCN's name has another layout.
    """
    if declared != "auto":
        return declared
    if path.name in LIGHTGCN_NAMES:
        refuse_other_layout(path, encoding)
        return "lightgcn"
    suffix = plain_suffix(path)
    known = SUFFIXES.get(suffix)
    if known is None:
        with open_utf8(path, encoding):  # an archive says so
            pass
        raise DataError(
            f"{path}: suffix {suffix!r} does not say the layout: "
            f"set {key} (csv, tsv, jsonl, parquet, atomic, lightgcn)"
        )
    return known


def dialect_of(layout: str, settings: FileSettings, key: str) -> Dialect:
    """How to parse a csv, tsv or atomic file."""
    separator = settings.separator or ("," if layout == "csv" else "\t")
    return Dialect(
        separator,
        quoted=layout == "csv" and len(separator) == 1,
        has_header=settings.has_header,
        typed_header=layout == "atomic",
        encoding=settings.encoding,
        escape=settings.escape,
        key=key,
    )


def columns_present(path: Path, layout: str, settings: FileSettings, key: str) -> list[str]:
    """Column names of a file and of its folders (`year=2020/`)."""
    if layout in ("jsonl", "python"):
        names = jsonl_columns(path, settings.encoding, layout == "python")
    elif layout == "parquet":
        names = parquet_columns(path)
    else:
        names = read_header(path, dialect_of(layout, settings, key))
    return names + [name for name in partition_columns(path) if name not in names]


def read_raw(
    path: Path,
    layout: str,
    settings: FileSettings,
    wanted: list[str],
    limit: int,
    texts: Collection[str] = (),
    key: str = "dataset.interactions",
) -> Rows:
    """The wanted columns of a delimited or Parquet file.

    Args:
        wanted: of `columns_present`, each once.
        texts: those that may hold lists and structs.
    """
    if layout == "parquet":
        own = parquet_columns(path)
        rows = read_parquet(path, [name for name in wanted if name in own], texts)
    else:
        dialect = dialect_of(layout, settings, key)
        own = read_header(path, dialect)
        rows = read_delimited(path, dialect, [name for name in wanted if name in own], limit)
    return replace(rows, frame=with_partitions(rows.frame, path, wanted, own))


def with_partitions(
    frame: pl.DataFrame, path: Path, wanted: Collection[str], own: Collection[str]
) -> pl.DataFrame:
    """Adds the wanted columns that stand in the names of the file's folders. Raises DataError for
    one that stands in the file too and has another value there.
    """
    values = partition_columns(path)
    for name in set(wanted) & set(own) & set(values):
        refuse_other_value(path, frame, name, name, values[name])
    extra = [name for name in dict.fromkeys(wanted) if name not in own and name in values]
    return frame.with_columns(pl.lit(values[name], pl.String).alias(name) for name in extra)


def refuse_other_value(
    path: Path, frame: pl.DataFrame, column: str, name: str, value: str | None
) -> None:
    """Raises DataError where a column of the frame differs from a folder's value (`year=2020/`),
    unless by the form of a number or by the time behind a date.
    """
    text = pl.col(column).cast(pl.String).str.strip_chars()
    same = text == pl.lit(value, pl.String)
    if value is not None:
        number = pl.lit(value).cast(pl.Float64, strict=False)
        same |= text.cast(pl.Float64, strict=False).eq(number).fill_null(False)
        same |= text.str.starts_with(f"{value} ") | text.str.starts_with(f"{value}T")
    other = frame.filter((text != "") & ~same.fill_null(False))
    if len(other):
        line = f":{other[LINE][0]}" if LINE in other.columns else ""
        raise DataError(
            f"{path}{line}: {name} is {str(other[column][0])!r}, while the folder is called "
            f"{name}={value or NO_VALUE}: rename the folders, or the column"
        )


def by_name_or_number(declared: str | int, present: list[str]) -> str | None:
    """The column of a name, or of a number from 0; None: there is none."""
    if isinstance(declared, int):
        return present[declared] if 0 <= declared < len(present) else None
    return declared if declared in present else None
