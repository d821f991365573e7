"""Interaction logs of every layout → one frame (user, item, time, rating, row) and bad rows."""

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
LIGHTGCN_NAMES = ("train.txt", "valid.txt", "test.txt")
USUAL = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp", "order"),
    "rating": ("rating",),
}
ROLES = tuple(USUAL)
DATES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d")  # in UTC


@dataclass(frozen=True)
class Log:
    """A clean log.

    Attributes:
        frame: user and item (text), time (int64 or float64; equals row if the log has none), row,
            and rating (float64) if it was needed.
        rows_in: number of rows read, bad ones included.
    """

    frame: pl.DataFrame
    rows_in: int
    has_time: bool


def format_of(path: Path, declared: str, key: str) -> str:
    """The layout of a file: as declared, or by its name. Raises DataError if neither tells."""
    if declared != "auto":
        return declared
    if path.name in LIGHTGCN_NAMES:
        return "lightgcn"
    known = SUFFIXES.get(path.suffix.lower())
    if known is None:
        raise DataError(
            f"{path}: suffix {path.suffix!r} does not say the layout: "
            f"set {key} (csv, tsv, jsonl, parquet, atomic, lightgcn)"
        )
    return known


def dialect_of(
    layout: str, separator: str | None, has_header: bool = True, multiline: bool = False
) -> Dialect:
    """How to parse a csv, tsv or atomic file."""
    quoted = layout == "csv"
    separator = separator or ("," if quoted else "\t")
    return Dialect(separator, quoted, has_header, layout == "atomic", multiline)


def read_log(
    paths: list[Path],
    settings: LogSettings,
    need_rating: bool,
    quarantine: Quarantine,
    first_row: int = 1,
) -> Log:
    """Reads log files of one layout, one after the other.

    Args:
        need_rating: the log must have a rating column.
        first_row: the number of the first row, for logs that are concatenated.
    """
    frames: list[pl.DataFrame] = []
    rows_in = 0
    has_time = True
    for path in paths:
        check_file(path, "dataset.interactions.path")
        rows = _read(path, settings, need_rating, quarantine.room)
        good, bad = sound_rows(rows)
        quarantine.add(rows.bad + bad)
        has_time &= "time" in good.columns
        frames.append(good.with_columns(row=pl.col("row") + first_row + rows_in).drop(LINE))
        rows_in += rows.frame.height + len(rows.bad)
    if not has_time:
        frames = [frame.with_columns(time=pl.col("row")) for frame in frames]
    return Log(pl.concat(frames, how="vertical_relaxed"), rows_in, has_time)


def _read(path: Path, settings: LogSettings, need_rating: bool, limit: int) -> Rows:
    layout = format_of(path, settings.format, "dataset.interactions.format")
    if layout == "lightgcn":
        if need_rating:
            raise DataError(f"{path}: the lightgcn layout has no rating: unset dataset.min_rating")
        return read_lightgcn(path, limit)
    if layout == "jsonl":
        columns = columns_of(path, settings, jsonl_columns(path), need_rating)
        rows = read_jsonl(path, lambda value: _pick(value, columns), limit)
        # all objects may have been bad, so that the frame has no columns
        missing = [role for role in columns if role not in rows.frame.columns]
        nulls = [pl.lit(None, pl.String).alias(role) for role in missing]
        return Rows(path, rows.frame.with_columns(nulls), rows.bad)
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
    path: Path, settings: LogSettings, present: list[str], need_rating: bool
) -> dict[str, str]:
    """Role → column of this file. Raises DataError for a column that it does not have."""
    by_key: dict[int | str, str] = {name: name for name in present}
    by_key.update(enumerate(present))
    found: dict[str, str] = {}
    for role in ROLES:
        declared = getattr(settings.columns, role)
        wanted: Any = declared
        if declared is not None:
            column = by_key.get(declared)
        elif role == "rating" and not need_rating:
            continue
        else:
            wanted = " or ".join(USUAL[role])
            column = next((name for name in USUAL[role] if name in present), None)
        if column is not None:
            found[role] = column
        elif declared is not None or role != "time":
            raise missing_column(path, f"dataset.interactions.columns.{role}", wanted, present)
    return found


