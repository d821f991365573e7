"""The first rows of a file of any layout, as text columns, with how the file is to be read."""

import codecs
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.errors import DataError
from recmind_dist.ingest.guess.vocabulary import is_known
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.json_lines import JsonLines
from recmind_dist.ingest.importers.sources import HEAD_LINES, Block, Source
from recmind_dist.ingest.objects import (
    ONE_A_LINE,
    flat_text,
    head_objects,
    keys_of,
    refused,
    stored_table,
    value_of,
)
from recmind_dist.ingest.rows import BOM, LINE, check_columns
from recmind_dist.ingest.sources import only_beginnings, open_utf8, partition_columns

SAMPLE_BYTES = 4 << 20
SAMPLE_ROWS = 20_000
SEPARATORS = ("\t", "::", ",", ";", "|", "~", "\x01", " ")  # \x01: Hive
PARQUET = b"PAR1"
NUMBER = r"^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$"
NULL = r"\N"  # PostgreSQL, MySQL and Hive
SOUND = 0.9  # share of the first lines that must have the usual number of fields


@dataclass(frozen=True)
class Sample:
    """The beginning of a file.

    Attributes:
        format: as in a config: csv, tsv, jsonl, parquet, atomic, lightgcn; python: dicts.
        frame: text columns, at most `SAMPLE_ROWS` rows.
        separator: of csv and tsv.
        has_header: its columns have names; else they are numbered from 0.
        nested: columns with lists or objects.
        plain: the readers take it where it is, which is not in an archive.
        encoding: of a text file.
        has_nulls: fields that are `NULL`, which `frame` has as null.
        folders: columns that stand in the names of folders.
        more: other files of the same columns, which follow this one.
        layout: how an import reads csv and tsv.
    """

    source: Source
    format: str
    frame: pl.DataFrame
    separator: str | None = None
    has_header: bool = True
    nested: frozenset[str] = frozenset()
    plain: bool = True
    encoding: str = "utf-8"
    has_nulls: bool = False
    folders: frozenset[str] = frozenset()
    more: tuple[Source, ...] = ()
    layout: Delimited | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The file, and the others of the same columns."""
        return (self.source, *self.more)

    @property
    def columns(self) -> list[str]:
        """Their names, or numbers as text."""
        return self.frame.columns

    @property
    def stem(self) -> str:
        """Of the file's name, without suffixes."""
        return (self.source.member or self.source.path.name).rpartition("/")[2].partition(".")[0]


def sample(source: Source) -> Sample:
    """Looks at the beginning of a file.

    Raises:
        DataError: no layout that this program reads: says what it is and what to do.
    """
    if source.member is None:
        with source.path.open("rb") as file:
            is_parquet = file.read(4) == PARQUET
        found = _of_parquet(source) if is_parquet else _of_file(source)
        return _with_folders(found)
    head = source.head
    if not head:
        raise DataError(f"{source.name}: nothing but blank lines: leave it out")
    if head[0].lstrip().startswith(("{", "[")):
        return _of_member(source)
    block = next(source.blocks(SAMPLE_BYTES), None)
    assert block is not None
    return _of_lines(source, head, block, "latin-1", plain=False)


def _with_folders(one: Sample) -> Sample:
    """With the columns that stand in the names of the file's folders (`year=2020/`), and nulls for
    fields that stand for none.
    """
    folders = {
        name: value
        for name, value in partition_columns(one.source.path).items()
        if name not in one.columns and one.has_header
    }
    nulls = one.frame.select((pl.all() == NULL).any())
    has_nulls = any(nulls.row(0)) if nulls.width else False
    plain = one.frame.with_columns(pl.all().replace(NULL, None)) if has_nulls else one.frame
    frame = plain.with_columns(pl.lit(value).alias(name) for name, value in folders.items())
    return replace(one, frame=frame, has_nulls=has_nulls, folders=frozenset(folders))


def _of_file(source: Source) -> Sample:
    encoding = _encoding(source.path)
    with only_beginnings(SAMPLE_BYTES), open_utf8(source.path, encoding) as file:
        block = Block(1, file.read().removeprefix(BOM))
    lines = (line.decode("utf-8", "replace") for line in block.lines)
    head = list(islice((line for line in lines if line.strip()), HEAD_LINES))
    if not head:
        raise DataError(f"{source.name}: nothing but blank lines: leave it out")
    if head[0].lstrip().startswith(("{", "[")):
        return _of_objects(source, encoding)
    return _of_lines(source, head, block, encoding)


