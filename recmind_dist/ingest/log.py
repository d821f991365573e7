"""Interaction logs of every layout → one frame (user, item, time, rating, row) and bad rows."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.columns import (
    KEEP,
    LogRules,
    columns_of,
    header_again,
    refuse_data_as_header,
)
from recmind_dist.ingest.filters import NO_WEIGHT, keep_filter, weights_of
from recmind_dist.ingest.ids import (
    ROUNDED,
    IdLook,
    id_column,
    is_rounded,
    missing_rows,
    text_id,
    why_absent,
)
from recmind_dist.ingest.layouts import columns_present, format_of, read_raw, refuse_other_value
from recmind_dist.ingest.lightgcn import read_lightgcn
from recmind_dist.ingest.objects import flat_text, read_jsonl, unpaired, value_of
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows, check_file
from recmind_dist.ingest.settings import LogSettings
from recmind_dist.ingest.sources import partition_columns
from recmind_dist.ingest.times import (
    TimeLook,
    TimeRule,
    finite_numbers,
    read_times,
    remedy_for,
    rule_of,
)

MOST_VALUES = 1000
FORMAT_KEY = "dataset.interactions.format"


@dataclass
class Log:
    """A clean log.

    Attributes:
        frame: user and item (text), time (int64 or float64; equals row if the log has none), row,
            and rating, weight (float64) if they were needed.
        rows_in: number of rows read, bad ones included.
        dropped: number of rows by reason, before any filter that needs the whole log.
        examples: the first row of each.
        notes: what may have been misread in its files.
        seen: values of each column of `dataset.keep`, see `_values`.
        looks: of the ids of each file, by side.
        columns: role → column of the first file.
        present: all columns of the first file.
        rule: of the times; None: there are none.
    """

    frame: pl.DataFrame
    rows_in: int
    has_time: bool
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, set[str]] = field(default_factory=dict)
    looks: dict[str, list[IdLook]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    rule: TimeRule | None = None

    @property
    def time_span(self) -> tuple[float, float] | None:
        """The least and the largest time; None without a row."""
        low, high = self.frame["time"].min(), self.frame["time"].max()
        return None if low is None else (low, high)  # type: ignore[return-value]


@dataclass
class SoundRows:
    """The rows of one file, or part of it, that can be used.

    Attributes:
        frame: user, item, LINE, `row` (0-based position among all rows of the file), and time as
            read (see `read_times`) and rating, if the file has them.
        dropped, examples, seen: see `Log`.
        looks: of the ids, by side.
    """

    frame: pl.DataFrame
    bad: list[BadRow]
    dropped: dict[str, int]
    examples: dict[str, str]
    looks: dict[str, IdLook]
    time_look: TimeLook | None = None
    is_dates: bool = False
    seen: dict[str, set[str]] = field(default_factory=dict)


def read_log(
    paths: list[Path],
    settings: LogSettings,
    rules: LogRules | bool,
    quarantine: Quarantine,
    held_out: dict[str, list[Path]] | None = None,
) -> Log:
    """Reads log files of one layout, one after the other.

    Args:
        rules: True, False: defaults, with a rating or not.
        held_out: the files of "valid" and "test" of a given split, which need no times; the frame
            then has a column `split`.

    Raises:
        DataError: a file or column is missing, too many rows are malformed, or one of several files
            has no times.
    """
    rules = rules if isinstance(rules, LogRules) else LogRules(need_rating=rules)
    files = [("train", path) for path in paths]
    files += [(name, path) for name, several in (held_out or {}).items() for path in several]
    log = Log(pl.DataFrame(), 0, has_time=True)
    parts: list[tuple[str, SoundRows]] = []
    for split, path in files:
        check_file(path, "dataset.interactions.path")
        quarantine.encodings[path] = settings.encoding
        rows, columns, present = read_file(path, settings, rules, quarantine.room)
        if not parts:
            log.columns, log.present = columns, present
        elif split == "train" and ("time" in columns) != ("time" in log.columns):
            raise no_time_in(*((paths[0], log.present) if "time" in columns else (path, present)))
        good = sound_rows(rows, rules, columns, settings)
        quarantine.add(rows.bad + good.bad)
        good.frame = good.frame.with_columns(row=pl.col("row") + 1 + log.rows_in).drop(LINE)
        log.rows_in += rows.frame.height + len(rows.bad)
        note(log, good)
        log.notes += rows.notes
        parts.append((split, good))
    log.frame = _joined(parts, log, settings, with_split=held_out is not None)
    return log


def no_time_in(path: Path, present: list[str]) -> DataError:
    """The error for one of several files that has no column of times."""
    return DataError(
        f"{path}: no column of times, which the log's other files have (columns: "
        f"{', '.join(present)[:200]}): file order over several files is no time: rename its "
        "column, or leave the file out"
    )


def note(log: Any, good: SoundRows) -> None:
    """Adds what one file, or part of it, dropped to a log's counts."""
    for name, count in good.dropped.items():
        log.dropped[name] = log.dropped.get(name, 0) + count
    for name, text in good.examples.items():
        log.examples.setdefault(name, text)
    for name, values in good.seen.items():
        log.seen.setdefault(name, set()).update(values)
    for side, look in good.looks.items():
        log.looks.setdefault(side, []).append(look)


