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
        return pl.coalesce(texts)

    def value(self) -> pl.Expr:
        """The value, null where there is none or where it cannot be read."""
        raw = self.raw()
        if self.reads == "whole":
            return raw.cast(pl.Int64, strict=False).alias(self.name)
        if self.reads == "number":
            number = raw.cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number).alias(self.name)
        if self.reads == "instant":
            dates = [_date(raw, form) for form in self.formats]
            return pl.coalesce(dates).dt.epoch("s").alias(self.name)
        return raw.alias(self.name)

    def fault(self) -> pl.Expr:
        """Why the row must be set aside, null if it need not."""
        what = {"whole": "a whole number", "number": "a finite number", "instant": "a known date"}
        missing = pl.lit(f"no {self.name}" if self.needed else None, pl.String)
        unread = pl.lit(f"{self.sources[0]} is not {what.get(self.reads, 'text')}")
        is_unread = pl.col(self.name).is_null() & self.raw().is_not_null()
        return (
            pl.when(is_unread)
            .then(unread)
            .when(pl.col(self.name).is_null())
            .then(missing)
            .otherwise(pl.lit(None, pl.String))
        )


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
    own = [pl.col(REASON)] if REASON in frame.columns else []
    sources = frame.rename({name: f"raw {name}" for name in frame.columns if name != LINE})
    named = [
        Column(c.name, tuple(f"raw {s}" for s in c.sources), c.reads, c.formats, c.needed)
        for c in columns
    ]
    made = sources.with_columns(column.value() for column in named)
    faults = [column.fault().str.replace("raw ", "", literal=True) for column in named]
    if own:
        faults = [pl.col(f"raw {REASON}"), *faults]
    chosen = [column.name for column in columns]
    return made.select(*chosen, LINE, pl.coalesce(faults).alias(REASON))


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
