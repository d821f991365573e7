"""CSV, TSV and RecBole atomic files as text columns: pyarrow where all lines are sound, else line
by line.
"""

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterator
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
BLOCK = 8 << 20  # bytes looked at together on the fast path
MAX_RECORD = 1 << 24  # bytes of one quoted record
MAX_LINES = 1000  # physical lines of one quoted record


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is cut up."""

    separator: str
    # fields may stand in double quotes (CSV); TSV and atomic files take a quote as a letter
    quoted: bool
    has_header: bool = True
    typed_header: bool = False  # RecBole: `user_id:token`
    multiline: bool = False  # a quoted field may hold line breaks: texts may, a log's rows never


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Column names: the header's, or the columns' numbers as text. Raises DataError on a name that
    stands twice.
    """
    for number, raw in numbered_lines(path):
        if _is_blank(raw, dialect):
            continue
        try:
            fields = _cut(raw.decode("utf-8"), dialect)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path}:{number}: the header cannot be read ({error}): save the file as UTF-8"
            ) from error
        check_columns(path, fields)
        if not dialect.has_header:
            return [str(i) for i in range(len(fields))]
        names = [
            name.strip().rpartition(":")[0] or name.strip()
            if dialect.typed_header
            else name.strip()
            for name in fields
        ]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise DataError(
                f"{path}:{number}: column {twice!r} stands twice in the header: rename one"
            )
        return names
    raise DataError(f"{path}: nothing but blank lines: give a file with rows")


def read_delimited(path: Path, dialect: Dialect, wanted: list[str], limit: int) -> Rows:
    """The wanted columns of a delimited file, as text.

    Args:
        wanted: names as `read_header` gives them; limit: the reader stops once more rows than this
        are bad.
    """
    names = read_header(path, dialect)
    frame = _read_fast(path, dialect, names, wanted)
    if frame is not None:
        return Rows(path, frame)
    return _read_slow(path, dialect, names, wanted, limit)


def _read_fast(
    path: Path, dialect: Dialect, names: list[str], wanted: list[str]
) -> pl.DataFrame | None:
    """None where any line is not as it should be: the slow path then says which."""
    header = int(dialect.has_header)
    lines = _count_sound_lines(path, dialect)
    if lines is None:
        return None
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
    # a quote that never closes swallows lines, a blank line shifts them: then line numbers would
    # lie
    if table.num_rows != lines - header:
        return None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(
        pl.int_range(1 + header, pl.len() + 1 + header, dtype=pl.Int64).alias(LINE)
    )


def _count_sound_lines(path: Path, dialect: Dialect) -> int | None:
    """The number of lines; None where pyarrow would take a line for what the slow path does not
    take it for.
    """
    lines, last, start = 0, b"\n", True
    with path.open("rb") as file:
        while block := file.read(BLOCK) + file.readline(MAX_LINE):
            if (
                start
                and dialect.has_header
                and _is_blank(block.partition(b"\n")[0].removeprefix(BOM), dialect)
            ):
                return None
            start, block = False, block.removeprefix(BOM) if start else block
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
    """Whether quotes open only where a field begins, and close only where one ends. Of whole lines."""
    octets = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    quotes = np.flatnonzero(octets == ord('"'))
    before, after = octets[quotes[::2] - 1], octets[quotes[1::2] + 1]
    around = np.frombuffer(
        f'{separator}\n"'.encode(), np.uint8
    )  # a quote beside a quote: one of the text, doubled
    opens = np.isin(before, around).all()
    return len(quotes) % 2 == 0 and bool(
        opens and (np.isin(after, around) | (after == ord("\r"))).all()
    )


def _read_slow(
    path: Path, dialect: Dialect, names: list[str], wanted: list[str], limit: int
) -> Rows:
    places = [names.index(name) for name in wanted]
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    columns: list[list[str]] = [[] for _ in wanted]
    lines: list[int] = []
    for span, record in _records(path, dialect):
        if isinstance(record, str):
            bad.append(BadRow(path, span[0], record))
        elif len(record) != len(names):
            bad.append(
                BadRow(path, span[0], f"{len(record)} fields where the file has {len(names)}")
            )
            bad += [
                BadRow(path, line, f"part of the record of line {span[0]}") for line in span[1:]
            ]
        else:
            lines.append(span[0])
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
    series = [
        pl.Series(name, column, dtype=pl.String)
        for name, column in zip(names, columns, strict=True)
    ]
    return pl.DataFrame([*series, pl.Series(LINE, lines, dtype=pl.Int64)])


def _records(path: Path, dialect: Dialect) -> Iterator[tuple[range, list[str] | str]]:
    """The lines of each record with its fields, or with the reason why it has none."""
    pending: deque[tuple[int, bytes]] = (
        deque()
    )  # lines to be read again after a quote that never closed
    source = numbered_lines(path)

    def take() -> tuple[int, bytes] | None:
        return pending.popleft() if pending else next(source, None)

    header_due = dialect.has_header
    while (head := take()) is not None:
        line, raw = head
        if _is_blank(raw, dialect):
            continue
        if header_due:
            header_due = False
            continue
        taken: list[tuple[int, bytes]] = []
        record = _record(raw, dialect)
        if record is None and dialect.multiline:
            record = _continued(raw, take, taken, dialect)
        if record is None:
            pending.extendleft(reversed(taken))  # an opened quote costs its own line only
            yield range(line, line + 1), "a quote is opened and not closed"
        else:
            yield range(line, line + 1 + len(taken)), record


def _is_blank(raw: bytes, dialect: Dialect) -> bool:
    return not raw.strip(b" \t\r") and (not raw or dialect.separator.encode() not in raw)


def _record(raw: bytes, dialect: Dialect) -> list[str] | str | None:
    """Fields of one line, or the reason why there are none, or None where a quote is still open."""
    try:
        return _cut(raw.decode("utf-8"), dialect)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line"
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else f"not CSV ({error})"


def _continued(
    head: bytes,
    take: Callable[[], tuple[int, bytes] | None],
    taken: list[tuple[int, bytes]],
    dialect: Dialect,
) -> list[str] | None:
    """Fields of a record that goes on over the next lines, which are put into `taken`; None if it
    never ends well.
    """

    def lines() -> Iterator[str]:
        size = len(head)
        yield head.decode("utf-8") + "\n"
        while len(taken) < MAX_LINES and size < MAX_RECORD and (more := take()) is not None:
            taken.append(more)
            size += len(more[1])
            yield more[1].decode("utf-8") + "\n"

    try:
        return next(csv.reader(lines(), delimiter=dialect.separator, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return None


def _cut(text: str, dialect: Dialect) -> list[str]:
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator)
    csv.field_size_limit(MAX_RECORD)
    return next(csv.reader([text], delimiter=dialect.separator, strict=True))