def _joined(
    parts: list[tuple[str, SoundRows]], log: Log, settings: LogSettings, with_split: bool
) -> pl.DataFrame:
    """All files as one frame, their times in one unit."""
    log.has_time = all(good.time_look is not None for split, good in parts if split == "train")
    looks = [good.time_look for _, good in parts if good.time_look is not None]
    rule = rule_of(looks, settings.time_format) if log.has_time else None
    frames = []
    for split, good in parts:
        frame = good.frame
        if rule is None:
            frame = frame.with_columns(time=pl.col("row"))
        elif good.time_look is not None:
            frame = frame.with_columns(rule.scaled(frame["time"], good.is_dates))
        else:
            kind = pl.Int64 if rule.integers else pl.Float64
            frame = frame.with_columns(time=pl.lit(None, kind))
        names = [
            name for name in ("user", "item", "rating", "weight", "row", "time") if name in frame
        ]
        frame = frame.select(names)
        frames.append(frame.with_columns(split=pl.lit(split)) if with_split else frame)
    joined = pl.concat(frames, how="vertical_relaxed")
    log.rule = rule
    # held-out rows without times come after all others
    return joined.with_columns(pl.col("time").fill_null(pl.col("time").max()))


def read_file(
    path: Path, settings: LogSettings, rules: LogRules, limit: int
) -> tuple[Rows, dict[str, str], list[str]]:
    """The raw columns of one file by role, which column each is, and all columns there are."""
    layout = format_of(path, settings.format, FORMAT_KEY, settings.encoding)
    if layout == "lightgcn":
        if rules.need_rating or rules.keep or rules.weights:
            raise DataError(
                f"{path}: the lightgcn layout has no columns but user and item: unset "
                "dataset.min_rating, keep and weights"
            )
        return read_lightgcn(path, limit, settings.encoding), {}, ["user", "item"]
    present = columns_present(path, layout, settings, "dataset.interactions")
    columns = columns_of(path, settings, present, rules)
    if layout in ("jsonl", "python"):
        rows = read_jsonl(
            path, lambda value: _pick(value, columns), limit, settings.encoding, layout == "python"
        )
        # all objects may have been bad, so that the frame has no columns
        absent = [role for role in columns if role not in rows.frame.columns]
        frame = rows.frame.with_columns(pl.lit(None, pl.String).alias(role) for role in absent)
        folders = partition_columns(path)
        inside = {role: name for role, name in columns.items() if name in folders}
        for role, name in inside.items():
            refuse_other_value(path, frame, role, name, folders[name])
        values = {role: pl.lit(folders[name], pl.String) for role, name in inside.items()}
        return Rows(path, frame.with_columns(**values), rows.bad, rows.textual), columns, present
    rows = read_raw(path, layout, settings, list(dict.fromkeys(columns.values())), limit)
    frame = rows.frame.select(*(pl.col(name).alias(role) for role, name in columns.items()), LINE)
    if rows.delimited and settings.has_header:
        refuse_data_as_header(path, settings, columns, frame, present)
    return replace(rows, frame=frame), columns, present


