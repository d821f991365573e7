"""Interaction logs of every layout → one frame (user, item, time, rating, row), malformed rows set
aside.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.delimited import Dialect, read_delimited, read_header
from recmind_dist.ingest.ids import id_column, text_id
from recmind_dist.ingest.lightgcn import read_lightgcn
from recmind_dist.ingest.objects import (
    flat_text,
    jsonl_columns,
    parquet_columns,
    read_jsonl,
    read_parquet,
    unpaired,
)
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows, check_file, missing_column
from recmind_dist.ingest.settings import LogSettings

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".inter": "atomic",
    ".item": "atomic",
    ".user": "atomic",
}
USUAL = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp", "order"),
    "rating": ("rating",),
}
ROLES = tuple(USUAL)
DATES = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d",
)  # UTC; others are numbers or bad rows


@dataclass(frozen=True)
class Log:
    """A clean log: `frame` has user, item (text), time (int64 or float64; the row where the log has
    none), row, and
    rating (float64) where it was asked for."""

    frame: pl.DataFrame
    rows_in: int
    has_time: bool


def format_of(path: Path, declared: str, key: str) -> str:
    """The layout of a file: as declared, or by its suffix. Raises DataError if neither says."""
    if declared != "auto":
        return declared
    known = SUFFIXES.get(path.suffix.lower()) or (
        "lightgcn" if path.name in {"train.txt", "test.txt", "valid.txt"} else None
    )
    if known is None:
        raise DataError(
            f"{path}: suffix {path.suffix!r} does not say the layout: "
            f"set {key} (csv, tsv, jsonl, parquet, atomic, lightgcn)"
        )
    return known


def dialect_of(
    layout: str, separator: str | None, has_header: bool = True, multiline: bool = False
) -> Dialect:
    """How a csv, tsv or atomic file is cut up."""
    quoted = layout == "csv"
    return Dialect(
        separator or ("," if quoted else "\t"), quoted, has_header, layout == "atomic", multiline
    )


def read_log(
    paths: list[Path],
    settings: LogSettings,
    need_rating: bool,
    quarantine: Quarantine,
    first_row: int = 1,
) -> Log:
    """Reads log files of one layout, one after the other.

    Args:
        need_rating: a rating column must be there; first_row: number of the first row, so that logs
        can be joined.
    """
    frames: list[pl.DataFrame] = []
    rows_in = 0
    has_time = True
    for path in paths:
        check_file(path, "dataset.interactions.path")
        rows = _read(path, settings, need_rating, quarantine.room)
        good, bad = sound_rows(rows)
        quarantine.add(rows.bad + bad)
        count = rows.frame.height + len(rows.bad)
        has_time &= "time" in good.columns
        frames.append(_numbered(good, first_row + rows_in))
        rows_in += count
    if not has_time:
        frames = [frame.with_columns(time=pl.col("row")) for frame in frames]
    return Log(pl.concat(frames, how="vertical_relaxed"), rows_in, has_time)


def _numbered(good: pl.DataFrame, first: int) -> pl.DataFrame:
    """`row` in place of the line: distinct over all files, ascending in file order."""
    return good.with_columns(row=pl.col("row") + first).drop(LINE)


def _read(path: Path, settings: LogSettings, need_rating: bool, limit: int) -> Rows:
    layout = format_of(path, settings.format, "dataset.interactions.format")
    if layout == "lightgcn":
        if need_rating:
            raise DataError(f"{path}: the lightgcn layout has no rating: unset dataset.min_rating")
        return read_lightgcn(path, limit)
    if layout == "jsonl":
        columns = columns_of(path, settings, jsonl_columns(path), need_rating)
        rows = read_jsonl(path, lambda value: _pick(value, columns), limit)
        absent = [
            pl.lit(None, pl.String).alias(role)
            for role in columns
            if role not in rows.frame.columns
        ]
        return Rows(
            path, rows.frame.with_columns(absent), rows.bad
        )  # no object may have been sound
    if layout == "parquet":
        columns = columns_of(path, settings, parquet_columns(path), need_rating)
        rows = read_parquet(path, list(dict.fromkeys(columns.values())))
    else:
        dialect = dialect_of(layout, settings.separator, settings.has_header)
        columns = columns_of(path, settings, read_header(path, dialect), need_rating)
        rows = read_delimited(path, dialect, list(dict.fromkeys(columns.values())), limit)
    frame = rows.frame.select(*(pl.col(name).alias(role) for role, name in columns.items()), LINE)
    return Rows(path, frame, rows.bad, rows.textual)


def columns_of(
    path: Path, settings: LogSettings, there: list[str], need_rating: bool
) -> dict[str, str]:
    """role → column of this file."""
    found: dict[str, str] = {}
    for role in ROLES:
        key = f"dataset.interactions.columns.{role}"
        asked = getattr(settings.columns, role)
        if isinstance(asked, int):
            if not 0 <= asked < len(there):
                raise missing_column(path, key, asked, there)
            found[role] = there[asked]
        elif asked is not None:
            if asked not in there:
                raise missing_column(path, key, asked, there)
            found[role] = asked
        elif role == "rating" and not need_rating:
            continue
        else:
            usual = next((name for name in USUAL[role] if name in there), None)
            if usual is None and (role != "time"):
                raise missing_column(path, key, " or ".join(USUAL[role]), there)
            if usual is not None:
                found[role] = usual
    return found


def _pick(value: dict[str, Any], columns: dict[str, str]) -> dict[str, str | None] | str:
    """The columns of one JSON object as text; user and item as ids."""
    picked: dict[str, str | None] = {}
    for role, name in columns.items():
        raw = value.get(name)
        if role in ("user", "item"):
            picked[role] = text_id(raw)
            if picked[role] is None and raw is not None:
                return f"{role} is {type(raw).__name__}, not text or a number"
        else:
            picked[role] = (
                flat_text(raw)
                if isinstance(raw, str | int | float) and not isinstance(raw, bool)
                else None
            )
        if unpaired(picked[role]):
            return f"{role} holds half a surrogate pair"
    return picked


def sound_rows(rows: Rows, whole: bool = True) -> tuple[pl.DataFrame, list[BadRow]]:
    """Splits a frame into rows with a user, an item, and finite time and rating where these are
    read; and the others.

    The good rows carry `row`, their 0-based place among all rows of the file, bad ones included.

    Args:
        whole: the frame is the whole file, of which alone some things can be said (see
        `id_column`).
    """
    frame = rows.frame
    columns = [
        _checked_ids(frame.get_column(role), role, rows.file, whole) for role in ("user", "item")
    ]
    checks = [(pl.col(role).is_null(), f"no {role}") for role in ("user", "item")]
    numbers = [role for role in ("time", "rating") if role in frame.columns]
    for role in numbers:
        _must_be_single(frame.get_column(role), rows.file)
    if "time" in frame.columns:
        columns.append(_times(frame.get_column("time"), rows.file))
    if "rating" in frame.columns:
        columns.append(_numbers(frame.get_column("rating")))
    checks += [(pl.col(role).is_null(), f"{role} is not a finite number") for role in numbers]
    reason = pl.coalesce(pl.when(test).then(pl.lit(words)) for test, words in checks)
    lines = frame.get_column(LINE)
    judged = pl.DataFrame([*columns, lines]).with_columns(
        __reason=reason, row=_places(lines, rows.bad)
    )
    faulty = judged.filter(pl.col("__reason").is_not_null())
    bad = [
        BadRow(rows.file, line, why, "" if rows.textual else _shown(frame, line))
        for line, why in faulty.select(LINE, "__reason").iter_rows()
    ]
    return judged.filter(pl.col("__reason").is_null()).drop("__reason"), bad


def _places(lines: pl.Series, bad: list[BadRow]) -> pl.Series:
    """0-based place of each row among all rows, the unreadable ones counted where they stood."""
    place = pl.Series("row", range(len(lines)), dtype=pl.Int64) if not bad else None
    if place is None:
        before = pl.Series([row.line for row in bad], dtype=pl.Int64).sort().search_sorted(lines)
        place = pl.int_range(len(lines), dtype=pl.Int64, eager=True) + before.cast(pl.Int64)
    return place.alias("row")


def _shown(frame: pl.DataFrame, line: int) -> str:
    return str(frame.row(line - 1, named=True))


def _checked_ids(column: pl.Series, role: str, path: Path, whole: bool) -> pl.Series:
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Boolean):
        raise DataError(
            f"{path}: column {column.name!r} ({role}) holds {column.dtype}: ids are text or numbers"
        )
    return id_column(column, whole).alias(role)


def _must_be_single(column: pl.Series, path: Path) -> None:
    if column.dtype.is_nested():
        raise DataError(
            f"{path}: column {column.name!r} holds {column.dtype}: give a number or a date"
        )


def _numbers(column: pl.Series) -> pl.Series:
    """float64, null where there is no finite number."""
    raw = column.str.strip_chars() if column.dtype == pl.String else column
    number = raw.cast(pl.Float64, strict=False)
    return pl.select(pl.when(number.is_finite()).then(number)).to_series().alias(column.name)


def _times(column: pl.Series, path: Path) -> pl.Series:
    """int64 where all are whole numbers, else float64; dates become seconds since 1970; null where
    there is no time.
    """
    if column.dtype.is_temporal():
        if column.dtype not in (pl.Date, pl.Datetime):
            raise DataError(f"{path}: column 'time' holds {column.dtype}: give a number or a date")
        return _seconds(column.cast(pl.Datetime("us")))
    floats = _numbers(column)
    if column.dtype == pl.String and floats.null_count() == len(floats) > 0:
        text = column.str.strip_chars().str.strip_suffix("Z")
        dates = pl.select(
            pl.coalesce(text.str.to_datetime(form, time_unit="us", strict=False) for form in DATES)
        )
        return _seconds(dates.to_series())
    whole = (
        column.str.strip_chars().cast(pl.Int64, strict=False)
        if column.dtype == pl.String
        else column
    )
    if whole.dtype.is_integer():
        whole = whole.cast(pl.Int64, strict=False)
        if whole.null_count() == floats.null_count():
            return whole.alias(column.name)
    return floats


def _seconds(dates: pl.Series) -> pl.Series:
    micros = dates.dt.epoch("us")
    whole = (micros.drop_nulls() % 1_000_000 == 0).all()
    return (micros // 1_000_000 if whole else micros / 1_000_000).alias("time")