def _pick(value: dict[str, Any], columns: dict[str, str]) -> dict[str, str | None] | str:
    """The columns of one JSON object as text, user and item as ids; or why it is malformed."""
    picked: dict[str, str | None] = {}
    for role, name in columns.items():
        raw = value.get(name)
        if role in ("user", "item"):
            text = text_id(raw)
            if text is None and raw is not None:
                return f"{role} is {type(raw).__name__}, not text or a number"
        else:
            is_scalar = isinstance(raw, str | int | float) and not isinstance(raw, bool)
            text = flat_text(raw) if is_scalar else None
        if unpaired(text):
            return f"{role} holds half a surrogate pair"
        picked[role] = text
    return picked


def sound_rows(rows: Rows, whole: bool = True) -> tuple[pl.DataFrame, list[BadRow]]:
    """Splits rows into sound ones, which have a user, an item and finite numbers, and bad ones.

    Args:
        whole: the frame has all rows of the file (see `id_column`).

    Returns:
        The sound rows with `row`, their 0-based position among all rows of the file; the bad rows.
    """
    frame = rows.frame
    numbers = [role for role in ("time", "rating") if role in frame.columns]
    for name in numbers:
        if frame.schema[name].is_nested():
            raise DataError(
                f"{rows.file}: column {name!r} holds {frame.schema[name]}: give a number or a date"
            )
    columns = [_ids(frame.get_column(role), role, rows.file, whole) for role in ("user", "item")]
    if "time" in numbers:
        columns.append(_times(frame.get_column("time"), rows.file))
    if "rating" in numbers:
        columns.append(_floats(frame.get_column("rating")))
    reasons = {"user": "no user", "item": "no item"}
    reasons |= {name: f"{name} is not a finite number" for name in numbers}
    reason = pl.coalesce(
        pl.when(pl.col(name).is_null()).then(pl.lit(text)) for name, text in reasons.items()
    )
    lines = frame.get_column(LINE)
    checked = pl.DataFrame([*columns, lines]).with_columns(
        __reason=reason, row=_positions(lines, rows.bad)
    )
    bad = [
        BadRow(rows.file, line, why, "" if rows.textual else str(frame.row(line - 1, named=True)))
        for line, why in checked.select(LINE, "__reason").drop_nulls().iter_rows()
    ]
    return checked.filter(pl.col("__reason").is_null()).drop("__reason"), bad


def _positions(lines: pl.Series, bad: list[BadRow]) -> pl.Series:
    """0-based position of each row among all rows of the file, unreadable ones included."""
    position = pl.int_range(len(lines), dtype=pl.Int64, eager=True)
    bad_lines = pl.Series([row.line for row in bad], dtype=pl.Int64).sort()
    return position + bad_lines.search_sorted(lines).cast(pl.Int64) if bad else position


def _ids(column: pl.Series, role: str, path: Path, whole: bool) -> pl.Series:
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Boolean):
        raise DataError(
            f"{path}: column {column.name!r} ({role}) holds {column.dtype}: ids are text or numbers"
        )
    return id_column(column, whole).alias(role)


def _floats(column: pl.Series) -> pl.Series:
    """As float64, null where there is no finite number."""
    raw = column.str.strip_chars() if column.dtype == pl.String else column
    number = raw.cast(pl.Float64, strict=False)
    return pl.select(pl.when(number.is_finite()).then(number)).to_series().alias(column.name)


def _times(column: pl.Series, path: Path) -> pl.Series:
    """As int64 if all are integers, else float64; dates as seconds since 1970; bad ones null."""
    if column.dtype.is_temporal():
        if column.dtype not in (pl.Date, pl.Datetime):
            raise DataError(f"{path}: column 'time' holds {column.dtype}: give a number or a date")
        return _seconds(column.cast(pl.Datetime("us")))
    floats = _floats(column)
    integers = column
    if column.dtype == pl.String:
        text = column.str.strip_chars()
        if floats.null_count() == len(floats) > 0:
            text = text.str.strip_suffix("Z")
            dates = [text.str.to_datetime(form, time_unit="us", strict=False) for form in DATES]
            return _seconds(pl.select(pl.coalesce(dates)).to_series())
        integers = text.cast(pl.Int64, strict=False)
    if integers.dtype.is_integer():
        integers = integers.cast(pl.Int64, strict=False)
        if integers.null_count() == floats.null_count():
            return integers.alias(column.name)
    return floats


def _seconds(dates: pl.Series) -> pl.Series:
    micros = dates.dt.epoch("us")
    whole = (micros.drop_nulls() % 1_000_000 == 0).all()
    return (micros // 1_000_000 if whole else micros / 1_000_000).alias("time")