def _pick(value: dict[str, Any], columns: dict[str, str]) -> dict[str, str | None] | str:
    """The columns of one JSON object as text, user and item as ids; or why it is malformed."""
    picked: dict[str, str | None] = {}
    for role, name in columns.items():
        raw = value_of(value, name)
        if role in ("user", "item"):
            text = text_id(raw)
            if text is None and raw is not None and not isinstance(raw, str):
                return f"{role} is {_kind_of(raw, name)}, not text or a number"
            if is_rounded(raw):
                return f"{role} {ROUNDED}"
        else:
            fits = isinstance(raw, str | int | float) and not (
                role == "time" and isinstance(raw, bool)
            )
            text = (flat_text(raw) or str(raw)) if fits else None  # str: of NaN
        if unpaired(text):
            return f"{role} holds half a surrogate pair"
        picked[role] = text
    return picked


def _kind_of(raw: Any, name: str) -> str:
    if isinstance(raw, dict) and raw:
        keys = ", ".join(f"{name}.{key}" for key in list(raw)[:4])
        return f"an object (its keys: {keys})"
    return type(raw).__name__


def sound_rows(
    rows: Rows,
    rules: LogRules,
    columns: dict[str, str],
    settings: LogSettings,
    is_dates: bool | None = None,
) -> SoundRows:
    """Splits rows into those that count, which have a user, an item and finite numbers, those that
    settings drop, and malformed ones.

    Args:
        columns: role → column; none: a layout without names.
        is_dates: whether times are dates; None: the rows decide.
    """
    frame = rows.frame
    ids, reasons, looks = _read_ids(rows, rules)
    made = list(ids)
    reasons.insert(0, header_again(rows, columns, settings.has_header))
    time_look, dates = None, False
    if "time" in frame.columns:
        _refuse_kind(frame["time"], "time", rows.file)
        times, time_look, dates = read_times(
            frame["time"], frame[LINE], rows.file, settings.time_format, is_dates
        )
        made.append(times["time"])
        reasons.append(times["reason"])
    if "rating" in frame.columns:
        _refuse_kind(frame["rating"], "rating", rows.file)
        made.append(_ratings(frame["rating"]).alias("rating"))
        reasons.append(_where(made[-1].is_null(), "rating is not a finite number"))
    if rules.weights is not None:
        _refuse_kind(frame["weight"], "weight", rows.file)
        made.append(weights_of(frame["weight"], rules.weights.values).alias("weight"))
        reasons.append(_where(made[-1].is_null(), NO_WEIGHT))
    reason = pl.DataFrame([why.alias(str(k)) for k, why in enumerate(reasons)])
    why = reason.select(pl.coalesce(pl.all())).to_series()
    dropped, counts, examples = _dropped(rows, rules)
    position = _positions(frame[LINE], rows.bad).alias("row")
    sound = pl.DataFrame([*made, frame[LINE], position]).filter(why.is_null() & ~dropped)
    bad = _bad_rows(rows, pl.select(pl.when(~dropped).then(why)).to_series())
    seen = {name: _values(frame[KEEP + name], values) for name, values in rules.keep.items()}
    return SoundRows(sound, bad, counts, examples, looks, time_look, dates, seen)


def _values(column: pl.Series, kept: list[Any]) -> set[str]:
    """Values of a column: those that are kept, and at most MOST_VALUES others."""
    values = column.cast(pl.String).drop_nulls().unique()
    return {*values.filter(keep_filter(values, kept)), *values.head(MOST_VALUES)}


