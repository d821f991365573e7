"""External ids are text, as written: no two are merged, none is renamed or dropped unasked. Numbers
are their digits: 12, "12" and a float 12.0 are the same id.
"""

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

FLOAT_ID = r"^-?\d+\.0+$"
INTEGER_ID = r"^-?\d+$"
# from here floats skip whole numbers
EXACT: dict[Any, int] = {pl.Float32: 2**24, pl.Float64: 2**53}
ROUNDED = "is a float so large that it may have been rounded: save ids as integers or text"
NONE_LIKE = (
    *(
        "na",
        "n/a",
        "#n/a",
        "nan",
        "null",
        "none",
        "nil",
        "\\n",
        "<na>",
        "-1",
        "undefined",
        "-",
        "--",
    ),
    *("(null)", "<null>", "(not set)", "not set", "anonymous", "guest", "unknown"),
    "00000000-0000-0000-0000-000000000000",
)
SPREADSHEET_ID = r"^\d(\.\d+)?[Ee]\+\d\d+$"  # 1.23457E+11 for 123456789012


@dataclass
class IdLook:
    """How the ids of one file are written: numbers with .0, whole numbers, others."""

    floats: int = 0
    integers: int = 0
    others: int = 0

    def add(self, ids: pl.Series) -> None:
        """Counts ids; null is none."""
        floats = int(ids.str.contains(FLOAT_ID).sum())
        integers = int(ids.str.contains(INTEGER_ID).sum())
        self.floats += floats
        self.integers += integers
        self.others += len(ids) - ids.null_count() - floats - integers

    def join(self, other: "IdLook") -> None:
        """Adds the look of the file's rows behind."""
        self.floats += other.floats
        self.integers += other.integers
        self.others += other.others


def point_is_pandas(looks: list[IdLook]) -> bool:
    """Whether ids like 12.0 are 12, which pandas writes so once one of a column is missing: every
    id of all files of the side is a whole number, and no file has it both with and without .0.
    """
    numbers = all(not look.others and not (look.floats and look.integers) for look in looks)
    return numbers and any(look.floats for look in looks)


def without_point(ids: pl.Series) -> pl.Series:
    """12 for 12.0."""
    return ids.str.replace(r"\.0+$", "")


def text_id(value: Any) -> str | None:
    """A JSON value as an id; None for null, NaN, empty text, booleans, lists and objects."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return None


def is_rounded(value: Any) -> bool:
    """Whether a JSON value is a float too large to be exact."""
    return isinstance(value, float) and abs(value) >= 2**53


def id_column(column: pl.Series, how: str = "auto") -> tuple[pl.Series, pl.Series]:
    """A column of raw text or numbers as ids.

    Args:
        how: see `DatasetSettings.user_ids`.

    Returns:
        The ids, null where a row has none; why an id that is there cannot be used, else null.
    """
    frame = pl.DataFrame({"raw": column})
    raw = pl.col("raw")
    reason: Any = pl.lit(None, pl.String)
    if column.dtype.is_float():
        finite = raw.is_finite()
        exact = raw.abs() < EXACT[column.dtype.base_type()]
        integral = finite & (raw == raw.floor()) & exact
        digits = pl.when(integral).then(raw.cast(pl.Int64, strict=False).cast(pl.String))
        identity: Any = pl.when(finite & exact).then(digits.otherwise(raw.cast(pl.String)))
        reason = pl.when(finite & ~exact).then(pl.lit(ROUNDED))
    else:
        text = raw.cast(pl.String)
        identity = pl.when(text.str.strip_chars() != "").then(text)
    if how in ("stripped", "integer"):
        identity = identity.str.strip_chars()
    if how == "integer":
        number = identity.str.extract(r"^([+-]?\d+)(?:\.0+)?$", 1)
        digits = number.str.replace(r"^\+", "").str.replace(r"^(-?)0+(\d)", "${1}${2}")
        reason = pl.coalesce(
            reason,
            pl.when(identity.is_not_null() & number.is_null()).then(
                pl.format("is no integer: '{}'", identity)
            ),
        )
        identity = digits
    found = frame.select(identity.alias("id"), reason.alias("reason"))
    return found["id"].alias(column.name), found["reason"]


def missing_rows(column: pl.Series, missing: list[str]) -> pl.Series:
    """Which rows hold one of the texts that stand for none. Shape: as `column`, bool."""
    text = column.cast(pl.String).str.strip_chars()
    found = text.is_in(missing).fill_null(False)
    return found | text.is_null() | (text == "") if "" in missing else found


def natural_order(ids: pl.Series) -> pl.Series:
    """Distinct ids, independent of their order in files: integers by value, then text."""
    is_integer = pl.col("id").str.contains(r"^-?\d{1,18}$")
    number = pl.when(is_integer).then(pl.col("id").cast(pl.Int64, strict=False))
    frame = pl.DataFrame({"id": ids.unique()}).with_columns(number=number)
    return frame.sort("number", "id", nulls_last=True).get_column("id")


def _loose(name: str) -> pl.Expr:
    """An id without what files lose or add: blanks, case, .0, zeros in front."""
    text = pl.col(name).str.strip_chars().str.to_lowercase()
    return text.str.replace(r"^(-?\d+)\.0+$", "${1}").str.replace(r"^(-?)0+(\d)", "${1}${2}")


def near_twins(left: pl.Series, right: pl.Series) -> tuple[int, list[tuple[str, str]]]:
    """Ids of `left` that are not in `right`, but are but for blanks, case, .0 or zeros in front.

    Args:
        left, right: distinct ids, without null.

    Returns:
        Their number, and the first two pairs.
    """
    one = pl.DataFrame({"a": left}).filter(~pl.col("a").is_in(right.implode()))
    other = pl.DataFrame({"b": right}).filter(~pl.col("b").is_in(left.implode()))
    pairs = one.with_columns(key=_loose("a")).join(
        other.with_columns(key=_loose("b")).unique("key", keep="first", maintain_order=True),
        on="key",
        maintain_order="left",
    )
    return pairs.height, list(pairs.select("a", "b").head(2).iter_rows())


def twins_within(ids: pl.Series) -> tuple[int, list[tuple[str, str]]]:
    """As `near_twins`, among the distinct ids of one side: an id and one that came before it."""
    frame = pl.DataFrame({"a": ids}).with_columns(key=_loose("a"))
    first = frame.unique("key", keep="first", maintain_order=True).rename({"a": "b"})
    rest = frame.filter(pl.col("key").is_duplicated()).join(first, on="key", maintain_order="left")
    pairs = rest.filter(pl.col("a") != pl.col("b"))
    return pairs.height, list(pairs.select("b", "a").head(2).iter_rows())


def rounded_like(ids: pl.Series) -> tuple[int, str] | None:
    """How many ids look like large numbers that a spreadsheet has rounded, and one of them."""
    found = ids.filter(ids.str.contains(SPREADSHEET_ID))
    return (len(found), str(found[0])) if len(found) else None


def missing_like(ids: pl.Series, rows: pl.Series) -> tuple[str, int] | None:
    """The id that stands on more rows than any other, and how many, if it looks like none (NA).

    Args:
        ids: distinct; rows: their numbers of rows. Shape: as `ids`.
    """
    if not len(ids) or rows.max() is None:
        return None
    most = int(rows.arg_max() or 0)
    found = (rows == rows[most]).sum() == 1 and str(ids[most]).strip().lower() in NONE_LIKE
    return (str(ids[most]), int(rows[most])) if found and len(ids) > 1 else None
