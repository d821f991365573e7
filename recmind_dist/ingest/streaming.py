"""Ingest of a Parquet log larger than memory: the same rows and counts as `ingest_dataset` finds,
in blocks of users.

Legend: U distinct users and I distinct items of the log. Held in memory are ids, a hash table and
some numbers for each (ingest/id_codes.py), and one block of rows (`dataset.memory_mb`); the log
itself lies in files beside the result meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.errors import DataError
from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.ids import FLOAT_ID, natural_order
from recmind_dist.ingest.log import columns_of, format_of, sound_rows
from recmind_dist.ingest.objects import parquet_columns, refused, stored_table
from recmind_dist.ingest.rows import LINE, BadRow, Quarantine, Rows
from recmind_dist.ingest.settings import DatasetSettings
from recmind_dist.ingest.spill import Block, Spill
from recmind_dist.types import BoolArray, IntArray

BATCH_BYTES = (
    160  # of a row while it is read: its texts as Arrow and polars have them, codes, hashes
)


@dataclass
class StreamedLog:
    """A log in user blocks by final codes, and what is told of it.

    Attributes:
        users, items: ids in natural order, the position being the code; dropped: rows by reason.
    """

    spill: Spill
    users: pl.Series
    items: pl.Series
    rows_in: int = 0
    has_time: bool = True
    dropped: dict[str, int] = field(default_factory=dict)
    keep: list[BoolArray] = field(default_factory=list)
    """Of k-core: [U] and [I], who stays."""


def stream_log(settings: DatasetSettings, quarantine: Quarantine, folder: Path) -> StreamedLog:
    """Reads, collapses repeats and takes the k-core, block by block.

    Raises:
        DataError: the log is no Parquet, has a given split, or is broken as `ingest_dataset` says.
    """
    _refuse_others(settings)
    spill, users, items = Spill(folder, settings.memory_mb), IdCodes(), IdCodes()
    log = StreamedLog(
        spill, pl.Series(), pl.Series(), dropped={"filtered_by_rating": 0, "repeats_collapsed": 0}
    )
    for frame in _frames(settings, quarantine, log):
        if settings.min_rating is not None:
            rated = frame.filter(pl.col("rating") >= settings.min_rating)
            log.dropped["filtered_by_rating"] += frame.height - rated.height
            frame = rated
        user, item = users.of(frame.get_column("user")), items.of(frame.get_column("item"))
        spill.append(
            Block(
                user, item, frame.get_column("time").to_numpy(), frame.get_column("row").to_numpy()
            )
        )
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
    spill.sort(user_of, item_of)
    _collapse_repeats(log, settings.repeats)
    _take_core(log, settings.k_core)
    return log


def _refuse_others(settings: DatasetSettings) -> None:
    for path in settings.interactions.paths:
        if (
            format_of(path, settings.interactions.format, "dataset.interactions.format")
            != "parquet"
        ):
            raise DataError(
                f"{path}: dataset.memory_mb streams Parquet logs alone: convert it to Parquet, or "
                "unset dataset.memory_mb"
            )
    if settings.test is not None:
        raise DataError(f"{settings.test}: a given split is not streamed: unset dataset.memory_mb")


def _frames(
    settings: DatasetSettings, quarantine: Quarantine, log: StreamedLog
) -> Iterator[pl.DataFrame]:
    """Sound rows batch by batch; `row` counts on over all files, as in memory."""
    rating, paths = settings.min_rating is not None, settings.interactions.paths
    of_path = {p: columns_of(p, settings.interactions, parquet_columns(p), rating) for p in paths}
    log.has_time = all("time" in columns for columns in of_path.values())
    kind: pl.DataType | None = None
    size = max(1, (settings.memory_mb << 20) // (4 * BATCH_BYTES))
    for path, columns in of_path.items():
        bad: list[BadRow] = []
        before = 0
        with refused(path), arrow_parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(size, columns=list(dict.fromkeys(columns.values()))):
                batch.validate(full=True)
                raw = pl.from_arrow(stored_table(pa.Table.from_batches([batch])))
                assert isinstance(raw, pl.DataFrame)
                lines = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE)
                named = raw.with_columns(lines).select(
                    *(pl.col(n).alias(r) for r, n in columns.items()), LINE
                )
                good, broken = sound_rows(Rows(path, named, textual=False), False)
                bad += [BadRow(b.file, b.line + before, b.reason, b.text) for b in broken]
                good = good.with_columns(row=pl.col("row") + 1 + log.rows_in + before)
                before += raw.height
                frame = good if log.has_time else good.with_columns(time=pl.col("row"))
                kind = kind or frame.schema["time"]
                if frame.schema["time"] != kind:
                    raise DataError(
                        f"{path}: times are {frame.schema['time']} near row {log.rows_in + before} "
                        f"and {kind} before: give "
                        "them as whole numbers throughout, or unset dataset.memory_mb"
                    )
                yield frame
        quarantine.add(bad)
        log.rows_in += before


def _final_codes(names: pl.Series) -> tuple[pl.Series, IntArray]:
    """Distinct ids in natural order, and the place in it of each provisional code.

    A column of whole numbers with ".0" behind them is one of numbers: that can be said only once
    all of it was seen.
    """
    names = names.alias("id")
    if len(names) and names.str.contains(FLOAT_ID).all():
        names = names.str.replace(r"\.0+$", "")
    ordered = natural_order(names)
    numbered = pl.DataFrame({"id": ordered, "code": np.arange(len(ordered), dtype=np.int64)})
    return ordered, names.to_frame().join(numbered, on="id", how="left", maintain_order="left")[
        "code"
    ].to_numpy()


def _collapse_repeats(log: StreamedLog, keep: str) -> None:
    """One row of each pair, the first or last in time, ties by row; blocks are left in the order of
    user, then row.
    """
    for b in range(log.spill.num_blocks):
        block = log.spill.block(b)
        order = np.lexsort((block.row, block.time, block.item, block.user))
        if keep == "last":
            order = order[::-1]
        user, item = block.user[order], block.item[order]
        new = (
            np.r_[True, (user[1:] != user[:-1]) | (item[1:] != item[:-1])]
            if len(order)
            else np.zeros(0, np.bool_)
        )
        kept = block[order[new]]
        kept = kept[np.lexsort((kept.row, kept.user))]
        log.dropped["repeats_collapsed"] += len(block.row) - len(kept.row)
        log.spill.replace(b, kept)


def _take_core(log: StreamedLog, k: int) -> None:
    """The k-core by counting over all blocks again until nobody is dropped any more."""
    log.keep = [np.ones(len(log.users), np.bool_), np.ones(len(log.items), np.bool_)]
    total = first = -1
    while True:
        counts = [np.zeros(len(log.users), np.int64), np.zeros(len(log.items), np.int64)]
        for block in log.spill.blocks():
            inside = log.keep[0][block.user] & log.keep[1][block.item]
            counts[0] += np.bincount(block.user[inside], minlength=len(log.users))
            counts[1] += np.bincount(block.item[inside], minlength=len(log.items))
        rows = int(counts[0].sum())
        first = rows if first < 0 else first
        log.keep = [
            kept & (count >= max(k, 1)) for kept, count in zip(log.keep, counts, strict=True)
        ]
        if rows == total or k <= 1:
            break
        total = rows
    log.dropped["filtered_by_k_core"] = first - rows
    if rows == 0:
        raise DataError(f"dataset.k_core = {k} leaves no interaction: lower it")


def kept_blocks(log: StreamedLog) -> Iterator[pl.DataFrame]:
    """Rows that stay, as interactions.parquet has them: by user, then row."""
    for block in log.spill.blocks():
        kept = block[log.keep[0][block.user] & log.keep[1][block.item]]
        yield pl.DataFrame(
            {
                "user": log.users.gather(kept.user),
                "item": log.items.gather(kept.item),
                "time": kept.time,
                "row": kept.row,
            }
        )