def _read_ids(
    rows: Rows, rules: LogRules
) -> tuple[list[pl.Series], list[pl.Series], dict[str, IdLook]]:
    """The ids of both sides, why rows have none, and what they look like."""
    found, reasons = [], []
    looks = {"user": IdLook(), "item": IdLook()}
    for role, look in looks.items():
        _refuse_kind(rows.frame[role], role, rows.file)
        ids, why = id_column(rows.frame[role], rules.ids_of(role))
        look.add(ids)
        found.append(ids.alias(role))
        reasons.append(why_absent(role, ids, why))
    return found, reasons, looks


def _where(mask: pl.Series, text: str) -> pl.Series:
    """The text where a mask is true, else null."""
    return pl.select(pl.when(mask).then(pl.lit(text))).to_series()


def _bad_rows(rows: Rows, reason: pl.Series) -> list[BadRow]:
    bad = []
    for place in reason.is_not_null().arg_true():
        text = "" if rows.textual else str(_quoted(rows.frame.row(place, named=True)))
        why = str(reason[place])
        remedy = remedy_for(why.removeprefix("not a time: '")[:-1]) if "not a time" in why else ""
        bad.append(BadRow(rows.file, int(rows.frame[LINE][place]), why, text, remedy))
    return bad


def _quoted(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != LINE}


def _dropped(rows: Rows, rules: LogRules) -> tuple[pl.Series, dict[str, int], dict[str, str]]:
    """Which rows `keep` and `missing` drop, how many each, and the first of them."""
    gone = pl.repeat(False, rows.frame.height, eager=True)
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    found = [
        ("filtered_by_keep", name, ~keep_filter(rows.frame[KEEP + name], values))
        for name, values in rules.keep.items()
    ]
    if rules.missing:
        found += [
            ("rows_missing", role, missing_rows(rows.frame[role], rules.missing))
            for role in ("user", "item", "time", "rating")
            if role in rows.frame.columns
        ]
    for reason, name, mask in found:
        lost = mask & ~gone
        counts[reason] = counts.get(reason, 0) + int(lost.sum())
        if lost.any():
            at = int(lost.arg_max() or 0)
            column = KEEP + name if reason == "filtered_by_keep" else name
            value, line = rows.frame[column][at], rows.frame[LINE][at]
            example = f"{rows.file}:{line}: {name} is {value!r}"
            examples.setdefault(reason, example)
        gone = gone | lost
    return gone, counts, examples


def _positions(lines: pl.Series, bad: list[BadRow]) -> pl.Series:
    """0-based position of each row among all rows of the file, unreadable ones included."""
    position = pl.int_range(len(lines), dtype=pl.Int64, eager=True)
    bad_lines = pl.Series([row.line for row in bad], dtype=pl.Int64).sort()
    return position + bad_lines.search_sorted(lines).cast(pl.Int64) if bad else position


def _refuse_kind(column: pl.Series, role: str, path: Path) -> None:
    nested = column.dtype.is_nested() or column.dtype == pl.Binary
    if role in ("user", "item") and (nested or column.dtype == pl.Boolean):
        raise DataError(
            f"{path}: column {column.name!r} ({role}) holds {column.dtype}: ids are text or numbers"
        )
    if nested or (role == "time" and column.dtype == pl.Boolean):
        raise DataError(f"{path}: column {role!r} holds {column.dtype}: give a number or a date")


def _ratings(column: pl.Series) -> pl.Series:
    """As float64, true as 1 and false as 0; null where there is no finite number."""
    if column.dtype == pl.String:
        known = {"true": "1", "false": "0"}
        column = column.str.strip_chars()
        lower = column.str.to_lowercase()
        if lower.is_in(list(known)).any():
            flags = lower.replace_strict(known, default=None)
            column = pl.select(pl.coalesce(flags, column)).to_series()
    return finite_numbers(column).cast(pl.Float64)
