"""What may have been misread: lines on ids, times, events and texts, none of which is changed."""

from datetime import datetime
from typing import Any

import polars as pl

from recmind_dist.ingest.filters import keep_filter
from recmind_dist.ingest.ids import (
    list_like,
    missing_like,
    near_twins,
    none_texts,
    point_is_pandas,
    quoted_like,
    rounded_like,
    twins_within,
)
from recmind_dist.ingest.settings import DatasetSettings
from recmind_dist.ingest.tables import Table
from recmind_dist.ingest.times import NAMES, instant_text

SIDES = ("user", "item")
DIFFER = "blanks, case, quotes, .0, zeros in front or forms of a letter"
TOGETHER = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Digits of a date and time written together → its form."""
OUR_DAYS = (1973, 2100)  # years
MOST_SHOWN = 8  # values


def read_warnings(
    settings: DatasetSettings,
    log: Any,
    tables: dict[str, Table],
    logged: dict[str, pl.Series],
    rows_of: dict[str, pl.DataFrame],
) -> list[str]:
    """All warnings of a data set; the arguments are those of `what_was_read`."""
    lines = [*log.notes, *keep_warnings(settings, log.seen)]
    if log.has_time and log.time_span is not None:
        lines += time_warnings(log.time_span, log.rule, log.rows_in)
    for side in SIDES:
        lines += _id_warnings(settings, side, log, tables[side], rows_of[side])
        lines += _twin_warnings(side, tables[side], logged[side])
        lines += _table_warnings(side, tables[side])
    return lines


def takes_points_off(settings: DatasetSettings, side: str, log: Any, table: Table) -> bool:
    """Whether ids of a side like 12.0 are read as 12 (see `point_is_pandas`)."""
    looks = log.looks.get(side, []) + table.looks
    return settings.ids_of(side) == "auto" and point_is_pandas(looks)


def joined_by_point(side: str, before: pl.Series, after: pl.Series) -> list[str]:
    """A line on ids of a log that one of its files has with .0 and another without.

    Args:
        before, after: the ids, with .0 and without.
    """
    joined = before.n_unique() - after.n_unique()
    if not joined:
        return []
    where = "stand with .0 in one file of the log and without in another: each is read as one"
    return [f"{joined} {side} ids {where}"]


def keep_warnings(settings: DatasetSettings, seen: dict[str, set[str]]) -> list[str]:
    """Values of `dataset.keep` that no row has, and values left out that differ by case alone.

    Args:
        seen: column → its values.
    """
    lines = []
    for name, values in settings.keep.items():
        there = pl.Series(name, sorted(seen.get(name, ())), dtype=pl.String)
        more = " …" if len(there) > MOST_SHOWN else ""
        shown = ", ".join(map(repr, there.head(MOST_SHOWN))) + more
        lines += [
            f"dataset.keep: no row has {value!r} as {name}: there are {shown}"
            for value in values
            if not keep_filter(there, [value]).any()
        ]
        kept = keep_filter(there, values)
        loose = {text.strip().lower() for text in there.filter(kept)}
        twin = next((t for t in there.filter(~kept) if t.strip().lower() in loose), None)
        if twin is not None:
            lines.append(
                f"dataset.keep: rows with {twin!r} as {name} are left out, which differs from a "
                "kept value by blanks or case alone"
            )
    return lines


def weight_warnings(frame: pl.DataFrame) -> list[str]:
    """On weights that are all the same.

    Args:
        frame: the rows kept, with a column `weight` if there are any.
    """
    if "weight" not in frame.columns or frame["weight"].n_unique() > 1 or frame.height < 2:
        return []
    weight = frame["weight"][0]
    return [f"dataset.weights: every interaction weighs {weight:g}, so that they change nothing"]


def time_warnings(span: tuple[float, float], rule: Any, rows: int) -> list[str]:
    """What is odd about the least and the largest time.

    Args:
        rule: of the times.
        rows: of the log.
    """
    lines = []
    low, high = (instant_text(time, rule.unit) for time in span)
    if rule.rounded:
        lines.append(
            "times are rounded (32-bit floats, or digits lost to an exponent, as 1.7E+09): rows of "
            "one user may be in the wrong order: save that column as integers"
        )
    if len(rule.zoned) > 1:
        lines.append(
            f"dates with an offset ({rule.zoned[True]}) and without ({rule.zoned[False]}), which "
            "are read as UTC: if these are local times, write their offset too"
        )
    if span[0] == span[1] and rows > 1:
        lines.append(
            f"all rows have the same time, {low}: the order of rows decides what is held out"
        )
    form = _written_together(span)
    if form is not None and rule.unit in (None, "ms", "s"):
        what = NAMES.get(rule.unit or "", "plain numbers")
        lines.append(
            f"times are read as {what}, and look like dates written together: set "
            f'dataset.interactions.time_format: "{form}"'
        )
    elif rule.unit is not None:
        first, last = (int(text[:4]) if text[:4].isdigit() else 9999 for text in (low, high))
        if first < OUR_DAYS[0] < last or first < OUR_DAYS[1] <= last:
            lines.append(
                f"times reach from {low} to {high}: if 0, -1 or the like stands for none, set "
                'dataset.missing: ["0"]'
            )
    return lines


def _written_together(span: tuple[float, float]) -> str | None:
    """The form of numbers like 202012311530; None: the least or the largest is no such date."""
    texts = [f"{time:.0f}" for time in span]
    form = TOGETHER.get(len(texts[0]))
    if form is None or any(not text.startswith(("19", "20")) for text in texts):
        return None
    try:
        for text in texts:
            datetime.strptime(text, form)
    except ValueError:
        return None
    return form


def _id_warnings(
    settings: DatasetSettings, side: str, log: Any, table: Table, rows: pl.DataFrame
) -> list[str]:
    lines, ids = [], rows["id"]
    if takes_points_off(settings, side, log, table):
        looks = [*log.looks.get(side, []), *table.looks]
        first, *more = dict.fromkeys(text for look in looks for text in look.examples)
        read = f"{first} are read as {first[:-2]}"
        read += "".join(f", {text} as {text[:-2]}" for text in more[:1])
        lines.append(
            f"{side} ids written as {read}: all of a file have the .0 that pandas adds to integers "
            f"where one is missing (dataset.{side}_ids: text keeps the .0)"
        )
    if (rounded := rounded_like(ids)) is not None:
        lines.append(
            f"{rounded[0]} {side} ids of the log are numbers that a spreadsheet has rounded, or a "
            f"column of floats, as {rounded[1]!r}: different ids may be one: export that column as "
            "text"
        )
    if (quoted := quoted_like(ids)) is not None:
        lines.append(
            f"{quoted[0]} {side} ids of the log stand in quotes, which are read as part of them, "
            f"as {quoted[1]!r}: take them off if they are not"
        )
    if (lists := list_like(ids)) is not None:
        lines.append(
            f"{lists[0]} {side} ids of the log look like lists, as {lists[1]!r}, each read as one "
            f"{side}: write one row for each of its {side}s"
        )
    for text, count in missing_like(ids, rows["rows"]):
        lines.append(
            f"{side} {text!r} stands on {count} rows, more than any other: if it means none, "
            f'set dataset.missing: ["{text}"]'
        )
    return lines


def _twin_warnings(side: str, table: Table, logged: pl.Series) -> list[str]:
    lines = []
    if table.files and (twins := twins_text(side, logged, table.frame["id"])):
        lines.append(twins)
    for what, ids in (("the log", logged), (f"the {side} file", table.frame["id"])):
        count, pairs = twins_within(ids)
        if count:
            lines.append(
                f"{count} {side} ids of {what} differ from another by {DIFFER} alone: "
                f"{_pairs(pairs)}: kept apart: write them alike if they are one "
                f"(dataset.{side}_ids: stripped joins blanks, integer numbers)"
            )
    return lines


def twins_text(side: str, logged: pl.Series, ids: pl.Series) -> str:
    """On ids of the log that stand in another form in the file of a side; "": there are none."""
    count, pairs = near_twins(logged, ids)
    if not count:
        return ""
    return (
        f"{count} {side} ids of the log are in the {side} file but for {DIFFER}: {_pairs(pairs)}: "
        f"write them alike, or set dataset.{side}_ids: stripped (blanks) or integer (numbers)"
    )


def _pairs(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{one!r} and {other!r}" for one, other in pairs)


def _table_warnings(side: str, table: Table) -> list[str]:
    lines = list(table.notes)
    for name in table.texts.columns[1:]:
        if (found := none_texts(table.frame[name])) is not None:
            count, text = found
            lines.append(
                f"{count} texts of the {side} file look like none, as {name} {text!r}: if so, set "
                f'dataset.missing: ["{text}"]'
            )
    return lines
