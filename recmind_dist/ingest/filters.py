"""Filters of interactions: rating, repeats, k-core. Each keeps the order of rows."""

from typing import Any

import numpy as np
import polars as pl

from recmind_dist.ingest.times import finite_numbers
from recmind_dist.types import BoolArray, IntArray

SPLITS = ("train", "valid", "test")
NO_WEIGHT = (
    "no number above 0 and below 1e15, or no text of dataset.weights.values, in the column of "
    "weights"
)


def keep_filter(column: pl.Series, values: list[Any]) -> pl.Series:
    """Which rows have one of the values: numbers by value, true and false in any case, text as
    written. Shape: as `column`, bool.
    """
    text = column.cast(pl.String).str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    kept = pl.Series([False]).new_from_index(0, len(column)) if len(column) else text.is_null()
    for value in values:
        if isinstance(value, bool):
            found = text.str.to_lowercase() == ("true" if value else "false")
        elif isinstance(value, int | float):
            found = number == value
        else:
            found = text == value.strip()
        kept = kept | found.fill_null(False)
    return kept


def weights_of(column: pl.Series, values: dict[str, float] | str) -> pl.Series:
    """What rows weigh, float64; null where a row has no number above 0, or a text without weight.

    Args:
        values: see `WeightSettings`.
    """
    if isinstance(values, dict):
        text = column.cast(pl.String).str.strip_chars()
        return text.replace_strict(values, default=None, return_dtype=pl.Float64)
    number = finite_numbers(column).cast(pl.Float64)
    return pl.select(pl.when((number > 0) & (number < 1e15)).then(number)).to_series()


def join_weights(frame: pl.DataFrame, values: dict[str, float] | str) -> pl.DataFrame:
    """Gives all rows of a user and an item the weight that they have together."""
    joined = pl.col("weight").max() if isinstance(values, dict) else pl.col("weight").sum()
    joined = joined.log1p() if values == "log" else joined
    return frame.with_columns(joined.over("user", "item"))


def by_rating(frame: pl.DataFrame, min_rating: float) -> pl.DataFrame:
    """Rows whose rating is at least `min_rating`."""
    return frame.filter(pl.col("rating") >= min_rating)


def collapse_repeats(frame: pl.DataFrame, keep: str) -> pl.DataFrame:
    """Keeps one row of each (user, item): the first or last in time, ties by row.

    A given split comes before time: a pair stays in the first of train, valid, test that has it,
    since an item that was trained on is no fair test.
    """
    ranked = frame
    if "split" in frame.columns:
        numbers = {name: k for k, name in enumerate(SPLITS)}
        split = pl.col("split").replace_strict(numbers, return_dtype=pl.Int8)
        ranked = frame.with_columns(__split=split)
    order = [name for name in ("__split", "time", "row") if name in ranked.columns]
    descending = [keep == "last" and name != "__split" for name in order]
    first = ranked.sort(order, descending=descending).unique(
        ["user", "item"], keep="first", maintain_order=True
    )
    return first.sort("row").select(frame.columns)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest set of rows in which every user and item has at least k. Pairs are distinct."""
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
