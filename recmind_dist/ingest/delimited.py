"""CSV, TSV and RecBole atomic files as text columns: with pyarrow where all lines are sound, else
line by line.
"""

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import (
    BOM,
    LINE,
    BadRow,
    Rows,
    check_columns,
    encoding_remedy,
    not_of_encoding,
    numbered_lines,
)
from recmind_dist.ingest.sources import MAX_LINE, open_utf8

CHUNK = 200_000  # rows held as Python objects at a time on the slow path
BLOCK = 8 << 20  # bytes checked at a time on the fast path
MAX_RECORD = 1 << 24  # bytes of one quoted record
MAX_LINES = 1000  # physical lines of one quoted record
OPEN_QUOTE = "unexpected end of data"  # in what the csv module says

NumberedLine = tuple[int, bytes]


@dataclass(frozen=True)
class Dialect:
    """How to parse a delimited file."""

    separator: str  # of one or several characters
    quoted: bool  # fields may be in double quotes (CSV); in TSV and atomic files a quote is text
    has_header: bool = True
    typed_header: bool = False  # RecBole: `user_id:token`
    encoding: str = "utf-8"
    escape: str | None = None  # before a quote that is text; None: such quotes are doubled
    key: str = "dataset.interactions"  # of the file's settings, for errors

    @property
    def quotes_are_text(self) -> bool:
        """Whether a quote is text where other programs may mean it to enclose a field."""
        return not self.quoted and not self.typed_header


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Column names: the header's, or numbers as text. Raises DataError for a repeated name."""
    lines = _Lines(path, dialect.encoding)
    while (head := lines.take()) is not None:
        number, raw = head
        if _is_blank(raw, dialect):
            continue
        try:
            fields = _first_fields(raw, lines, dialect)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path}:{number}: the header cannot be read ({error}): set {dialect.key}.encoding "
                "(latin-1, cp1252 …), or save the file as UTF-8"
            ) from error
        check_columns(path, fields)
        _refuse_other_first_line(path, number, raw)
        _refuse_other_separator(path, number, raw, fields, dialect)
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


def _first_fields(raw: bytes, lines: "_Lines", dialect: Dialect) -> list[str]:
    """The fields of a file's first record, which may go on in the lines behind `raw`. Raises
    csv.Error or UnicodeDecodeError.
    """
    try:
        return _split(raw.decode("utf-8"), dialect)
    except csv.Error as error:
        fields = _OpenRecord(raw, lines).fields(dialect) if OPEN_QUOTE in str(error) else None
        if fields is None:
            raise
        return fields


def _refuse_other_first_line(path: Path, number: int, raw: bytes) -> None:
    """A first line that is neither a header nor a row."""
    if re.fullmatch(rb'"?sep=."?', raw):
        raise DataError(f"{path}:{number}: Excel's line on the separator: take it off")
    if raw.startswith((b"# ", b"% ", b"%%")):
        raise DataError(
            f"{path}:{number}: {raw[:40].decode()!r} looks like a comment: take such lines off, or "
            f"the {raw[:1].decode()!r} if it is the header"
        )
    if b"\r" in raw and b'"' not in raw:
        raise DataError(
            f"{path}:{number}: lines end with a carriage return alone: write them with \\n "
            "(tr '\\r' '\\n' < OLD > NEW)"
        )


def _refuse_other_separator(
    path: Path, number: int, raw: bytes, fields: list[str], dialect: Dialect
) -> None:
    """A line that is one field here, but several by another usual separator."""
    others = [mark for mark in ("::", "\t", ";", "|", ",") if mark.encode() in raw]
    if len(fields) == 1 and others and dialect.separator not in others:
        mark = others[0]
        raise DataError(
            f"{path}:{number}: one field by {dialect.separator!r}, "
            f"{1 + raw.count(mark.encode())} by {mark!r}: set {dialect.key}.separator: "
            f"{json.dumps(mark)} if that separates fields"
        )


def read_delimited(path: Path, dialect: Dialect, wanted: list[str], limit: int) -> Rows:
    """The wanted columns of a delimited file, as text.

    Args:
        wanted: names that `read_header` returns.
        limit: the reader stops once more rows than this are bad.
    """
    names = read_header(path, dialect)
    rows = _read_fast(path, dialect, names, wanted)
    return _read_slow(path, dialect, names, wanted, limit) if rows is None else rows


def head_records(path: Path, dialect: Dialect, count: int) -> tuple[list[str], list[list[str]]]:
    """Column names, and the first sound records."""
    names = read_header(path, dialect)
    records = (record for _, record in _records(path, dialect))
    whole = (record for record in records if isinstance(record, list) and len(record) == len(names))
    return names, list(islice(whole, count))


def _quotes_are_text(path: Path, line: int, dialect: Dialect) -> str:
    """The note on the first field that begins with a quote, where quotes do not enclose fields."""
    how = f"set {dialect.key}.format: csv with separator: {json.dumps(dialect.separator)}"
    one = len(dialect.separator) == 1
    return (
        f"{path}:{line}: a field begins with a quote, which is read as part of it: "
        f"{how if one else 'take quotes off'} if quotes enclose fields"
    )


