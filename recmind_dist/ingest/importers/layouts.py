"""Blocks of lines → frames of text columns with line numbers, and the lines that are malformed.

JSON is read by polars where all lines of a block are sound and all columns are plain values, else
line by line.
"""

import ast
import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from recmind_dist.ingest.ids import text_id
from recmind_dist.ingest.importers.sources import Block
from recmind_dist.ingest.objects import flat_text, unpaired
from recmind_dist.ingest.rows import CLIP, LINE

MAX_LITERAL = 4 << 20  # bytes of a Python dict: its syntax tree takes a hundred times as much
Record = dict[str, Any]
Explode = Callable[[Record], list[Record] | str]


@dataclass
class Parsed:
    """One block: text columns and `LINE`; malformed lines as (line, reason, beginning)."""

    frame: pl.DataFrame
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def refuse(self, line: int, reason: str, text: str) -> None:
        """Counts a malformed line."""
        self.bad.append((line, reason, text[:CLIP]))


class Layout(Protocol):
    """How the lines of one kind of file are read."""

    def recognises(self, head: list[str]) -> bool:
        """Whether the first lines of a file are of this layout."""

    def parse(self, block: Block) -> Parsed:
        """The rows of a block. The first block of a file has its header, if it has one."""


@dataclass(frozen=True)
class JsonLines:
    """One object a line.

    Attributes:
        keys: objects of this kind have them.
        ids: columns that must be text or numbers.
        plain: other columns of plain values.
        texts: columns of any value, flattened to one text.
        python: lines may be Python dicts, as `repr` writes them.
        explode: an object → its rows, or why it has none.
        absent: keys that tell another kind apart.
    """

    keys: tuple[str, ...]
    ids: tuple[str, ...]
    plain: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    python: bool = False
    explode: Explode | None = None
    absent: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the frames."""
        return (*self.ids, *self.plain, *self.texts)

    def recognises(self, head: list[str]) -> bool:
        """Whether most of the first lines are objects, which have the keys between them."""
        records = [record for line in head if isinstance(record := self.record(line), dict)]
        present = {key for record in records for key in record}
        all_keys = present.issuperset(self.keys) and present.isdisjoint(self.absent)
        return all_keys and 2 * len(records) > len(head)

    def parse(self, block: Block) -> Parsed:
        """Text columns: `ids`, `plain`, `texts`."""
        if not (self.texts or self.python or self.explode):
            frame = self._fast(block)
            if frame is not None:
                return Parsed(frame)
        return self._slow(block)

    def _fast(self, block: Block) -> pl.DataFrame | None:
        """None where a line is malformed or polars might read it unlike the slow path."""
        schema = {name: pl.String() for name in self.columns}
        try:
            frame = pl.read_ndjson(io.BytesIO(block.data), schema=schema)
        except pl.exceptions.PolarsError:
            return None
        ends = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
        if frame.height != ends:  # polars skips blank lines
            return None
        for name in self.columns:  # lists, objects, and what polars makes of half a surrogate
            odd = r"^[\[{]|\x00|^(true|false)$" if name in self.ids else r"^[\[{]|\x00"
            if frame.get_column(name).str.contains(odd).any():
                return None
        line = pl.int_range(block.first, block.first + pl.len(), dtype=pl.Int64)
        return frame.with_columns(line.alias(LINE))

    def _slow(self, block: Block) -> Parsed:
        rows: list[dict[str, str | None]] = []
        lines: list[int] = []
        parsed = Parsed(pl.DataFrame())
        for number, raw in enumerate(block.lines, block.first):
            if not raw.strip():
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 at byte {error.start} of the line"
                parsed.refuse(number, reason, raw[:CLIP].decode("latin-1"))
                continue
            for picked in self._rows(text):
                if isinstance(picked, str):
                    parsed.refuse(number, picked, text)
                else:
                    rows.append(picked)
                    lines.append(number)
        columns = [pl.Series(n, [row[n] for row in rows], pl.String) for n in self.columns]
        parsed.frame = pl.DataFrame([*columns, pl.Series(LINE, lines, pl.Int64)])
        return parsed

    def _rows(self, text: str) -> Iterator[dict[str, str | None] | str]:
        """The rows of a line, each picked or the reason why it is malformed."""
        record = self.record(text)
        if isinstance(record, str):
            yield record
            return
        records = self.explode(record) if self.explode else [record]
        if isinstance(records, str):
            yield records
            return
        yield from map(self._pick, records)

    def record(self, text: str) -> Record | str:
        """The object of a line, or the reason why there is none."""
        try:
            value = json.loads(text)
        except RecursionError:
            return "JSON nested too deep"
        except ValueError as error:
            return python_dict(text) if self.python else f"not JSON ({error})"
        return value if isinstance(value, dict) else "not a JSON object"

    def _pick(self, record: Record) -> dict[str, str | None] | str:
        picked: dict[str, str | None] = {}
        for name in self.ids:
            value = record.get(name)
            picked[name] = text_id(value)
            if picked[name] is None and value is not None and not isinstance(value, str):
                return f"{name} is {type(value).__name__}, not text or a number"
        try:
            for name in self.plain:
                value = record.get(name)
                if isinstance(value, list | dict):
                    return f"{name} is {type(value).__name__}, not a plain value"
                picked[name] = flat_text(value)
            for name in self.texts:
                picked[name] = readable(flat_text(record.get(name)))
        except RecursionError:
            return "JSON nested too deep"
        if any(map(unpaired, picked.values())):
            return "a text holds half a surrogate pair"
        return picked


def readable(text: str | None) -> str | None:
    """HTML entities become what they stand for: `&amp;` is &."""
    return html.unescape(text) if text and "&" in text else text


def python_dict(text: str) -> Record | str:
    """A dict as Python's `repr` writes it (`{u'user_id': u'…'}`), or the reason why it is none.

    Nothing is run: only literals are read, of at most `MAX_LITERAL` bytes.
    """
    if len(text) > MAX_LITERAL:
        return f"a Python dict longer than {MAX_LITERAL} bytes"
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "neither JSON nor a Python dict"
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return "not a dict of names"
    return value


@dataclass(frozen=True)
class Delimited:
    """Fields between separators, one record a line.

    Attributes:
        names: the columns; of a header, those that this kind must have.
        patterns: without a header: what the fields look like, a regular expression each.
        quoted: fields may stand in double quotes (CSV).
        encoding: of lines that are not UTF-8; None: such lines are malformed.
        fewest: fields of a line at least, where trailing ones may be absent.
    """

    separator: str
    names: tuple[str, ...]
    patterns: tuple[str, ...] | None = None
    quoted: bool = False
    encoding: str | None = None
    fewest: int | None = None

    def recognises(self, head: list[str]) -> bool:
        """Whether the header has the names, or all first lines but one look alike."""
        if not head:
            return False
        if self.patterns is None:
            return set(self._header(head[0])).issuperset(self.names)
        alike = sum(map(self._looks_so, head))
        return alike >= max(1, len(head) - 1)

    def parse(self, block: Block) -> Parsed:
        """Text columns, which are all of the header's, or `names`."""
        raise NotImplementedError("of a file: see reader")

    def reader(self) -> "DelimitedReader":
        """What reads the blocks of one file, in order."""
        return DelimitedReader(self)

    def fields(self, text: str) -> list[str] | str:
        """The fields of a line, or why it has none."""
        if not self.quoted or '"' not in text:
            return text.split(self.separator)
        try:
            return next(csv.reader([text], delimiter=self.separator, strict=True))
        except csv.Error as error:
            closed = "unexpected end of data" not in str(error)
            return f"not CSV ({error})" if closed else "a quote is opened and not closed"

    def _header(self, line: str) -> list[str]:
        fields = self.fields(line)
        return [name.strip() for name in fields] if isinstance(fields, list) else []

    def _looks_so(self, line: str) -> bool:
        fields = self.fields(line)
        assert self.patterns is not None
        return (
            isinstance(fields, list)
            and (self.fewest or len(self.names)) <= len(fields) <= len(self.names)
            and all(map(_fullmatch, self.patterns, fields))
        )


