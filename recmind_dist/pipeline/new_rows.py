"""What a longer log has that the log of a run had not."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.dataset import KIND, SCHEMA
from recmind_dist.storage import read_manifest


@dataclass(frozen=True)
class NewRows:
    """Interactions of a data set that an older one lacks.

    Attributes:
        count: their number, distinct pairs of user and item.
        total: interactions of the whole data set.
        users: users who have one.
    """

    count: int
    total: int
    users: int


def new_rows(old: Path, new: Path) -> NewRows:
    """Compares two data sets, pair by pair.

    Raises:
        DataError: the old log has times and the new one has none.
    """
    if _has_time(old) and not _has_time(new):
        raise DataError(
            f"{new}: the new log has no column of times, and that of the run has: name it as "
            "there, by dataset.interactions.columns.time"
        )
    pairs = ["user", "item"]
    added = _log(new).select(pairs).join(_log(old).select(pairs), on=pairs, how="anti")
    found = added.select(count=pl.len(), users=pl.col("user").n_unique())
    count, users = found.collect(engine="streaming").row(0)
    total = _log(new).select(pl.len()).collect(engine="streaming").item()
    return NewRows(int(count), int(total), int(users))


def share_to_test(old: Path, new: Path, rows: NewRows, share: float) -> float:
    """`graph.test_share` of the whole log that holds out the newest `share` of the new rows.

    Raises:
        DataError: the log has no times, or held-out rows would begin before the old log ends.
    """
    if not _has_time(new):
        raise DataError(f"{new}: the log has no times to split by: leave --evaluate out")
    held = max(int(rows.count * share), 1)
    times = _log(new).select(pl.col("time").top_k(held).min()).collect(engine="streaming")
    cut, last = times.item(), _log(old).select(pl.col("time").max()).collect().item()
    if cut <= last:
        raise DataError(
            f"the newest {100 * share:g} % of the new interactions begin at {cut}, and the run has "
            f"learnt from interactions up to {last}: give a log that is newer, or leave "
            "--evaluate out"
        )
    return held / rows.total


def _log(dataset: Path) -> pl.LazyFrame:
    return pl.scan_parquet(dataset / "interactions.parquet")


def _has_time(dataset: Path) -> bool:
    return bool(read_manifest(dataset, KIND, SCHEMA)["has_time"])
