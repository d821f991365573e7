"""Which interactions stay: by rating, one of each pair, and the k-core. Every function keeps the
order of rows.
"""

import numpy as np
import polars as pl

from recmind_dist.types import BoolArray, IntArray

SPLITS = ("train", "valid", "test")


def by_rating(frame: pl.DataFrame, min_rating: float) -> pl.DataFrame:
    """Rows whose rating is at least `min_rating`."""
    return frame.filter(pl.col("rating") >= min_rating)


def collapse_repeats(frame: pl.DataFrame, keep: str) -> pl.DataFrame:
    """One row of each (user, item): the first or last in time, ties by row.

    With given splits the pair stays where it is first seen in the order train, valid, test: what
    was trained on is no fair question later.
    """
    newest = keep == "last"
    ranked = frame
    if "split" in frame.columns:
        place = pl.col("split").replace_strict(
            {name: i for i, name in enumerate(SPLITS)}, return_dtype=pl.Int8
        )
        ranked = frame.with_columns(__split=place)
    order = [name for name in ("__split", "time", "row") if name in ranked.columns]
    descending = [newest and name != "__split" for name in order]
    first = ranked.sort(order, descending=descending).unique(
        ["user", "item"], keep="first", maintain_order=True
    )
    return first.sort("row").select(frame.columns)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest set of rows in which every user and every item has at least k of them. Pairs must
    be distinct.
    """
    users = _codes(frame.get_column("user"))
    items = _codes(frame.get_column("item"))
    keep = np.ones(len(users), dtype=np.bool_)
    while True:
        enough = (_count(users, keep) >= k)[users] & (_count(items, keep) >= k)[items] & keep
        if enough.sum() == keep.sum():
            return frame.filter(pl.Series(keep))
        keep = enough


def _count(codes: IntArray, keep: BoolArray) -> IntArray:
    return np.bincount(codes[keep], minlength=int(codes.max(initial=0)) + 1)


def _codes(column: pl.Series) -> IntArray:
    return (column.rank("dense").cast(pl.Int64) - 1).to_numpy()
