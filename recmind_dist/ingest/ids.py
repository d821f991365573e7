"""External ids are text: 12 and "12" are one id, and so is 12.0 out of a column of floats."""

import math
from typing import Any

import polars as pl

FLOAT_ID = r"^-?\d+\.0+$"


def text_id(value: Any) -> str | None:
    """The id that a JSON value stands for; None where it is none (null, NaN, empty, true/false, a
    list, an object).
    """
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
    """A column of raw text or numbers as ids, null where there is none. Shape: as `column`.

    Args:
        whole: all rows of a column are here, so it can be said that its text is nothing but
        numbers.
    """
    if column.dtype.is_float():
        integral = column.is_finite() & (column == column.floor()) & (column.abs() < 2**63)
        numbers = pl.select(
            pl.when(integral)
            .then(column.cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(column.cast(pl.String))
        ).to_series()
        return pl.select(pl.when(column.is_finite()).then(numbers)).to_series().alias(column.name)
    text = column.cast(pl.String).str.strip_chars()
    text = pl.select(pl.when(text != "").then(text)).to_series()
    # pandas writes whole columns of integers as 12.0 once one is missing: such a column is numbers,
    # not text
    if (
        whole
        and column.dtype == pl.String
        and text.count()
        and text.drop_nulls().str.contains(FLOAT_ID).all()
    ):
        text = text.str.replace(r"\.0+$", "")
    return text.alias(column.name)


def natural_order(ids: pl.Series) -> pl.Series:
    """Distinct ids in an order that no file's order changes: whole numbers by value, then the
    others as text.
    """
    frame = pl.DataFrame({"id": ids.unique()}).with_columns(
        number=pl.when(pl.col("id").str.contains(r"^-?\d{1,18}$")).then(
            pl.col("id").cast(pl.Int64, strict=False)
        )
    )
    return frame.sort("number", "id", nulls_last=True).get_column("id")
