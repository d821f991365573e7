"""Fields between separators: CSV with line breaks in quotes, tabs, `::`, bars."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from recmind_dist.ingest.importers.parsed import Parsed
from recmind_dist.ingest.importers.sources import Block
from recmind_dist.ingest.rows import CLIP, LINE

MAX_LINES = 1000  # of one quoted record
UNCLOSED = "a quote is opened and not closed"
Line = tuple[int, str]


@dataclass(frozen=True)
class Delimited:
    """Fields between separators, one record a line, or several where a quoted field has breaks.

    Attributes:
        names: the columns; of a header, those that this kind must have.
        patterns: without a header: what the fields look like, a regular expression each.
        quoted: fields may stand in double quotes (CSV).
        encoding: of lines that are not UTF-8; None: such lines are malformed.
        fewest: fields of a line at least, where trailing ones may be absent.
        typed: the header is RecBole's: `user_id:token`.
        escape: the letter before a quote that is text; None: such quotes are doubled.
    """

    separator: str
    names: tuple[str, ...]
    patterns: tuple[str, ...] | None = None
    quoted: bool = False
    encoding: str | None = None
    fewest: int | None = None
    escape: str | None = None
    typed: bool = False

    def recognises(self, head: list[str]) -> bool:
        """Whether the header has the names, or all first lines but one look alike."""
        if not head:
            return False
        if self.patterns is None:
            return set(self.header(head[0])).issuperset(self.names)
        alike = sum(map(self._looks_so, head))
        return alike >= max(1, len(head) - 1)

    def reader(self) -> "DelimitedReader":
        """What reads one file."""
        return DelimitedReader(self)

    def fields(self, lines: Iterator[str]) -> list[str]:
        """The fields of the record that begins with the next line. Raises csv.Error."""
        quoted = csv.reader(lines, delimiter=self.separator, escapechar=self.escape, strict=True)
        return next(quoted)

    def may_quote(self, text: str) -> bool:
        """Whether a line must be read as CSV."""
        return self.quoted and len(self.separator) == 1 and '"' in text

    def header(self, line: str) -> list[str]:
        """The names in the first line; none if it cannot be read."""
        if not self.may_quote(line):
            names = [name.strip() for name in line.split(self.separator)]
            return [name.rpartition(":")[0] for name in names] if self.typed else names
        try:
            return [name.strip() for name in self.fields(iter([line]))]
        except csv.Error:
            return []

    def _looks_so(self, line: str) -> bool:
        assert self.patterns is not None
        fields = line.split(self.separator)
        fewest = self.fewest or len(self.names)
        return fewest <= len(fields) <= len(self.names) and all(
            re.fullmatch(pattern, text)
            for pattern, text in zip(self.patterns, fields, strict=False)
        )


class DelimitedReader:
    """Reads the blocks of one file: the header comes first, if there is one."""

    def __init__(self, layout: Delimited) -> None:
        self._layout = layout
        self._names = list(layout.names) if layout.patterns is not None else None
        self._waiting: list[Line] = []  # of a record whose quote is still open

    def parse(self, block: Block) -> Parsed:
        """Text columns and `LINE`; lines with another number of fields are malformed."""
        parsed = Parsed()
        lines = [*self._waiting, *self._decoded(block, parsed)]
        self._waiting = []
        return self._parse(lines, parsed, last=False)

    def finish(self) -> Parsed:
        """The lines behind a quote that was never closed."""
        waiting, self._waiting = self._waiting, []
        return self._parse(waiting, Parsed(), last=True)

    def split(self, texts: list[str]) -> list[list[str]]:
        """The records of the first lines of a file, as far as they are sound and whole."""
        lines = list(enumerate(texts, 1))
        parsed = Parsed()
        records = self._records(lines, parsed, last=False).get_column("fields").to_list()
        return [] if len(parsed.bad) > len(records) // 10 else records

    def _parse(self, lines: list[Line], parsed: Parsed, last: bool) -> Parsed:
        if self._names is None:
            start = next((k for k, (_, text) in enumerate(lines) if text.strip()), len(lines))
            self._names = self._layout.header(lines[start][1]) if start < len(lines) else None
            lines = lines[start + 1 :]
        names = self._names or list(self._layout.names)
        frame = self._records(lines, parsed, last)
        count = pl.col("fields").list.len()
        is_sound = count.is_between(self._layout.fewest or len(names), len(names))
        for line, text, found in frame.filter(~is_sound).select(LINE, "text", count).iter_rows():
            parsed.refuse(line, f"{found} fields, not {len(names)}", text)
        columns = [
            pl.col("fields").list.get(k, null_on_oob=True).alias(name)
            for k, name in enumerate(names)
        ]
        parsed.frame = frame.filter(is_sound).select(*columns, LINE)
        return parsed

    def _decoded(self, block: Block, parsed: Parsed) -> list[Line]:
        lines: list[Line] = []
        for number, raw in enumerate(block.lines, block.first):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                if self._layout.encoding is None:
                    reason = f"not UTF-8 at byte {error.start} of the line"
                    parsed.refuse(number, reason, raw[:CLIP].decode("latin-1"))
                    continue
                text = raw.decode(self._layout.encoding)
            lines.append((number, text))
        return lines

    def _records(self, lines: list[Line], parsed: Parsed, last: bool) -> pl.DataFrame:
        """Columns: `LINE` and text of the first line, and fields. Blank lines are skipped."""
        if any(self._layout.may_quote(text) for _, text in lines):
            rows = list(self._quoted(lines, parsed, last))
            return pl.DataFrame(
                {
                    LINE: pl.Series([row[0] for row in rows], dtype=pl.Int64),
                    "text": pl.Series([row[1] for row in rows], dtype=pl.String),
                    "fields": pl.Series([row[2] for row in rows], dtype=pl.List(pl.String)),
                }
            )
        full = [line for line in lines if line[1]]
        frame = pl.DataFrame(full, {LINE: pl.Int64, "text": pl.String}, orient="row")
        split = pl.col("text").str.split(self._layout.separator)
        return frame.with_columns(split.alias("fields"))

    def _quoted(
        self, lines: list[Line], parsed: Parsed, last: bool
    ) -> Iterator[tuple[int, str, list[str]]]:
        """Records as CSV has them. An open quote at the end waits for the next block."""
        k = 0
        while k < len(lines):
            number, text = lines[k]
            if not self._layout.may_quote(text):
                k += 1
                if text:
                    yield number, text, text.split(self._layout.separator)
                continue
            rest = _Lines(lines, k)
            try:
                fields = self._layout.fields(rest)
            except csv.Error as error:
                is_open = "unexpected end of data" in str(error)
                if is_open and not last and len(lines) - k < MAX_LINES:
                    self._waiting = lines[k:]
                    return
                # costs only its own line
                parsed.refuse(number, UNCLOSED if is_open else f"not CSV ({error})", text)
                k += 1
                continue
            k = rest.at
            yield number, text, fields


class _Lines:
    """Lines from a place on, as csv.reader takes them; `at` follows."""

    def __init__(self, lines: list[Line], start: int) -> None:
        self._lines = lines
        self.at = start
        self._end = min(len(lines), start + MAX_LINES)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= self._end:
            raise StopIteration
        self.at += 1
        return self._lines[self.at - 1][1] + "\n"
