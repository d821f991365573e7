"""External ids are text: 12 and "12" are the same id, and so is 12.0 in a column of floats."""

import math
from typing import Any

import polars as pl

FLOAT_ID = r"^-?\d+\.0+$"


def text_id(value: Any) -> str | None:
    """A JSON value as an id; None for null, NaN, empty text, booleans, lists and objects."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return None


def id_column(column: pl.Series, whole: bool = True) -> pl.Series:
    """A column of raw text or numbers as ids, null where a row has none. Shape: as `column`.

    Args:
        whole: `column` has all rows of the file, so text ids that all look like 12.0 are numbers.
    """
    if column.dtype.is_float():
        integral = column.is_finite() & (column == column.floor()) & (column.abs() < 2**63)
        integers = column.cast(pl.Int64, strict=False).cast(pl.String)
        numbers = pl.when(integral).then(integers).otherwise(column.cast(pl.String))
        return pl.select(pl.when(column.is_finite()).then(numbers)).to_series().alias(column.name)
    text = column.cast(pl.String).str.strip_chars()
    text = pl.select(pl.when(text != "").then(text)).to_series()
    # pandas writes a column of integers as 12.0 once one is missing
    may_be_floats = whole and column.dtype == pl.String and text.count()
    if may_be_floats and text.drop_nulls().str.contains(FLOAT_ID).all():
        text = text.str.replace(r"\.0+$", "")
    return text.alias(column.name)


def natural_order(ids: pl.Series) -> pl.Series:
    """Distinct ids, independent of their order in files: integers by value, then text."""
    is_integer = pl.col("id").str.contains(r"^-?\d{1,18}$")
    number = pl.when(is_integer).then(pl.col("id").cast(pl.Int64, strict=False))
    frame = pl.DataFrame({"id": ids.unique()}).with_columns(number=number)
    return frame.sort("number", "id", nulls_last=True).get_column("id")
