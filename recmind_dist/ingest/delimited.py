"""CSV, TSV and RecBole atomic files as text columns: with pyarrow where all lines are sound, else
line by line.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import (
    BOM,
    LINE,
    MAX_LINE,
    BadRow,
    Rows,
    check_columns,
    numbered_lines,
)

CHUNK = 200_000  # rows held as Python objects at a time on the slow path
BLOCK = 8 << 20  # bytes checked at a time on the fast path
MAX_RECORD = 1 << 24  # bytes of one quoted record
MAX_LINES = 1000  # physical lines of one quoted record

NumberedLine = tuple[int, bytes]


@dataclass(frozen=True)
class Dialect:
    """How to parse a delimited file."""

    separator: str
    quoted: bool  # fields may be in double quotes (CSV); in TSV and atomic files a quote is text
    has_header: bool = True
    typed_header: bool = False  # RecBole: `user_id:token`
    multiline: bool = False  # a quoted field may hold line breaks: in texts, never in logs


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Column names: the header's, or numbers as text. Raises DataError for a repeated name."""
    for number, raw in numbered_lines(path):
        if _is_blank(raw, dialect):
            continue
        try:
            fields = _split(raw.decode("utf-8"), dialect)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path}:{number}: the header cannot be read ({error}): save the file as UTF-8"
            ) from error
        check_columns(path, fields)
        if not dialect.has_header:
            return [str(i) for i in range(len(fields))]
        names = [name.strip() for name in fields]
        if dialect.typed_header:
            names = [name.rpartition(":")[0] or name for name in names]
        repeated = next((name for name, times in Counter(names).items() if times > 1), None)
        if repeated is not None:
            raise DataError(
                f"{path}:{number}: column {repeated!r} stands twice in the header: rename one"
            )
        return names
    raise DataError(f"{path}: nothing but blank lines: give a file with rows")


def read_delimited(path: Path, dialect: Dialect, wanted: list[str], limit: int) -> Rows:
    """The wanted columns of a delimited file, as text.

    Args:
        wanted: names that `read_header` returns.
        limit: the reader stops once more rows than this are bad.
    """
    names = read_header(path, dialect)
    frame = _read_fast(path, dialect, names, wanted)
    if frame is not None:
        return Rows(path, frame)
    return _read_slow(path, dialect, names, wanted, limit)


def _read_fast(
    path: Path, dialect: Dialect, names: list[str], wanted: list[str]
) -> pl.DataFrame | None:
    """None if any line is malformed: the slow path then finds out which."""
    header = int(dialect.has_header)
    lines = _count_sound_lines(path, dialect)
    if lines is None:
        return None
    read = arrow_csv.ReadOptions(column_names=names, skip_rows=header, block_size=4 << 20)
    parse = arrow_csv.ParseOptions(
        delimiter=dialect.separator,
        quote_char='"' if dialect.quoted else False,
        newlines_in_values=False,
    )
    convert = arrow_csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        include_columns=wanted,
        strings_can_be_null=False,
    )
    try:
        with pa.OSFile(str(path)) as file:
            table = arrow_csv.read_csv(file, read, parse, convert)
    except pa.ArrowException:
        return None
    # an unclosed quote swallows lines and pyarrow skips blank ones: line numbers would be wrong
    if table.num_rows != lines - header:
        return None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    numbers = pl.int_range(1 + header, pl.len() + 1 + header, dtype=pl.Int64)
    return frame.with_columns(numbers.alias(LINE))


def _count_sound_lines(path: Path, dialect: Dialect) -> int | None:
    """The number of lines; None if pyarrow would parse one of them unlike the slow path."""
    lines = 0
    last = b"\n"
    with path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        if dialect.has_header and _is_blank(file.readline(MAX_LINE).rstrip(b"\n"), dialect):
            return None
        file.seek(start)
        while block := file.read(BLOCK) + file.readline(MAX_LINE):
            if block.count(b"\r") != block.count(b"\r\n") or not _is_utf8(block):
                return None
            if dialect.quoted and not _quotes_in_place(block, dialect.separator):
                return None
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _quotes_in_place(block: bytes, separator: str) -> bool:
    """Whether quotes open only at the start of a field and close only at its end (whole lines)."""
    octets = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    quotes = np.flatnonzero(octets == ord('"'))
    if len(quotes) % 2:
        return False
    before = octets[quotes[::2] - 1]
    after = octets[quotes[1::2] + 1]
    # a quote next to a quote is one of the text, doubled
    boundary = np.frombuffer(f'{separator}\n"'.encode(), np.uint8)
    closes = np.isin(after, boundary) | (after == ord("\r"))
    return bool(np.isin(before, boundary).all() and closes.all())


