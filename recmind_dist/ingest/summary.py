"""What was read of a data set: for its manifest, and as lines for people."""

from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.hints import event_like, rating_like, time_like
from recmind_dist.ingest.read_warnings import SIDES, read_warnings, twins_text
from recmind_dist.ingest.rows import Quarantine
from recmind_dist.ingest.settings import DatasetSettings, TableSettings
from recmind_dist.ingest.tables import Table, without_repeats
from recmind_dist.ingest.times import NAMES, TimeRule, instant_text

MOST_UNUSED = 12  # columns named
REASONS = {
    "rows_quarantined": "set aside in quarantine.jsonl",
    "rows_missing": "by dataset.missing",
    "filtered_by_keep": "by dataset.keep",
    "filtered_by_rating": "by dataset.min_rating",
    "repeats_collapsed": "repeats of a user with an item",
    "filtered_by_k_core": "by dataset.k_core",
}
"""Counts that, with rows_kept, add up to rows_in."""


def row_example(user: str, item: str, row: int) -> str:
    """A row of the log, counted over all its files from 1."""
    return f"row {row}: {user} with {item}"


def first_bad(quarantine: Quarantine) -> dict[str, str]:
    """The example of rows set aside."""
    if not quarantine.rows:
        return {}
    row = quarantine.rows[0]
    return {"rows_quarantined": f"{row.file}:{row.line}: {row.reason}"}


def nothing_left(
    path: Path,
    counts: dict[str, int],
    examples: dict[str, str],
    quarantine: Quarantine,
    min_rating: float | None = None,
) -> DataError:
    """The error for a log without an interaction."""
    if counts.get("filtered_by_rating") and min_rating is not None:
        return DataError(f"dataset.min_rating = {min_rating:g} leaves no interaction: lower it")
    examples = examples | first_bad(quarantine)
    parts = [
        f"{counts[name]} {words} ({examples.get(name, '')})"
        for name, words in REASONS.items()
        if counts.get(name)
    ]
    if not parts:
        return DataError(f"{path}: the log has no interaction: give a file with at least one row")
    remedy = next((f": {row.remedy}" for row in quarantine.rows[:1] if row.remedy), "")
    return DataError(
        f"{path}: no interaction is left of {counts['rows_in']} rows: {'; '.join(parts)}{remedy}"
    )


def check_tables(
    settings: DatasetSettings, tables: dict[str, Table], logged: dict[str, pl.Series]
) -> None:
    """One row an id in each text file; each has ids in common with the log.

    Raises:
        DataError: rows of one id differ, or a file has no id of the log.
    """
    for side, table_settings in (("item", settings.items), ("user", settings.users)):
        if table_settings is None:
            continue
        table = without_repeats(tables[side], table_settings, side)
        path, ids = table.files[0], table.frame["id"]
        _refuse_row_as_header(table_settings, side, table, logged[side])
        if not len(ids):
            raise DataError(
                f"{path}: no row with a {side} id: give a file with rows or unset dataset.{side}s"
            )
        if ids.is_in(logged[side].implode()).any():
            continue
        twins = twins_text(side, logged[side], ids)
        raise DataError(
            f"{path}: no {side} id in common with the log: {ids[0]!r} here, {logged[side][0]!r} "
            f"there: check dataset.{side}s.id and dataset.interactions.columns.{side}"
            f"{'; ' + twins if twins else ''}"
        )


def _refuse_row_as_header(
    settings: TableSettings, side: str, table: Table, logged: pl.Series
) -> None:
    """Raises DataError where the column is named by number, and the header has an id of the log."""
    if isinstance(settings.id, int) and settings.has_header and table.identity in logged:
        raise DataError(
            f"{table.files[0]}:1: {table.identity!r} stands in the header and is one of the "
            f"log's {side}s: set dataset.{side}s.has_header: false if the first line is a row"
        )


def what_was_read(
    settings: DatasetSettings,
    path: Path,
    log: Any,
    tables: dict[str, Table],
    logged: dict[str, pl.Series],
    rows_of: dict[str, pl.DataFrame],
) -> dict[str, Any]:
    """The manifest's entry `read`.

    Args:
        path: the log's first file.
        log: a `Log` or `StreamedLog`.
        logged: distinct ids of the log, by side, in natural order.
        rows_of: id and rows, by side.
    """
    declared = settings.interactions.format
    used = set(log.columns.values())
    hints = [] if log.has_time else time_like(path, settings.interactions, declared, used)
    files = {side: [str(file) for file in tables[side].files] for side in SIDES}
    return {
        "columns": {role: log.columns.get(role) for role in ("user", "item", "time", "rating")},
        "present": log.present[:40],
        "time": _span(log.time_span, log.rule) if log.has_time else None,
        "time_like": hints,
        "rating_unused": None if "rating" in log.columns else rating_like(log.present, used),
        "event_unused": None if settings.keep else event_like(log.present, used),
        "tables": {
            side: {
                "files": files[side],
                "id": table.identity,
                "first_bad": table.first_bad,
                **table.counts,
            }
            for side, table in tables.items()
        },
        "unused": _unused(log.present, used, hints) if used else [],
        "warnings": read_warnings(settings, log, tables, logged, rows_of),
    }


