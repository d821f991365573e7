"""Ingest of a Parquet log larger than memory: the rows and counts of `ingest_dataset`, in blocks of
users.

Legend: U distinct users and I distinct items of the log. In memory are the ids, a hash table
(ingest/id_codes.py), a few numbers for each id, and one block of rows (`dataset.memory_mb`). The
log itself is in temporary files beside the result.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.columns import LogRules, columns_of
from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.ids import IdLook, natural_order, without_point
from recmind_dist.ingest.layouts import columns_present, format_of
from recmind_dist.ingest.log import FORMAT_KEY, no_time_in, note, sound_rows
from recmind_dist.ingest.read_warnings import SIDES, joined_by_point, takes_points_off
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows
from recmind_dist.ingest.settings import DatasetSettings
from recmind_dist.ingest.spill import Block, Spill, is_ascending, stable_order
from recmind_dist.ingest.streamed_times import StreamedTimes, batches
from recmind_dist.ingest.summary import row_example
from recmind_dist.ingest.tables import Table, take_point_off_table
from recmind_dist.ingest.times import TimeRule
from recmind_dist.types import BoolArray, IntArray

BATCH_BYTES = 160  # memory of a row while it is read: texts in Arrow and polars, codes, hashes


@dataclass
class StreamedLog:
    """A log in blocks of users.

    Attributes:
        users: user ids in natural order; the position is the code.
        items: item ids in natural order.
        dropped, examples, notes, seen, looks, columns, present, rule: see `Log`.
        rows_of: id and rows of each user and item, in order of first occurrence.
        time_span: the least and the largest time.
        first_lost: the row of each example that may still be replaced by an earlier one.
        keep: who is in the k-core, [U] and [I].
    """

    spill: Spill
    users: pl.Series = field(default_factory=pl.Series)
    items: pl.Series = field(default_factory=pl.Series)
    num_users: int = 0
    rows_in: int = 0
    has_time: bool = True
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, set[str]] = field(default_factory=dict)
    looks: dict[str, list[IdLook]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    rule: TimeRule | None = None
    rows_of: dict[str, pl.DataFrame] = field(default_factory=dict)
    time_span: tuple[float, float] | None = None
    first_lost: dict[str, int] = field(default_factory=dict)
    keep: list[BoolArray] = field(default_factory=list)


class _Side:
    """The ids of a side as they come, and how many rows each has."""

    def __init__(self) -> None:
        self.codes = IdCodes()
        self.rows = np.zeros(1024, np.int64)

    def add(self, ids: pl.Series) -> IntArray:
        """The codes of `ids`, whose rows are counted."""
        codes = self.codes.of(ids)
        seen = np.bincount(codes, minlength=self.codes.count)
        if len(seen) > len(self.rows):
            self.rows = np.pad(self.rows, (0, 2 * len(seen) - len(self.rows)))
        self.rows[: len(seen)] += seen
        return codes

    def frame(self) -> pl.DataFrame:
        """Columns: id and rows."""
        return pl.DataFrame({"id": self.codes.names(), "rows": self.rows[: self.codes.count]})


def spill_log(
    settings: DatasetSettings, files: list[Path], quarantine: Quarantine, folder: Path
) -> StreamedLog:
    """Reads the log into a spill; `sort_log` does the rest.

    Raises:
        DataError: the log is not Parquet or has a given split, or as `ingest_dataset`.
    """
    refuse_unstreamed(settings, files)
    log = StreamedLog(Spill(folder, settings.memory_mb))
    sides = {"user": _Side(), "item": _Side()}
    with ThreadPoolExecutor(1) as aside:
        for frame in _frames(settings, files, quarantine, log):
            of_item = aside.submit(sides["item"].add, frame["item"])
            user, item = sides["user"].add(frame["user"]), of_item.result()
            block = Block(user, item, frame["time"].to_numpy(), frame["row"].to_numpy())
            log.spill.append(_rated(log, block, frame, settings.min_rating))
    log.rows_of = {name: side.frame() for name, side in sides.items()}
    log.num_users = log.spill.rows
    return log


def _rated(log: StreamedLog, block: Block, frame: pl.DataFrame, min_rating: float | None) -> Block:
    """Without the rows whose rating is too low, which are counted."""
    if min_rating is None:
        return block
    kept = (frame["rating"] >= min_rating).fill_null(value=False).to_numpy()
    if not kept.all() and "filtered_by_rating" not in log.examples:
        lost = frame.row(int(np.argmin(kept)), named=True)
        log.examples["filtered_by_rating"] = row_example(lost["user"], lost["item"], lost["row"])
    log.dropped["filtered_by_rating"] += int((~kept).sum())
    return block[kept]


def sort_log(log: StreamedLog, settings: DatasetSettings, tables: dict[str, Table]) -> None:
    """Sorts the log into blocks of users, collapses repeats and takes the k-core.

    Args:
        tables: whose ids count as well when those of the log are looked at (see
            `point_is_pandas`); ids in them may lose their .0.
    """
    finals = []
    for side in SIDES:
        names = log.rows_of[side]["id"]
        if takes_points_off(settings, side, log, tables[side]):
            plain = without_point(names)
            log.notes += joined_by_point(side, names, plain)
            names = plain
            take_point_off_table(tables[side])
            merged = log.rows_of[side].with_columns(names.alias("id"))
            log.rows_of[side] = merged.group_by("id", maintain_order=True).agg(pl.col("rows").sum())
        finals.append(_final_codes(names))
    (log.users, user_of), (log.items, item_of) = finals
    log.spill.sort(user_of, item_of)
    _collapse_repeats(log, settings.repeats)
    _take_core(log, settings.k_core)


def refuse_unstreamed(settings: DatasetSettings, files: list[Path]) -> None:
    """Raises DataError for a log that cannot be read in blocks."""
    log = settings.interactions
    for path in files:
        if format_of(path, log.format, FORMAT_KEY, log.encoding) != "parquet":
            raise DataError(
                f"{path}: dataset.memory_mb streams only Parquet logs: convert it to Parquet, or "
                "unset dataset.memory_mb"
            )
    if settings.test is not None:
        raise DataError("dataset.test: a given split is not streamed: unset dataset.memory_mb")


def _frames(
    settings: DatasetSettings, files: list[Path], quarantine: Quarantine, log: StreamedLog
) -> Iterator[pl.DataFrame]:
    """Sound rows batch by batch; `row` counts over all files."""
    rules = LogRules.of(settings)
    columns_by_path = {}
    for path in files:
        present = columns_present(path, "parquet", settings.interactions, "dataset.interactions")
        columns = columns_of(path, settings.interactions, present, rules)
        columns_by_path[path] = columns
        log.columns = log.columns or columns
        log.present = log.present or present
        if ("time" in columns) != ("time" in log.columns):
            raise no_time_in(*((files[0], log.present) if "time" in columns else (path, present)))
    log.has_time = "time" in log.columns
    log.dropped = {"filtered_by_rating": 0, "repeats_collapsed": 0}
    batch_rows = max(1, (settings.memory_mb << 20) // (4 * BATCH_BYTES))
    times = StreamedTimes(columns_by_path, settings.interactions.time_format, batch_rows)
    log.rule = times.rule if log.has_time else None
    for path, columns in columns_by_path.items():
        bad: list[BadRow] = []
        before = 0
        looks = {side: IdLook() for side in SIDES}
        for frame in batches(path, columns, batch_rows):
            lines = frame.with_columns(pl.col(LINE) + before)
            rows = Rows(path, lines, textual=False)
            good = sound_rows(rows, rules, columns, settings.interactions, times.is_dates(path))
            bad += good.bad
            for side, look in good.looks.items():
                looks[side].join(look)
            good.looks = {}
            note(log, good)
            yield times.scaled(good, log, 1 + log.rows_in + before)
            before += frame.height
        for side in SIDES:
            log.looks.setdefault(side, []).append(looks[side])
        quarantine.add(bad)
        log.rows_in += before


def _final_codes(names: pl.Series) -> tuple[pl.Series, IntArray]:
    """Distinct ids in natural order, and the position there of each provisional code.

    Names may repeat, where ids have lost their .0.
    """
    names = names.alias("id")
    ordered = natural_order(names)
    codes = pl.DataFrame({"id": ordered, "code": np.arange(len(ordered), dtype=np.int64)})
    joined = names.to_frame().join(codes, on="id", how="left", maintain_order="left")
    return ordered, joined["code"].to_numpy()


def _collapse_repeats(log: StreamedLog, keep: str) -> None:
    """Keeps one row of each pair (see `filters.collapse_repeats`), sorted by user, then row."""
    for b in range(log.spill.num_blocks):
        block = log.spill.block(b)
        if not is_ascending(block.row):
            block = block[np.argsort(block.row, kind="stable")]
        order = _by_pair(block)
        if keep == "last":
            order = order[::-1]
        user = block.user[order]
        item = block.item[order]
        is_new = np.ones(len(order), np.bool_)
        is_new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
        _note_lost(log, "repeats_collapsed", block[order[~is_new]])
        kept = block[np.sort(order[is_new])]
        log.dropped["repeats_collapsed"] += len(block.row) - len(kept.row)
        log.spill.replace(b, kept[stable_order(kept.user)])


def _by_pair(block: Block) -> IntArray:
    """The order by user, item, time, row of a block in the order of its rows."""
    in_time = is_ascending(block.time)  # as most logs are
    order = np.arange(len(block.row)) if in_time else np.argsort(block.time, kind="stable")
    for keys in (block.item, block.user):
        order = order[stable_order(keys[order])]
    return order


def _take_core(log: StreamedLog, k: int) -> None:
    """Sets `log.keep` to the k-core: counts all blocks again until nobody is dropped."""
    num_users, num_items = len(log.users), len(log.items)
    keep_user = np.ones(num_users, np.bool_)
    keep_item = np.ones(num_items, np.bool_)
    row_counts: list[int] = []
    while True:
        users = np.zeros(num_users, np.int64)
        items = np.zeros(num_items, np.int64)
        for block in log.spill.blocks():
            inside = keep_user[block.user] & keep_item[block.item]
            users += np.bincount(block.user[inside], minlength=num_users)
            items += np.bincount(block.item[inside], minlength=num_items)
        row_counts.append(int(users.sum()))
        few_users = keep_user & (users < max(k, 1))
        few_items = keep_item & (items < max(k, 1))
        if not few_users.any() and not few_items.any():
            break
        keep_user &= ~few_users
        keep_item &= ~few_items
    log.keep = [keep_user, keep_item]
    for block in log.spill.blocks() if row_counts[0] > row_counts[-1] else ():
        inside = keep_user[block.user] & keep_item[block.item]
        _note_lost(log, "filtered_by_k_core", block[np.flatnonzero(~inside)])
    log.first_lost.clear()
    log.dropped["filtered_by_k_core"] = row_counts[0] - row_counts[-1]
    if row_counts[-1] == 0:
        raise DataError(f"dataset.k_core = {k} leaves no interaction: lower it")


def _note_lost(log: StreamedLog, name: str, lost: Block) -> None:
    """Keeps the first dropped row of each reason as its example."""
    if not len(lost.row):
        return
    at = int(lost.row.argmin())
    row = int(lost.row[at])
    if row < log.first_lost.get(name, row + 1):
        log.first_lost[name] = row
        user, item = log.users[int(lost.user[at])], log.items[int(lost.item[at])]
        log.examples[name] = row_example(user, item, row)


def kept_blocks(log: StreamedLog) -> Iterator[pl.DataFrame]:
    """The kept rows with the columns of interactions.parquet, by user, then row."""
    keep_user, keep_item = log.keep
    for block in log.spill.blocks():
        kept = block[keep_user[block.user] & keep_item[block.item]]
        yield pl.DataFrame(
            {
                "user": log.users.gather(kept.user),
                "item": log.items.gather(kept.item),
                "time": kept.time,
                "row": kept.row,
            }
        )