def _read_slow(
    path: Path, dialect: Dialect, names: list[str], wanted: list[str], limit: int
) -> Rows:
    positions = [names.index(name) for name in wanted]
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    chunk: list[list[str]] = []
    lines: list[int] = []
    for span, record in _records(path, dialect):
        first = span[0]
        if isinstance(record, str):
            bad.append(BadRow(path, first, record))
        elif len(record) != len(names):
            reason = f"{len(record)} fields where the file has {len(names)}"
            bad.append(BadRow(path, first, reason))
            bad += [BadRow(path, line, f"part of the record of line {first}") for line in span[1:]]
        else:
            lines.append(first)
            chunk.append([record[position] for position in positions])
        if len(lines) == CHUNK:
            frames.append(_frame(wanted, chunk, lines))
            chunk, lines = [], []
        if len(bad) > limit:
            break
    frames.append(_frame(wanted, chunk, lines))
    return Rows(path, pl.concat(frames), bad)


def _frame(names: list[str], records: list[list[str]], lines: list[int]) -> pl.DataFrame:
    columns = [
        pl.Series(name, [record[k] for record in records], dtype=pl.String)
        for k, name in enumerate(names)
    ]
    return pl.DataFrame([*columns, pl.Series(LINE, lines, dtype=pl.Int64)])


class _Lines:
    """Numbered lines, some of which can be put back to be read again."""

    def __init__(self, path: Path) -> None:
        self._source = numbered_lines(path)
        self._returned: deque[NumberedLine] = deque()

    def take(self) -> NumberedLine | None:
        return self._returned.popleft() if self._returned else next(self._source, None)

    def put_back(self, lines: list[NumberedLine]) -> None:
        self._returned.extendleft(reversed(lines))


class _OpenRecord:
    """The lines of a record with an open quote, taken one by one as csv.reader iterates."""

    def __init__(self, head: bytes, lines: _Lines) -> None:
        self._head = head
        self._lines = lines
        self.taken: list[NumberedLine] = []

    def __iter__(self) -> Iterator[str]:
        size = len(self._head)
        yield self._head.decode("utf-8") + "\n"
        while len(self.taken) < MAX_LINES and size < MAX_RECORD and (line := self._lines.take()):
            self.taken.append(line)
            size += len(line[1])
            yield line[1].decode("utf-8") + "\n"

    def fields(self, dialect: Dialect) -> list[str] | None:
        """None if the quote is never closed."""
        try:
            return next(csv.reader(self, delimiter=dialect.separator, strict=True))
        except (csv.Error, UnicodeDecodeError):
            return None


def _records(path: Path, dialect: Dialect) -> Iterator[tuple[range, list[str] | str]]:
    """The line numbers of each record, with its fields or the reason why it has none."""
    lines = _Lines(path)
    header_due = dialect.has_header
    while (head := lines.take()) is not None:
        line, raw = head
        if _is_blank(raw, dialect):
            continue
        if header_due:
            header_due = False
            continue
        taken: list[NumberedLine] = []
        record = _record(raw, dialect)
        if record is None and dialect.multiline:
            open_record = _OpenRecord(raw, lines)
            record = open_record.fields(dialect)
            taken = open_record.taken
        if record is None:
            lines.put_back(taken)  # an unclosed quote costs only its own line
            yield range(line, line + 1), "a quote is opened and not closed"
        else:
            yield range(line, line + 1 + len(taken)), record


def _is_blank(raw: bytes, dialect: Dialect) -> bool:
    return not raw.strip(b" \t\r") and (not raw or dialect.separator.encode() not in raw)


def _record(raw: bytes, dialect: Dialect) -> list[str] | str | None:
    """Fields of one line, the reason why it has none, or None if a quote is still open."""
    try:
        return _split(raw.decode("utf-8"), dialect)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line"
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else f"not CSV ({error})"


def _split(text: str, dialect: Dialect) -> list[str]:
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator)
    csv.field_size_limit(MAX_RECORD)
    return next(csv.reader([text], delimiter=dialect.separator, strict=True))