def _unused(present: list[str], used: set[str], hints: list[str]) -> list[str]:
    """Columns of the log that nothing reads, but for those that have a line of their own."""
    outer = {name.partition(".")[0] for name in used if "." in name}
    named = {*used, *outer, *hints}
    return [name for name in present if name and name not in named][:MOST_UNUSED]


def _span(span: tuple[float, float] | None, rule: TimeRule) -> dict[str, Any]:
    first, last = (instant_text(time, rule.unit) for time in span or (0, 0))
    unit = NAMES.get(rule.unit or "", "plain numbers")
    return {"unit": unit, "mixed": rule.mixed, "first": first, "last": last}


def summary_lines(manifest: dict[str, Any]) -> list[str]:
    """What was read, for people.

    Args:
        manifest: of a data set.
    """
    counts, read = manifest["counts"], manifest["read"]
    lines = [rows_line(counts, read["examples"]), columns_line(manifest["read"])]
    lines += [_side_line(side, counts, read["tables"][side]) for side in SIDES]
    return lines + [f"warning: {line}" for line in read["warnings"]]


def rows_line(counts: dict[str, int], examples: dict[str, str]) -> str:
    """Rows in, kept and dropped by reason, with the first of each."""
    parts = [f"log: {counts['rows_in']} rows, {counts['rows_kept']} kept"]
    for name, words in REASONS.items():
        if counts.get(name):
            example = f" ({examples[name]})" if name in examples else ""
            parts.append(f"{counts[name]} {words}{example}")
    return "; ".join(parts)


def columns_line(read: dict[str, Any]) -> str:
    """Which column is what, and what the times are.

    Args:
        read: of `what_was_read`.
    """
    names, time = read["columns"], read["time"]
    parts = [f"{role} is {names[role]}" for role in SIDES if names[role] is not None]
    if time is None:
        text = f"no time found among {', '.join(read['present'])}"
        if read["time_like"]:
            like = " or ".join(read["time_like"])
            text += f" ({like} may be one: set dataset.interactions.columns.time)"
        parts.append(text)
    else:
        mixed = ", several units told apart by size" if time["mixed"] else ""
        span = f"{time['unit']}{mixed}, {time['first']} to {time['last']}"
        parts.append(f"time is {names['time']} ({span})")
    if names["rating"] is not None:
        parts.append(f"rating is {names['rating']}")
    elif read["rating_unused"]:
        parts.append(f"{read['rating_unused']} is there and not used (dataset.min_rating)")
    if read.get("event_unused"):
        parts.append(
            f"{read['event_unused']} is there and not used: every row counts (dataset.keep)"
        )
    said = (read["rating_unused"], read.get("event_unused"))
    if unused := [name for name in read.get("unused", []) if name not in said]:
        parts.append(f"not used: {', '.join(unused)}")
    return "columns: " + "; ".join(parts)


def _side_line(side: str, counts: dict[str, int], table: dict[str, Any]) -> str:
    line = f"{side}s: {counts[f'{side}s_in_log']} in the log"
    if not table["files"]:
        return f"{line}, no {side} file"
    name = Path(table["files"][0]).name if len(table["files"]) == 1 else f"{side} files"
    by = f" (by {table['id']})" if table.get("id") else ""
    # data sets of older versions counted rows with empty fields as texts
    empty = counts.get(f"{side}s_with_empty_text", 0)
    line += f", {counts[f'{side}s_without_text'] - empty} of them not in {name}{by}"
    if empty:
        line += f", {empty} there without a text (all fields are empty)"
    line += f"; {counts[f'{side}s_unseen']} only in {name}"
    aside = f"rows there set aside in quarantine.jsonl ({table.get('first_bad')})"
    for key, words in (
        ("rows_quarantined", aside),
        ("rows_alike", "rows there are copies of another"),
        ("repeats_collapsed", "rows there repeat an id with other texts"),
        ("rows_missing", "rows there by dataset.missing"),
    ):
        if table.get(key):
            line += f"; {table[key]} {words}"
    return line
