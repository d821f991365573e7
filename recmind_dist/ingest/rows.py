"""What every reader returns: a frame of raw columns with line numbers, and the malformed rows."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.sources import MAX_LINE, open_utf8

CLIP = 200  # characters of a bad row kept in quarantine.jsonl
LINE = "__line"
MAX_COLUMNS = 4096
BOM = b"\xef\xbb\xbf"
FILE = "__file"
HEADS = {
    "user": ("user", "user_id", "userid", "uid", "org_id", "customer_id", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "remap_id", "movieid", "product_id", "asin"),
}
"""Usual names of columns, in small letters."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A malformed row. `line` counts from 1, including the header (Parquet: the row, from 1)."""

    file: Path
    line: int
    reason: str
    text: str = ""
    remedy: str = ""  # beside mending the file or setting the row aside


@dataclass(frozen=True)
class Rows:
    """The rows of one file: raw columns and `LINE`, and the rows that could not be read."""

    file: Path
    frame: pl.DataFrame
    bad: list[BadRow] = field(default_factory=list)
    textual: bool = True  # the file has lines to quote from
    delimited: bool = False  # rows are lines of fields, among which a header may stand again
    notes: list[str] = field(default_factory=list)  # what may have been misread


class Quarantine:
    """Collects the bad rows of all files. Raises when there are more than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rows: list[BadRow] = []
        self.encodings: dict[Path, str] = {}  # of files that are not UTF-8, to quote from

    @property
    def room(self) -> int:
        """Number of further bad rows allowed."""
        return self.limit - len(self.rows)

    def add(self, bad: list[BadRow]) -> None:
        """Adds the bad rows of one file, in any order. Raises DataError if there are too many."""
        bad = sorted(bad, key=lambda row: row.line)
        if len(bad) > self.room:
            first = (self.rows + bad)[0]
            remedy = f"{first.remedy}, mend the file" if first.remedy else "mend the file"
            raise DataError(
                f"{first.file}:{first.line}: {first.reason}: more than dataset.max_bad_rows = "
                f"{self.limit} bad rows: {remedy}, or raise dataset.max_bad_rows to set such "
                "rows aside"
            )
        self.rows += bad

    def write(self, path: Path) -> None:
        """Writes quarantine.jsonl: one bad row a line, with the beginning of its text."""
        quotes: dict[tuple[Path, int], str] = {}
        for file in dict.fromkeys(row.file for row in self.rows if not row.text):
            lines = {row.line for row in self.rows if row.file == file}
            encoding = self.encodings.get(file, "utf-8")
            quotes |= {(file, line): text for line, text in quote(file, lines, encoding)}
        with path.open("w", encoding="utf-8") as out:
            for row in self.rows:
                text = (row.text or quotes.get((row.file, row.line), ""))[:CLIP]
                record = {"file": str(row.file), "line": row.line, "reason": row.reason}
                out.write(json.dumps(record | {"text": text}, ensure_ascii=True) + "\n")


def quote(path: Path, wanted: set[int], encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """The beginning of each wanted line of a text file."""
    last = max(wanted, default=0)
    for number, raw in numbered_lines(path, encoding):
        if number > last:
            return
        if number in wanted:
            yield number, raw[: 4 * CLIP].decode("utf-8", errors="replace")[:CLIP]


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, bytes]]:
    """Lines from 1 in UTF-8, without line end and byte order mark.

    Raises:
        DataError: a line is longer than `MAX_LINE`, or the file is no text.
    """
    with open_utf8(path, encoding) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                raise DataError(
                    f"{path}:{number}: longer than {MAX_LINE} bytes: is the file of another format?"
                )
            yield number, (raw.removeprefix(BOM) if number == 1 else raw).rstrip(b"\r\n")


def check_file(path: Path, key: str) -> None:
    """Raises DataError unless `path` is a file that is not empty."""
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}: give the path of a file in {key}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty: give a file with rows in {key}")


def check_columns(path: Path, names: Collection[str], limit: int = MAX_COLUMNS) -> None:
    """Raises DataError for more than `limit` columns, or for one with a reserved name."""
    if len(names) > limit:
        raise DataError(
            f"{path}: more than {limit} columns: check the format, or name the fields to keep"
        )
    for name in (LINE, FILE):
        if name in names:
            raise DataError(f"{path}: column {name!r}: that name is reserved: rename it")


def looks_like_header(words: list[str]) -> bool:
    """Whether the first two words are usual names of the columns user and item."""
    return (
        len(words) > 1 and words[0].lower() in HEADS["user"] and words[1].lower() in HEADS["item"]
    )


def not_of_encoding(encoding: str, start: int) -> str:
    """The reason for a line with bytes that are not of the file's encoding."""
    name = "UTF-8" if encoding == "utf-8" else encoding
    return f"not {name} at byte {start} of the line"


def encoding_remedy(encoding: str) -> str:
    """What may help against such lines."""
    return "set encoding beside its path (latin-1, cp1252 …)" if encoding == "utf-8" else ""


def missing_column(path: Path, key: str, wanted: Any, present: Iterable[str]) -> DataError:
    """The error for a column that the file does not have."""
    names = list(present)
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return DataError(
        f"{path}: no column {wanted!r}: set {key} to one of the columns there are: "
        f"{listed or 'none'}"
    )
