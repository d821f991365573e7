"""CSV, TSV and RecBole atomic files as text columns: pyarrow where all lines are sound, else line by line."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import LINE, BadRow, Rows, numbered_lines

CHUNK = 200_000  # rows held as Python objects at a time on the slow path
MAX_FIELD = 1 << 24  # characters in one field
MAX_LINES = 1000  # physical lines of one quoted record


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is cut up."""

    separator: str
    quoted: bool  # fields may stand in double quotes (CSV); TSV and atomic files take a quote as a letter
    has_header: bool = True
    typed_header: bool = False  # RecBole: `user_id:token`
    multiline: bool = False  # a quoted field may hold line breaks: texts may, a log's rows never


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Column names: the header's, or the columns' numbers as text. Raises DataError on a name that stands twice."""
    for number, raw in numbered_lines(path):
        if not raw.strip():
            continue
        try:
            fields = _cut(raw.decode("utf-8"), dialect)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}:{number}: the header cannot be read ({error}): save the file as UTF-8") from error
        if not dialect.has_header:
            return [str(i) for i in range(len(fields))]
        names = [
            name.strip().rpartition(":")[0] or name.strip() if dialect.typed_header else name.strip() for name in fields
        ]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}:{number}: column {twice!r} stands twice in the header: rename one")
        return names
    raise DataError(f"{path}: nothing but blank lines: give a file with rows")


def read_delimited(path: Path, dialect: Dialect, wanted: list[str], limit: int) -> Rows:
    """The wanted columns of a delimited file, as text.

    Args:
        wanted: names as `read_header` gives them; limit: the reader stops once more rows than this are bad.
    """
    names = read_header(path, dialect)
    frame = _read_fast(path, dialect, names, wanted)
    if frame is not None:
        return Rows(path, frame)
    return _read_slow(path, dialect, names, wanted, limit)


def _read_fast(path: Path, dialect: Dialect, names: list[str], wanted: list[str]) -> pl.DataFrame | None:
    """None where any line is not as it should be: the slow path then says which."""
    header = int(dialect.has_header)
    try:
        with pa.OSFile(str(path)) as file:
            table = arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(column_names=names, skip_rows=header, block_size=4 << 20),
                arrow_csv.ParseOptions(
                    delimiter=dialect.separator,
                    quote_char='"' if dialect.quoted else False,
                    newlines_in_values=False,
                ),
                arrow_csv.ConvertOptions(
                    column_types={name: pa.string() for name in names},
                    include_columns=wanted,
                    strings_can_be_null=False,
                ),
            )
    except pa.ArrowException:
        return None
    # a quote that never closes swallows lines, a blank line shifts them: then line numbers would lie
    if table.num_rows != _count_lines(path) - header:
        return None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(pl.int_range(1 + header, pl.len() + 1 + header, dtype=pl.Int64).alias(LINE))


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(8 << 20):
            lines += int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
            last = block[-1:]
    return lines + (last != b"\n")


def _read_slow(path: Path, dialect: Dialect, names: list[str], wanted: list[str], limit: int) -> Rows:
    places = [names.index(name) for name in wanted]
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    columns: list[list[str]] = [[] for _ in wanted]
    lines: list[int] = []
    for line, record in _records(path, dialect):
        if isinstance(record, str):
            bad.append(BadRow(path, line, record))
        elif len(record) != len(names):
            bad.append(BadRow(path, line, f"{len(record)} fields where the file has {len(names)}"))
        else:
            lines.append(line)
            for column, place in zip(columns, places, strict=True):
                column.append(record[place])
        if len(lines) == CHUNK:
            frames.append(_frame(wanted, columns, lines))
            columns, lines = [[] for _ in wanted], []
        if len(bad) > limit:
            break
    frames.append(_frame(wanted, columns, lines))
    return Rows(path, pl.concat(frames), bad)


def _frame(names: list[str], columns: list[list[str]], lines: list[int]) -> pl.DataFrame:
    series = [pl.Series(name, column, dtype=pl.String) for name, column in zip(names, columns, strict=True)]
    return pl.DataFrame([*series, pl.Series(LINE, lines, dtype=pl.Int64)])


def _records(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str] | str]]:
    """Each record's first line with its fields, or with the reason why it has none."""
    pending: list[tuple[int, bytes]] = []  # lines to be read again after a quote that never closed
    source = numbered_lines(path)
    header_due = dialect.has_header
    while (head := pending.pop(0) if pending else next(source, None)) is not None:
        line, raw = head
        if not raw.strip(b" \t\r") and (not raw or dialect.separator.encode() not in raw):
            continue
        if header_due:
            header_due = False
            continue
        taken: list[tuple[int, bytes]] = []
        record = _record(raw, dialect)
        while record is None and dialect.multiline and len(taken) < MAX_LINES:
            more = pending.pop(0) if pending else next(source, None)
            if more is None:
                break
            taken.append(more)
            record = _record(b"\n".join([raw, *(text for _, text in taken)]), dialect)
        if record is None:
            pending = taken + pending
            yield line, "a quote is opened and not closed"
        else:
            yield line, record


def _record(raw: bytes, dialect: Dialect) -> list[str] | str | None:
    """Fields, or the reason why there are none, or None where a quote is still open."""
    try:
        return _cut(raw.decode("utf-8"), dialect)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line"
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else f"not CSV ({error})"


def _cut(text: str, dialect: Dialect) -> list[str]:
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator)
    csv.field_size_limit(MAX_FIELD)
    *heads, tail = text.split("\n")  # not splitlines: U+2028 inside a text is no line end here
    return next(csv.reader([*(head + "\n" for head in heads), tail], delimiter=dialect.separator, strict=True))
