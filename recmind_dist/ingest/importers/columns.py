"""Columns of a publisher's file → columns of ours: ids, whole numbers, numbers, instants, texts."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from recmind_dist.ingest.rows import LINE

REASON = "__reason"
TYPES = {
    "id": pl.String(),
    "text": pl.String(),
    "whole": pl.Int64(),
    "number": pl.Float64(),
    "instant": pl.Int64(),
}


@dataclass(frozen=True)
class Column:
    """One column of a Parquet file and what it is made of.

    Attributes:
        name: here.
        sources: columns there; the first that is not empty counts.
        reads: id, text; whole and number; instant: a date → seconds since 1970 in UTC.
        formats: of an instant, as polars' `str.to_datetime` takes them.
        needed: rows without a value are set aside.
    """

    name: str
    sources: tuple[str, ...]
    reads: Literal["id", "text", "whole", "number", "instant"]
    formats: tuple[str, ...] = ()
    needed: bool = False

    @property
    def dtype(self) -> pl.DataType:
        """In the Parquet file."""
        return TYPES[self.reads]

    def raw(self) -> pl.Expr:
        """The text, null where there is none: ids as written, others stripped."""
        texts = []
        for column in map(pl.col, self.sources):
            stripped = column.str.strip_chars()
            texts.append(pl.when(stripped != "").then(column if self.reads == "id" else stripped))
        return pl.coalesce(texts).alias(f"raw {self.name}")

    def value(self) -> pl.Expr:
        """The value of the text `raw`, null where there is none or where it cannot be read."""
        raw = pl.col(f"raw {self.name}")
        if self.reads == "whole":
            raw = raw.cast(pl.Int64, strict=False)
        elif self.reads == "number":
            number = raw.cast(pl.Float64, strict=False)
            raw = pl.when(number.is_finite()).then(number)
        elif self.reads == "instant":
            raw = pl.coalesce(_date(raw, form) for form in self.formats).dt.epoch("s")
        return raw.alias(self.name)

    def fault(self) -> pl.Expr:
        """Why the row must be set aside, null if it need not."""
        what = {"whole": "a whole number", "number": "a finite number", "instant": "a known date"}
        unread = pl.lit(f"{self.sources[0]} is not {what.get(self.reads, 'text')}")
        missing = pl.lit(f"no {self.name}" if self.needed else None, pl.String)
        reason = pl.when(pl.col(f"raw {self.name}").is_not_null()).then(unread).otherwise(missing)
        return pl.when(pl.col(self.name).is_null()).then(reason)


def _date(raw: pl.Expr, form: str) -> pl.Expr:
    date = raw.str.to_datetime(form, time_unit="us", strict=False)
    if "%z" in form:
        date = date.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return date


def converted(frame: pl.DataFrame, columns: tuple[Column, ...]) -> pl.DataFrame:
    """The columns, `LINE` and `REASON`, which is null in sound rows.

    Columns that the frame lacks are empty. A frame may bring reasons of its own.
    """
    lacking = {name for column in columns for name in column.sources} - set(frame.columns)
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
    own = [REASON] if REASON in frame.columns else []
    made = frame.select(*own, LINE, *(column.raw() for column in columns))
    made = made.with_columns(column.value() for column in columns)
    names = [column.name for column in columns]
    doubtful = [c for c in columns if made.get_column(c.name).null_count()]
    faults = [*own, *(column.fault() for column in doubtful)] or [pl.lit(None, pl.String)]
    return made.select(*names, LINE, pl.coalesce(faults).alias(REASON))


def ident(name: str, *sources: str) -> Column:
    """An id; rows without one are set aside."""
    return Column(name, sources, "id", needed=True)


def whole(name: str, *sources: str) -> Column:
    """A whole number that every row has, as a time in seconds or milliseconds."""
    return Column(name, sources, "whole", needed=True)


def number(name: str, *sources: str) -> Column:
    """A number that a row may lack."""
    return Column(name, sources, "number")


def instant(name: str, source: str, *formats: str) -> Column:
    """A date that every row has."""
    return Column(name, (source,), "instant", formats, needed=True)


def text(name: str, *sources: str) -> Column:
    """A text that a row may lack; by default of the column of that name."""
    return Column(name, sources or (name,), "text")