def _encoding(path: Path) -> str:
    """UTF-8 or UTF-16 by the first bytes, else Windows' or ISO's Western letters."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    with only_beginnings(SAMPLE_BYTES), open_utf8(path) as file:
        data = file.read()
    with suppress(UnicodeDecodeError):
        data.decode()
        return "utf-8"
    words = b"".join(re.findall(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*", data))
    if sum(byte > 0x7F for byte in words) > len(words) / 2:
        raise DataError(
            f"{path}: neither UTF-8 nor Western letters (cp1252): save it as UTF-8, as by iconv -f "
            "ENCODING -t UTF-8 (cp1251: Russian, shift_jis: Japanese, gb18030: Chinese …)"
        )
    with suppress(UnicodeDecodeError):
        data.decode("cp1252")
        return "cp1252"
    return "latin-1"


def joined(samples: list[Sample]) -> list[Sample]:
    """Files of one layout and the same named columns are parts of one table; without names, those
    of one folder whose names differ by numbers alone.
    """
    tables: dict[object, Sample] = {}
    for one in samples:
        parts = one.format, one.separator, tuple(one.columns), one.encoding
        key: object = parts
        if not one.has_header or one.format == "lightgcn":
            path = one.source.path
            family = path.parent, re.sub(r"\d+", "0", path.name)
            key = (parts, family) if one.source.searched else one.source
        first = tables.get(key)
        tables[key] = one if first is None else _with(first, one)
    return list(tables.values())


def _with(first: Sample, other: Sample) -> Sample:
    frame = pl.concat([first.frame, other.frame]).head(SAMPLE_ROWS)
    plain = first.plain and other.plain
    more = (*first.more, other.source)
    return replace(first, frame=frame, plain=plain, more=more)


def _of_parquet(source: Source) -> Sample:
    with refused(source.path), arrow_parquet.ParquetFile(source.path) as file:
        batch = next(file.iter_batches(SAMPLE_ROWS), None)
        schema = file.schema_arrow
        table = pa.Table.from_batches([] if batch is None else [batch], schema)
        frame = pl.from_arrow(stored_table(table))
    assert isinstance(frame, pl.DataFrame)
    nested = frozenset(name for name, kind in frame.schema.items() if kind.is_nested())
    usable = [name for name in frame.columns if frame.schema[name] != pl.Binary]
    texts = [_texts(frame.get_column(name)) for name in usable]
    return Sample(source, "parquet", pl.DataFrame(texts), nested=nested)


def _texts(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List) and not column.dtype.inner.is_nested():
        return column.cast(pl.List(pl.String)).list.join(", ")
    if column.dtype.is_nested():
        return pl.Series(column.name, [None] * len(column), pl.String)
    return column.cast(pl.String)


def _of_objects(source: Source, encoding: str) -> Sample:
    """JSON lines, one JSON array, or Python dicts."""
    path = source.path
    with only_beginnings(SAMPLE_BYTES):
        records, python = head_objects(path, SAMPLE_ROWS, encoding), False
        if not records:
            records, python = head_objects(path, SAMPLE_ROWS, encoding, python=True), True
    if not records:
        with path.open("rb") as file:
            start = file.read(40).decode("utf-8", "replace")
        raise DataError(
            f"{source.name}: begins with {start!r}, neither JSON objects nor Python dicts, one a "
            f"line or in one array: {ONE_A_LINE}"
        )
    _refuse_one_object(source, records)
    keys = list(dict.fromkeys(key for record in records for key in keys_of(record)))
    check_columns(path, keys, 512)
    values = {key: [value_of(record, key) for record in records] for key in keys}
    nested = frozenset(
        key for key in keys if any(isinstance(value, list | dict) for value in values[key])
    )
    texts = [pl.Series(key, map(_flat, values[key]), pl.String) for key in keys]
    form = "python" if python else "jsonl"
    return Sample(source, form, pl.DataFrame(texts), nested=nested, encoding=encoding)


def _refuse_one_object(source: Source, records: list[dict[str, Any]]) -> None:
    """Raises DataError for an object that has the rows under one of its keys."""
    for key, value in records[0].items() if len(records) == 1 else ():
        if isinstance(value, list) and value[1:] and all(isinstance(one, dict) for one in value):
            raise DataError(
                f"{source.name}: one object, whose {key!r} holds {len(value)} rows: take them out "
                f"(jq .{key} FILE > ROWS.json)"
            )


def _flat(value: Any) -> str | None:
    try:
        return flat_text(value)
    except RecursionError:
        return None


def _of_member(source: Source) -> Sample:
    """JSON lines or Python dicts in an archive."""
    is_json = JsonLines(keys=(), ids=()).recognises(source.head)
    reader = JsonLines(keys=(), ids=(), python=not is_json)
    records = [one for line in source.head if isinstance(one := reader.record(line), dict)]
    if not records:
        raise DataError(f"{source.name}: its lines are neither JSON objects nor Python dicts")
    keys = list(dict.fromkeys(key for record in records for key in record))
    check_columns(source.path, keys, 512)
    nested = frozenset(
        key for key in keys if any(isinstance(one.get(key), list | dict) for one in records)
    )
    layout = JsonLines(keys=(), ids=(), texts=tuple(keys), python=not is_json)
    block = next(source.blocks(SAMPLE_BYTES), None)
    assert block is not None
    frame = _rows(block, layout)
    return Sample(source, "jsonl" if is_json else "python", frame, nested=nested, plain=False)


def _rows(block: Block, layout: JsonLines | Delimited) -> pl.DataFrame:
    """The first rows, text columns only."""
    return layout.reader().parse(block).frame.drop(LINE).head(SAMPLE_ROWS)


def _of_lines(
    source: Source, head: list[str], block: Block, encoding: str, plain: bool = True
) -> Sample:
    found = _separated(head)
    if found is None:
        if _is_lists(head):
            return _lists(source, block, plain)
        raise DataError(
            f"{source.name}: its first lines have no separator in common (tab, comma, semicolon, "
            "bar, tilde, '::', space): is it a table? Leave it out, or convert it to CSV"
        )
    layout, records = found
    first = [name.strip() for name in records[0]]
    if layout.separator == "\t" and all(name.rpartition(":")[2] in ATOMIC for name in first):
        names = tuple(name.rpartition(":")[0] for name in first)
        layout = replace(layout, names=names, patterns=None, typed=True)
        frame = _rows(block, layout)
        return Sample(
            source, "atomic", frame, layout.separator, layout=layout, plain=plain, encoding=encoding
        )
    has_header = _has_header(first, records[1:])
    names = tuple(first) if has_header else tuple(map(str, range(len(first))))
    repeated = next((name for name, n in Counter(names).items() if n > 1), None)
    if repeated is not None:
        raise DataError(f"{source.name}: column {repeated!r} stands twice: rename one")
    patterns = None if has_header else (".*",) * len(names)
    layout = replace(layout, names=names, patterns=patterns, encoding="latin-1")
    form = "tsv" if layout.separator == "\t" and not layout.quoted else "csv"
    return Sample(
        source,
        form,
        _rows(block, layout),
        layout.separator,
        has_header,
        layout=layout,
        plain=plain,
        encoding=encoding,
    )


ATOMIC = {"token", "token_seq", "float", "float_seq"}


def _separated(head: list[str]) -> tuple[Delimited, list[list[str]]] | None:
    """The separator that gives most records the same number of fields, of two or more; of several
    the one that gives more fields, since texts and numbers hold commas. A space only if no other.
    """
    has_quotes = any('"' in line for line in head)
    best: tuple[Delimited, list[list[str]]] | None = None
    for separator in SEPARATORS:
        if separator == " " and best is not None:
            break
        enclosed = separator != "\t" or _all_enclosed(head[0].split("\t"))
        quoted = has_quotes and enclosed and len(separator) == 1
        for escape in (None, "\\") if quoted else (None,):
            layout = Delimited(separator, (), (), quoted, escape=escape)
            records = layout.reader().split(head)
            counts = Counter(map(len, records))
            fields, usual = counts.most_common(1)[0] if counts else (0, 0)
            if fields > 1 and usual >= SOUND * len(records) and len(records[0]) == fields:
                if best is None or fields > len(best[1][0]):
                    best = layout, records
                break
    return best


def _all_enclosed(fields: list[str]) -> bool:
    """Whether quotes enclose all names of columns, as R writes tab-separated files."""
    return all(len(field) > 1 and field[0] == field[-1] == '"' for field in fields)


def _has_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns."""
    names = [name.strip() for name in first]
    numbers = pl.Series(names, dtype=pl.String).str.contains(NUMBER)
    if not rows or numbers.any() or "" in names[1:]:  # an index's column has no name
        return False
    if any(map(is_known, names)):
        return True
    same = [row for row in rows if len(row) == len(first)]
    columns = [pl.Series([row[k] for row in same], dtype=pl.String) for k in range(len(first))]
    return any(len(column) and column.str.contains(NUMBER).all() for column in columns)


def _is_lists(head: list[str]) -> bool:
    """A user and all their items a line, as LightGCN's files have them."""
    return all(word.isdigit() for line in head for word in line.split(" ") if word)


def _lists(source: Source, block: Block, plain: bool) -> Sample:
    rows = [line.decode("ascii").split() for line in block.lines if line.strip()]
    pairs = [(row[0], item) for row in rows for item in row[1:]][:SAMPLE_ROWS]
    frame = pl.DataFrame(pairs, {"user": pl.String, "item": pl.String}, orient="row")
    return Sample(source, "lightgcn", frame, plain=plain)