def _read_fast(path: Path, dialect: Dialect, names: list[str], wanted: list[str]) -> Rows | None:
    """None if any line is malformed: the slow path then finds out which."""
    if len(dialect.separator) > 1:
        return None  # pyarrow knows one character only
    header = int(dialect.has_header)
    counted = _count_sound_lines(path, dialect)
    if counted is None:
        return None
    lines, quote_line = counted
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
        with open_utf8(path, dialect.encoding) as file:
            table = arrow_csv.read_csv(file, read, parse, convert)
    except pa.ArrowException:
        return None
    # an unclosed quote swallows lines and pyarrow skips blank ones: line numbers would be wrong
    if table.num_rows != lines - header:
        return None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    numbers = pl.int_range(1 + header, pl.len() + 1 + header, dtype=pl.Int64)
    notes = [_quotes_are_text(path, quote_line, dialect)] if quote_line else []
    return Rows(path, frame.with_columns(numbers.alias(LINE)), delimited=True, notes=notes)


def _count_sound_lines(path: Path, dialect: Dialect) -> tuple[int, int] | None:
    """The number of lines, and the first with a field that begins with a quote which is text, else
    0; None if pyarrow would parse a line unlike the slow path.
    """
    lines, quote_line = 0, 0
    begins = re.compile(b"(?:^|\n|" + re.escape(dialect.separator.encode()) + b')"')
    last = b"\n"
    with open_utf8(path, dialect.encoding) as file:
        head = file.readline(MAX_LINE).removeprefix(BOM)
        if dialect.has_header and _is_blank(head.rstrip(b"\n"), dialect):
            return None
        if dialect.has_header and dialect.quoted and head.count(b'"') % 2:
            return None  # a name of the header holds a line break
        while block := head + file.read(BLOCK) + file.readline(MAX_LINE):
            head = b""
            if dialect.escape is not None and dialect.escape.encode() in block:
                return None
            if block.count(b"\r") != block.count(b"\r\n") or not _is_utf8(block):
                return None
            if dialect.quoted and not _quotes_in_place(block, dialect.separator):
                return None
            if dialect.quotes_are_text and not quote_line and (found := begins.search(block)):
                quote_line = 1 + lines + block.count(b"\n", 0, found.end())
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n"), quote_line


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
    notes: list[str] = []
    frames: list[pl.DataFrame] = []
    chunk: list[list[str]] = []
    lines: list[int] = []
    for (first, *others), record in _records(path, dialect):
        if isinstance(record, str):
            is_text = not record.startswith("not ") or record.startswith("not CSV")
            remedy = "" if is_text else encoding_remedy(dialect.encoding)
            bad.append(BadRow(path, first, record, remedy=remedy))
        elif len(record) != len(names):
            reason = f"{len(record)} fields where the file has {len(names)}"
            bad.append(BadRow(path, first, reason))
            bad += [BadRow(path, line, f"part of the record of line {first}") for line in others]
        else:
            if dialect.quotes_are_text and not notes and any(f[:1] == '"' for f in record):
                notes.append(_quotes_are_text(path, first, dialect))
            lines.append(first)
            chunk.append([record[position] for position in positions])
        if len(lines) == CHUNK:
            frames.append(_frame(wanted, chunk, lines))
            chunk, lines = [], []
        if len(bad) > limit:
            break
    frames.append(_frame(wanted, chunk, lines))
    return Rows(path, pl.concat(frames), bad, delimited=True, notes=notes)


def _frame(names: list[str], records: list[list[str]], lines: list[int]) -> pl.DataFrame:
    columns = [
        pl.Series(name, [record[k] for record in records], dtype=pl.String)
        for k, name in enumerate(names)
    ]
    return pl.DataFrame([*columns, pl.Series(LINE, lines, dtype=pl.Int64)])


class _Lines:
    """Numbered lines, some of which can be put back to be read again."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._source = numbered_lines(path, encoding)
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
            return next(_csv_reader(self, dialect))
        except (csv.Error, UnicodeDecodeError):
            return None


def _records(path: Path, dialect: Dialect) -> Iterator[tuple[list[int], list[str] | str]]:
    """The numbers of each record's lines that are not blank, with its fields or the reason why it
    has none.
    """
    lines = _Lines(path, dialect.encoding)
    header_due = dialect.has_header
    while (head := lines.take()) is not None:
        line, raw = head
        if _is_blank(raw, dialect):
            continue
        taken: list[NumberedLine] = []
        record = _record(raw, dialect)
        if record is None:
            open_record = _OpenRecord(raw, lines)
            record = open_record.fields(dialect)
            taken = open_record.taken
        if header_due:
            header_due = False
            continue
        if record is None:
            lines.put_back(taken)  # an unclosed quote costs only its own line
            yield [line], "a quote is opened and not closed"
        else:
            yield [line, *(n for n, text in taken if not _is_blank(text, dialect))], record


def _is_blank(raw: bytes, dialect: Dialect) -> bool:
    return not raw.strip(b" \t\r") and (not raw or dialect.separator.encode() not in raw)


def _record(raw: bytes, dialect: Dialect) -> list[str] | str | None:
    """Fields of one line, the reason why it has none, or None if a quote is still open."""
    try:
        return _split(raw.decode("utf-8"), dialect)
    except UnicodeDecodeError as error:
        return not_of_encoding(dialect.encoding, error.start)
    except csv.Error as error:
        if OPEN_QUOTE in str(error):
            return None
        escaped = dialect.escape is None and b'\\"' in raw
        hint = f', and quotes are escaped: set {dialect.key}.escape: "\\\\"' if escaped else ""
        return f"not CSV ({error}){hint}"


def _split(text: str, dialect: Dialect) -> list[str]:
    plain = '"' not in text and (dialect.escape is None or dialect.escape not in text)
    if not dialect.quoted or plain:
        return text.split(dialect.separator)
    return next(_csv_reader([text], dialect))


def _csv_reader(lines: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_RECORD)
    form: dict[str, Any] = {"delimiter": dialect.separator, "escapechar": dialect.escape}
    return csv.reader(lines, strict=True, **form)
