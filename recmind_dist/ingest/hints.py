"""What columns that nobody named look like, from the first rows of a file."""

import re
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow.parquet as arrow_parquet

from recmind_dist.ingest.delimited import head_records
from recmind_dist.ingest.layouts import dialect_of, format_of
from recmind_dist.ingest.objects import flat_text, head_objects, refused
from recmind_dist.ingest.settings import FileSettings
from recmind_dist.ingest.times import (
    AMBIGUOUS,
    TimeLook,
    finite_numbers,
    look_at_numbers,
    read_dates,
)

HEAD = 100  # rows looked at
RATING_WORDS = ("rating", "score", "overall", "stars")
EVENT_WORDS = re.compile(
    r"(^|[^a-z])(events?|actions?|behaviou?r|click(ed)?|cancel(l?ed)?|return(ed)?|quantity|qty"
    r"|status|label)($|[^a-z])(?!.*(id|time|date)$)"
)


def time_like(path: Path, settings: FileSettings, declared: str, used: set[str]) -> list[str]:
    """Columns whose first values look like times.

    Args:
        declared: the format.
        used: columns not to look at.
    """
    head = head_of(path, settings, declared)
    return [name for name, values in head.items() if name not in used and look_like_times(values)]


def look_like_times(values: list[str]) -> bool:
    """Whether texts of a column that nobody named look like times: numbers of the size of our days
    in one unit, or dates.
    """
    text = pl.Series(values, dtype=pl.String).str.strip_chars()
    text = text.filter(text != "")
    if not len(text):
        return False
    if text.str.contains(AMBIGUOUS).all() or not read_dates(text).has_nulls():
        return True
    numbers = finite_numbers(text)
    if numbers.has_nulls() or text.str.starts_with("0").any():
        return False
    look = TimeLook(Path())
    look_at_numbers(numbers, pl.int_range(len(text), eager=True), look)
    return len(look.counts) == 1 and len(look.units) == 1


def rating_like(present: list[str], used: set[str]) -> str | None:
    """A column whose name says that it holds ratings, and which is not used."""
    rest = (name for name in present if name not in used)
    return next((name for name in rest if any(w in name.lower() for w in RATING_WORDS)), None)


def event_like(present: list[str], used: set[str]) -> str | None:
    """A column whose name says what a row is (event_type, orderStatus), and which is not used."""
    for name in present:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        if name not in used and EVENT_WORDS.search(words):
            return name
    return None


def head_of(path: Path, settings: FileSettings, declared: str) -> dict[str, list[str]]:
    """Column → its values in the first rows, as text; without those that are empty."""
    layout = format_of(path, declared, "format", settings.encoding)
    head: dict[str, list[str]] = {}
    if layout == "lightgcn":
        return {}
    if layout == "parquet":
        with refused(path), arrow_parquet.ParquetFile(path) as file:
            for batch in islice(file.iter_batches(HEAD), 1):
                for name, column in batch.to_pydict().items():
                    head[name] = [str(value) for value in column if value is not None]
        return head
    if layout in ("jsonl", "python"):
        for value in head_objects(path, HEAD, settings.encoding, layout == "python"):
            for name, raw in value.items():
                plain = isinstance(raw, str | int | float) and not isinstance(raw, bool)
                text = flat_text(raw) if plain else None
                head.setdefault(name, []).append(text or "" if plain or raw is None else "-")
        return head
    dialect = dialect_of(layout, settings, "dataset.interactions")
    names, records = head_records(path, dialect, HEAD)
    for name, values in zip(names, zip(*records, strict=True), strict=False):
        head[name] = list(values)
    return head
