"""External ids are text, as written: no two are merged, none is renamed or dropped unasked. Numbers
are their digits: 12, "12" and a float 12.0 are the same id.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import polars as pl

# as pandas writes a whole number in a column of floats, and no other way: 1.00 and 01.0 are text.
# From 2**53, which is above 9e15, different numbers may have become one
FLOAT_ID = r"^(0|-?[1-9][0-9]{0,14}|-?[1-8][0-9]{15})\.0$"
INTEGER_ID = r"^-?[0-9]+$"
# from here floats skip whole numbers
EXACT: dict[Any, int] = {pl.Float16: 2**11, pl.Float32: 2**24, pl.Float64: 2**53}
ROUNDED = "is a float so large that it may have been rounded: save ids as integers or text"
NO_TEXT = ("na", "n/a", "n.a.", "#n/a", "nan", "nat", "null", "none", "nil", "\\n", "<na>")
NONE_LIKE = (
    *NO_TEXT,
    *("-1", "-99", "-999", "undefined", "-", "--", "?", "(null)", "<null>", "(none)", "<none>"),
    *("(not set)", "not set", "not_set", "(empty)", "empty", "anonymous", "guest", "unknown"),
    *("deleted", "[deleted]", "a google user", "amazon customer", "0" * 32),
    "00000000-0000-0000-0000-000000000000",
)
LIST_ID = r"^\[.*[,;|\s].*\]$|^\{.*\}$"  # ['a', 'b']
QUOTED_ID = r"""^=?(".*"|'.*'|“.*”)$|^'\d"""  # ="007" and '007, as spreadsheets have them
# 1.23457E+11 for 123456789012, 1234567890123456768.0 for …789
SPREADSHEET_ID = r"^\d(\.\d+)?[Ee]\+\d\d+$|^-?(9[0-9]{15}|[0-9]{17,})\.0$"


@dataclass
class IdLook:
    """How the ids of one file are written: numbers with .0, whole numbers, others.

    Attributes:
        examples: the first two different ids with .0.
    """

    floats: int = 0
    integers: int = 0
    others: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, ids: pl.Series) -> None:
        """Counts ids; null is none."""
        floats = ids.filter(ids.str.contains(FLOAT_ID))
        integers = int(ids.str.contains(INTEGER_ID).sum())
        self.floats += len(floats)
        self.integers += integers
        self.others += len(ids) - ids.null_count() - len(floats) - integers
        for text in self.examples:
            floats = floats.filter(floats != text)
        while len(floats) and len(self.examples) < 2:
            self.examples.append(str(floats[0]))
            floats = floats.filter(floats != self.examples[-1])

    def join(self, other: "IdLook") -> None:
        """Adds the look of the file's rows behind."""
        self.floats += other.floats
        self.integers += other.integers
        self.others += other.others
        self.examples = list(dict.fromkeys([*self.examples, *other.examples]))[:2]


def point_is_pandas(looks: list[IdLook]) -> bool:
    """Whether ids like 12.0 are 12, which pandas writes so once one of a column is missing: every
    id of all files of the side is a whole number, and no file has it both with and without .0. So
    no two ids of a file become one.
    """
    numbers = all(not look.others and not (look.floats and look.integers) for look in looks)
    return numbers and any(look.floats for look in looks)


def without_point(ids: pl.Series) -> pl.Series:
    """12 for 12.0."""
    return ids.str.replace(r"\.0$", "")


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


def why_absent(role: str, ids: pl.Series, why: pl.Series) -> pl.Series:
    """Reasons for rows without an id, else null."""
    if not ids.null_count():
        return pl.repeat(None, len(ids), dtype=pl.String, eager=True)
    absent = pl.coalesce(pl.format(role + " {}", pl.col("why")), pl.lit(f"no {role}"))
    frame = pl.DataFrame({"id": ids, "why": why})
    return frame.select(pl.when(pl.col("id").is_null()).then(absent)).to_series()


def missing_rows(column: pl.Series, missing: list[str]) -> pl.Series:
    """Which rows hold one of the texts that stand for none. Shape: as `column`, bool."""
    column = column.fill_nan(None) if column.dtype.is_float() else column
    text = column.cast(pl.String).str.strip_chars()
    found = text.is_in(missing).fill_null(False)
    return found | text.is_null() | (text == "") if "" in missing else found


