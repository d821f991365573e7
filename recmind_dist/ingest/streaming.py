"""Ingest of a Parquet log larger than memory: the rows and counts of `ingest_dataset`, in blocks of
users.

Legend: U distinct users and I distinct items of the log. In memory are the ids, a hash table
(ingest/id_codes.py), a few numbers for each id, and one block of rows (`dataset.memory_mb`). The
log itself is in temporary files beside the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.errors import DataError
from recmind_dist.ingest.filters import by_rating
from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.ids import FLOAT_ID, natural_order
from recmind_dist.ingest.log import columns_of, format_of, sound_rows
from recmind_dist.ingest.objects import parquet_columns, refused, stored_table
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows
from recmind_dist.ingest.settings import DatasetSettings
from recmind_dist.ingest.spill import Block, Spill
from recmind_dist.types import BoolArray, IntArray

BATCH_BYTES = 160  # memory of a row while it is read: texts in Arrow and polars, codes, hashes


@dataclass
class StreamedLog:
    """A log in blocks of users.

    Attributes:
        users: user ids in natural order; the position is the code.
        items: item ids in natural order.
        dropped: number of rows by reason.
        keep: who is in the k-core, [U] and [I].
    """

    spill: Spill
    users: pl.Series = field(default_factory=pl.Series)
    items: pl.Series = field(default_factory=pl.Series)
    rows_in: int = 0
    has_time: bool = True
    dropped: dict[str, int] = field(default_factory=dict)
    keep: list[BoolArray] = field(default_factory=list)


def stream_log(settings: DatasetSettings, quarantine: Quarantine, folder: Path) -> StreamedLog:
    """Reads the log, collapses repeats and takes the k-core, block by block.

    Raises:
        DataError: the log is not Parquet or has a given split, or as `ingest_dataset`.
    """
    _refuse_unstreamed(settings)
    log = StreamedLog(Spill(folder, settings.memory_mb))
    log.dropped = {"filtered_by_rating": 0, "repeats_collapsed": 0}
    users = IdCodes()
    items = IdCodes()
    for frame in _frames(settings, quarantine, log):
        if settings.min_rating is not None:
            rated = by_rating(frame, settings.min_rating)
            log.dropped["filtered_by_rating"] += frame.height - rated.height
            frame = rated
        user = users.of(frame.get_column("user"))
        item = items.of(frame.get_column("item"))
        log.spill.append(Block(user, item, frame["time"].to_numpy(), frame["row"].to_numpy()))
    if log.rows_in == 0:
        raise DataError(
            f"{settings.interactions.paths[0]}: the log has no interaction: give a file with at "
            "least one row"
        )
    if not users.count:
        raise DataError(
            f"dataset.min_rating = {settings.min_rating:g} leaves no interaction: lower it"
        )
    log.users, user_of = _final_codes(users.names())
    log.items, item_of = _final_codes(items.names())
    log.spill.sort(user_of, item_of)
    _collapse_repeats(log, settings.repeats)
    _take_core(log, settings.k_core)
    return log


def _refuse_unstreamed(settings: DatasetSettings) -> None:
    log = settings.interactions
    for path in log.paths:
        if format_of(path, log.format, "dataset.interactions.format") != "parquet":
            raise DataError(
                f"{path}: dataset.memory_mb streams only Parquet logs: convert it to Parquet, or "
                "unset dataset.memory_mb"
            )
    if settings.test is not None:
        raise DataError(f"{settings.test}: a given split is not streamed: unset dataset.memory_mb")


def _frames(
    settings: DatasetSettings, quarantine: Quarantine, log: StreamedLog
) -> Iterator[pl.DataFrame]:
    """Sound rows batch by batch; `row` counts over all files."""
    need_rating = settings.min_rating is not None
    columns_by_path = {
        path: columns_of(path, settings.interactions, parquet_columns(path), need_rating)
        for path in settings.interactions.paths
    }
    log.has_time = all("time" in columns for columns in columns_by_path.values())
    batch_rows = max(1, (settings.memory_mb << 20) // (4 * BATCH_BYTES))
    time_type: pl.DataType | None = None
    for path, columns in columns_by_path.items():
        bad: list[BadRow] = []
        before = 0
        for frame in _batches(path, columns, batch_rows):
            good, broken = sound_rows(Rows(path, frame, textual=False), whole=False)
            bad += [replace(row, line=row.line + before) for row in broken]
            good = good.with_columns(row=pl.col("row") + 1 + log.rows_in + before)
            before += frame.height
            if not log.has_time:
                good = good.with_columns(time=pl.col("row"))
            time_type = time_type or good.schema["time"]
            if good.schema["time"] != time_type:
                raise DataError(
                    f"{path}: times are {good.schema['time']} near row {log.rows_in + before} and "
                    f"{time_type} before: give them as whole numbers throughout, or unset "
                    "dataset.memory_mb"
                )
            yield good
        quarantine.add(bad)
        log.rows_in += before


def _batches(path: Path, columns: dict[str, str], batch_rows: int) -> Iterator[pl.DataFrame]:
    """Columns by role, and `LINE`, which counts from 1 in each batch."""
    with refused(path), arrow_parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_rows, columns=list(dict.fromkeys(columns.values()))):
            batch.validate(full=True)
            raw = pl.from_arrow(stored_table(pa.Table.from_batches([batch])))
            assert isinstance(raw, pl.DataFrame)
            line = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE)
            roles = [pl.col(name).alias(role) for role, name in columns.items()]
            yield raw.with_columns(line).select(*roles, LINE)


def _final_codes(names: pl.Series) -> tuple[pl.Series, IntArray]:
    """Distinct ids in natural order, and the position there of each provisional code.

    Whether ids like 12.0 are numbers (see `id_column`) is decided only here, where all are known.
    """
    names = names.alias("id")
    if len(names) and names.str.contains(FLOAT_ID).all():
        names = names.str.replace(r"\.0+$", "")
    ordered = natural_order(names)
    codes = pl.DataFrame({"id": ordered, "code": np.arange(len(ordered), dtype=np.int64)})
    joined = names.to_frame().join(codes, on="id", how="left", maintain_order="left")
    return ordered, joined["code"].to_numpy()


def _collapse_repeats(log: StreamedLog, keep: str) -> None:
    """Keeps one row of each pair (see `filters.collapse_repeats`), sorted by user, then row."""
    for b in range(log.spill.num_blocks):
        block = log.spill.block(b)
        order = np.lexsort((block.row, block.time, block.item, block.user))
        if keep == "last":
            order = order[::-1]
        user = block.user[order]
        item = block.item[order]
        is_new = np.ones(len(order), np.bool_)
        is_new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
        kept = block[order[is_new]]
        kept = kept[np.lexsort((kept.row, kept.user))]
        log.dropped["repeats_collapsed"] += len(block.row) - len(kept.row)
        log.spill.replace(b, kept)


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
    log.dropped["filtered_by_k_core"] = row_counts[0] - row_counts[-1]
    if row_counts[-1] == 0:
        raise DataError(f"dataset.k_core = {k} leaves no interaction: lower it")


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
