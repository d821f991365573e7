"""JSON lines, and lines with Python dicts.

polars reads them where all lines of a block are sound and all columns are plain values, else they
are read line by line.
"""

import ast
import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from recmind_dist.ingest.ids import text_id
from recmind_dist.ingest.importers.parsed import Parsed
from recmind_dist.ingest.importers.sources import Block
from recmind_dist.ingest.objects import flat_text, unpaired
from recmind_dist.ingest.rows import CLIP, LINE

MAX_LITERAL = 4 << 20  # bytes of a Python dict: its syntax tree takes a hundred times as much
ODD = r"^[\[{]|\x00"
ODD_TEXT = r'^(\{|\[(["\[\]{tfn-]|\d))|\x00'  # a title may begin with a bracket
Record = dict[str, Any]
Explode = Callable[[Record], list[Record] | str]


@dataclass(frozen=True)
class JsonLines:
    """One object a line.

    Attributes:
        keys: objects of this kind have them.
        ids: columns that must be text or numbers.
        plain: other columns of plain values.
        texts: columns of any value, flattened to one text.
        lists: columns of lists of plain values, which become one text too.
        python: lines may be Python dicts, as `repr` writes them.
        explode: an object → its rows, or why it has none.
        absent: keys that tell another kind apart.
    """

    keys: tuple[str, ...]
    ids: tuple[str, ...]
    plain: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    python: bool = False
    explode: Explode | None = None
    absent: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the frames."""
        return (*self.ids, *self.plain, *self.texts, *self.lists)

    def recognises(self, head: list[str]) -> bool:
        """Whether most of the first lines are objects, which have the keys between them."""
        records = [record for line in head if isinstance(record := self.record(line), dict)]
        present = {key for record in records for key in record}
        all_keys = present.issuperset(self.keys) and present.isdisjoint(self.absent)
        return all_keys and 2 * len(records) > len(head)

    def reader(self) -> "JsonLines":
        """What reads one file: it remembers nothing."""
        return self

    def finish(self) -> Parsed:
        """No line waits."""
        return Parsed()

    def parse(self, block: Block) -> Parsed:
        """Text columns: `ids`, `plain`, `texts`, `lists`."""
        if not (self.python or self.explode):
            frame = self._fast(block)
            if frame is not None:
                return Parsed(frame)
        return self._slow(block)

    def _fast(self, block: Block) -> pl.DataFrame | None:
        """None where a line is malformed or polars might read it unlike the slow path."""
        text_list = pl.List(pl.String)
        schema = {n: text_list if n in self.lists else pl.String() for n in self.columns}
        try:
            frame = pl.read_ndjson(block.data, schema=schema)
        except pl.exceptions.PolarsError:
            return None
        if frame.height != block.num_lines:  # polars skips blank lines
            return None
        odd = [self._is_odd(name) for name in self.columns]
        if frame.select(pl.any_horizontal(odd)).item():
            return None
        line = pl.int_range(block.first, block.first + pl.len(), dtype=pl.Int64)
        frame = frame.with_columns(*map(_joined, self.lists), line.alias(LINE))
        return frame.with_columns(*map(_readable, (*self.texts, *self.lists)))

    def _is_odd(self, name: str) -> pl.Expr:
        """Whether values may be lists or objects, or what polars makes of half a surrogate."""
        column = pl.col(name).explode() if name in self.lists else pl.col(name)
        pattern = ODD_TEXT if name in self.texts else ODD
        if name in self.ids:
            pattern = f"{ODD}|^(true|false)$"
        return column.str.contains(pattern).any()

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
            for name in (*self.texts, *self.lists):
                picked[name] = readable(flat_text(record.get(name)))
        except RecursionError:
            return "JSON nested too deep"
        if any(map(unpaired, picked.values())):
            return "a text holds half a surrogate pair"
        return picked


def _joined(name: str) -> pl.Expr:
    """Lists as `flat_text` joins them."""
    words = pl.element().str.strip_chars()
    return pl.col(name).list.eval(words.filter(words != "")).list.join(", ", ignore_nulls=True)


def _readable(name: str) -> pl.Expr:
    """As `readable`, which only texts with an entity go through."""
    column = pl.col(name)
    return (
        pl.when(column.str.contains("&", literal=True))
        .then(column.map_batches(lambda texts: texts.map_elements(readable, pl.String), pl.String))
        .otherwise(column)
        .alias(name)
    )


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