class DelimitedReader:
    """Reads the blocks of one file: the header comes first, if there is one."""

    def __init__(self, layout: Delimited) -> None:
        self._layout = layout
        self._names = list(layout.names) if layout.patterns is not None else None

    def parse(self, block: Block) -> Parsed:
        """Text columns and `LINE`; lines with another number of fields are malformed."""
        parsed = Parsed(pl.DataFrame())
        numbers, texts = self._decode(block, parsed)
        if self._names is None and texts:
            self._names = self._layout._header(texts[0])
            numbers, texts = numbers[1:], texts[1:]
        names = self._names or list(self._layout.names)
        frame = pl.DataFrame({"text": texts, LINE: numbers}, {"text": pl.String, LINE: pl.Int64})
        fields = self._fields(frame, parsed)
        count = pl.col("fields").list.len()
        fewest = self._layout.fewest or len(names)
        sound = fields.filter(count.is_between(fewest, len(names)))
        for line, text, found in (
            fields.filter(~count.is_between(fewest, len(names)))
            .select(LINE, "text", count)
            .iter_rows()
        ):
            parsed.refuse(line, f"{found} fields, not {len(names)}", text)
        columns = [
            pl.col("fields").list.get(k, null_on_oob=True).alias(name)
            for k, name in enumerate(names)
        ]
        parsed.frame = sound.select(*columns, LINE)
        return parsed

    def _decode(self, block: Block, parsed: Parsed) -> tuple[list[int], list[str]]:
        """The lines that are not blank, with their numbers."""
        numbers: list[int] = []
        texts: list[str] = []
        for number, raw in enumerate(block.lines, block.first):
            if not raw:
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                if self._layout.encoding is None:
                    reason = f"not UTF-8 at byte {error.start} of the line"
                    parsed.refuse(number, reason, raw[:CLIP].decode("latin-1"))
                    continue
                text = raw.decode(self._layout.encoding)
            numbers.append(number)
            texts.append(text)
        return numbers, texts

    def _fields(self, frame: pl.DataFrame, parsed: Parsed) -> pl.DataFrame:
        """`frame` with the column `fields`; lines whose quotes are wrong are taken out."""
        split = pl.col("text").str.split(self._layout.separator).alias("fields")
        if not self._layout.quoted or not frame["text"].str.contains('"', literal=True).any():
            return frame.with_columns(split)
        found = [self._layout.fields(text) for text in frame["text"]]
        sound = pl.Series([isinstance(fields, list) for fields in found], dtype=pl.Boolean)
        for (text, line), fields in zip(frame.iter_rows(), found, strict=True):
            if isinstance(fields, str):
                parsed.refuse(line, fields, text)
        kept = [fields for fields in found if isinstance(fields, list)]
        return frame.filter(sound).with_columns(pl.Series("fields", kept, pl.List(pl.String)))


def _fullmatch(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def parser_of(layout: Any) -> Callable[[Block], Parsed]:
    """What parses the blocks of one file, in order."""
    parse: Callable[[Block], Parsed]
    parse = layout.reader().parse if isinstance(layout, Delimited) else layout.parse
    return parse


__all__: Sequence[str] = ("Delimited", "JsonLines", "Layout", "Parsed", "parser_of")