def natural_order(ids: pl.Series) -> pl.Series:
    """Distinct ids, independent of their order in files: integers by value, then text."""
    is_integer = pl.col("id").str.contains(r"^-?\d{1,18}$")
    number = pl.when(is_integer).then(pl.col("id").cast(pl.Int64, strict=False))
    frame = pl.DataFrame({"id": ids.unique()}).with_columns(number=number)
    return frame.sort("number", "id", nulls_last=True).get_column("id")


def _loose(ids: pl.Series) -> pl.Series:
    """Ids without what files lose or add: blanks, case, quotes, .0, zeros in front, and forms of
    the same letters.
    """
    plain = (ids.str.len_bytes() == ids.str.len_chars()).all()
    text = ids if plain else ids.str.normalize("NFKC")
    text = text.str.strip_chars("= \t\r\n\"'\u200b\u200c\u200d\u2060\ufeff“”").str.to_lowercase()
    return text.str.replace(r"^(-?\d+)\.0+$", "${1}").str.replace(r"^(-?)0+(\d)", "${1}${2}")


def near_twins(left: pl.Series, right: pl.Series) -> tuple[int, list[tuple[str, str]]]:
    """Ids of `left` that are not in `right`, but are but for what `_loose` leaves out.

    Args:
        left, right: distinct ids, without null.

    Returns:
        Their number, and the first two pairs.
    """
    one = pl.DataFrame({"a": left}).filter(~pl.col("a").is_in(right.implode()))
    other = pl.DataFrame({"b": right}).filter(~pl.col("b").is_in(left.implode()))
    pairs = one.with_columns(key=_loose(one["a"])).join(
        other.with_columns(key=_loose(other["b"])).unique("key", keep="first", maintain_order=True),
        on="key",
        maintain_order="left",
    )
    return pairs.height, list(pairs.select("a", "b").head(2).iter_rows())


def twins_within(ids: pl.Series) -> tuple[int, list[tuple[str, str]]]:
    """As `near_twins`, among the distinct ids of one side: an id and one that came before it."""
    frame = pl.DataFrame({"a": ids, "key": _loose(ids)})
    first = frame.unique("key", keep="first", maintain_order=True).rename({"a": "b"})
    rest = frame.filter(pl.col("key").is_duplicated()).join(first, on="key", maintain_order="left")
    pairs = rest.filter(pl.col("a") != pl.col("b"))
    return pairs.height, list(pairs.select("b", "a").head(2).iter_rows())


def rounded_like(ids: pl.Series) -> tuple[int, str] | None:
    """How many ids look like large numbers that a spreadsheet has rounded, and one of them."""
    return _matching(ids, SPREADSHEET_ID)


def quoted_like(ids: pl.Series) -> tuple[int, str] | None:
    """How many ids stand in quotes, and one of them."""
    return _matching(ids, QUOTED_ID)


def list_like(ids: pl.Series) -> tuple[int, str] | None:
    """How many ids look like lists, and one of them: in brackets, or most are of parts that stand
    in several (`a|b`, `b|c`).
    """
    if (found := _matching(ids, LIST_ID)) is not None:
        return found
    joint = ids.filter(ids.str.contains("|", literal=True))
    parts = joint.str.split("|").list.explode()
    recur = 4 * parts.n_unique() <= 3 * len(parts) and 2 * len(joint) > len(ids) > 1
    return (len(joint), str(joint[0])) if recur and len(joint) else None


def _matching(ids: pl.Series, form: str) -> tuple[int, str] | None:
    found = ids.filter(ids.str.contains(form))
    return (len(found), str(found[0])) if len(found) else None


def none_texts(column: pl.Series) -> tuple[int, str] | None:
    """How many texts look like none (nan, NULL), and the first of them."""
    found = column.drop_nulls()
    found = found.filter(found.str.strip_chars().str.to_lowercase().is_in(NO_TEXT))
    return (len(found), str(found[0])) if len(found) else None


def missing_like(ids: pl.Series, rows: pl.Series) -> list[tuple[str, int]]:
    """Ids that look like none (NA) and stand on more rows than any other id, and how many.

    Args:
        ids: distinct.
        rows: their numbers of rows. Shape: as `ids`.
    """
    like = ids.str.strip_chars().str.to_lowercase().is_in(NONE_LIKE)
    most = rows.filter(~like).max()
    if most is None:
        return []
    frame = pl.DataFrame({"id": ids, "rows": rows}).filter(like & (rows > most))
    return frame.rows()
