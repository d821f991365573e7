"""JSON lines and Parquet as raw columns. JSON is read object by object, so that 12 and "12" may
share a column.
"""

import ast
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.errors import DataError
from recmind_dist.ingest.arrays import array_objects, is_array, loads
from recmind_dist.ingest.ids import text_id
from recmind_dist.ingest.rows import (
    LINE,
    BadRow,
    Rows,
    check_columns,
    encoding_remedy,
    not_of_encoding,
    numbered_lines,
)
from recmind_dist.ingest.sources import beginnings, packing_of

CHUNK = 200_000  # objects held at a time
HEAD = 1000  # objects whose keys make the header: the first may lack an optional key
ONE_A_LINE = "write one object a line (jq -c '.[]' takes an array apart, jq -c . joins lines)"
MAX_DEPTH = 8  # nesting of lists and objects in one text field
MAX_KEYS = 512  # different keys of all objects: each becomes a column of every row
# bytes of columns in memory: a Parquet file of a few kB may declare more
MAX_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def read_jsonl(
    path: Path,
    pick: Callable[[dict[str, Any]], dict[str, str | None] | str],
    limit: int,
    encoding: str = "utf-8",
    python: bool = False,
) -> Rows:
    """One object a line, or elements of one array, as text columns: all keys of all picked rows,
    null where a row lacks one.

    Args:
        pick: what to keep of an object, or the reason why it is malformed.
        limit: the reader stops once more rows than this are bad.
        python: lines are dicts as Python prints them.
    """
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    chunk: list[dict[str, str | None]] = []
    lines: list[int] = []
    keys: set[str] = set()
    for line, value in _objects(path, encoding, python):
        picked = value if isinstance(value, BadRow) else pick(value)
        if isinstance(picked, str):
            picked = BadRow(path, line, picked)
        if isinstance(picked, BadRow):
            bad.append(picked)
            if len(bad) > limit:
                break
            continue
        if not keys.issuperset(picked):
            keys.update(picked)
            check_columns(path, keys, MAX_KEYS)
        chunk.append(picked)
        lines.append(line)
        if len(chunk) == CHUNK:
            frames.append(_frame(chunk, lines))
            chunk, lines = [], []
    frames.append(_frame(chunk, lines))
    textual = python or not is_array(path, encoding)
    return Rows(path, pl.concat(frames, how="diagonal"), bad, textual)


def jsonl_columns(path: Path, encoding: str = "utf-8", python: bool = False) -> list[str]:
    """The keys of the first objects. Raises DataError if no line is an object."""
    first_bad: BadRow | None = None
    names: dict[str, None] = {}
    count = 0
    for _, value in _objects(path, encoding, python):
        if isinstance(value, BadRow):
            first_bad = first_bad or value
            continue
        names |= dict.fromkeys(keys_of(value))
        count += 1
        if count == HEAD:
            break
    if not names:
        where = f":{first_bad.line}: {first_bad.reason}" if first_bad else ": blank"
        remedy = first_bad.remedy if first_bad else ""
        raise DataError(
            f"{path}{where}; no line holds a JSON object: "
            f"{remedy or 'check the layout, or set format by hand'}"
        )
    return list(names)


def head_objects(
    path: Path, count: int, encoding: str = "utf-8", python: bool = False
) -> list[dict[str, Any]]:
    """The first objects of a file."""
    found = (value for _, value in _objects(path, encoding, python) if isinstance(value, dict))
    return list(islice(found, count))


def keys_of(value: dict[str, Any]) -> Iterator[str]:
    """The keys of an object, and of an object in it as `user.id`."""
    for key, inner in value.items():
        yield key
        if isinstance(inner, dict):
            yield from (f"{key}.{name}" for name in inner)


def value_of(value: dict[str, Any], key: str) -> Any:
    """The value of a key, or of `user.id` where there is no such key."""
    if key in value or "." not in key:
        return value.get(key)
    outer, _, name = key.partition(".")
    inner = value.get(outer)
    return inner.get(name) if isinstance(inner, dict) else None


def parquet_columns(path: Path) -> list[str]:
    """Column names. Raises DataError for a file that is not Parquet, or for a repeated name."""
    if packing_of(path) is not None:
        raise DataError(f"{path}: packed, which Parquet does by itself: unpack it first")
    with refused(path):
        names = list(arrow_parquet.read_schema(path).names)
    check_columns(path, names)
    if len(set(names)) < len(names):
        raise DataError(
            f"{path}: a column stands twice ({', '.join(sorted(names))[:120]}): rename one"
        )
    return names


def read_parquet(path: Path, wanted: list[str], texts: Collection[str] = ()) -> Rows:
    """The wanted columns with their types; `LINE` is the row, from 1.

    Args:
        texts: columns that may also hold lists and structs.

    Raises:
        DataError: the file is damaged, a column's type cannot be an id, number, date or text, or
            the columns take more than half of the memory.
    """
    batches: list[pa.RecordBatch] = []
    with refused(path), arrow_parquet.ParquetFile(path) as file:
        schema = pa.schema([file.schema_arrow.field(name) for name in wanted])
        for field in schema:
            if not _is_readable(field.type) and not (field.name in texts and _is_text(field.type)):
                raise DataError(
                    f"{path}: column {field.name!r} holds {field.type}: convert it or leave it out"
                )
        size = 0
        for batch in file.iter_batches(columns=wanted):
            batch.validate(full=True)  # polars would take invalid UTF-8 as valid
            size += batch.nbytes
            if size > MAX_BYTES:
                raise DataError(
                    f"{path}: its columns take more than {MAX_BYTES} bytes of memory: split the "
                    "file"
                )
            batches.append(batch.select(wanted))
            if (begun := beginnings()) is not None and batch.num_rows < file.metadata.num_rows:
                begun.longer.append(path)
                break
        whole = beginnings() is None
        if whole and sum(batch.num_rows for batch in batches) != file.metadata.num_rows:
            raise DataError(
                f"{path}: not the {file.metadata.num_rows} rows that it says it has: write it again"
            )
        table = pa.Table.from_batches(batches, None if batches else schema)
        frame = pl.from_arrow(stored_table(table))
    assert isinstance(frame, pl.DataFrame)
    numbers = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    return Rows(path, frame.with_columns(numbers.alias(LINE)), textual=False)


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Turns Arrow's errors about a damaged file into one sentence."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(
            f"{path}: cannot be read as Parquet ({reason}): check the format"
        ) from error


def _is_readable(kind: Any) -> bool:
    """Whether a column of this type can be ids, numbers, dates, or a text or list of texts."""
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_readable(kind.value_type) and not pa.types.is_nested(kind.value_type)
    plain = (
        pa.types.is_null,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal128,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_date,
        pa.types.is_timestamp,
    )
    return any(test(kind) for test in plain)


def _is_text(kind: Any) -> bool:
    """Whether a column of this type, perhaps nested, can be written as text."""
    if pa.types.is_struct(kind):
        return all(_is_text(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return _is_readable(kind)


def stored_table(table: pa.Table) -> pa.Table:
    """Dictionary columns decoded: polars would read them as categories."""
    fields = []
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields))


def flat_text(value: Any, depth: int = 0) -> str | None:
    """A JSON value as one text: lists joined by ", ", objects as "key: value".

    Raises:
        RecursionError: `value` is nested deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, date | Decimal):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        texts = (flat_text(element, depth + 1) for element in value)
        return ", ".join(text for text in texts if text) or None
    if isinstance(value, dict):
        parts = ((key, flat_text(element, depth + 1)) for key, element in value.items())
        return ", ".join(f"{key}: {part}" for key, part in parts if part) or None
    return text_id(value)


def unpaired(text: str | None) -> bool:
    """Whether a text holds half a surrogate pair (\\ud800 in JSON), which UTF-8 cannot encode."""
    if text is None or text.isascii():
        return False
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _objects(
    path: Path, encoding: str, python: bool
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Each line that is not blank: its number, and its object or what is wrong with it. Of a file
    that is one JSON array: each element, counted from 1.
    """
    if not python and is_array(path, encoding):
        yield from array_objects(path, encoding)
        return
    parse: Callable[[str], Any] = ast.literal_eval if python else loads
    for line, raw in numbered_lines(path, encoding):
        if not raw.strip():
            continue
        remedy = ""
        try:
            value = parse(raw.decode("utf-8").strip())
            if isinstance(value, dict):
                yield line, value
                continue
            reason = "not a dict" if python else "not a JSON object"
            if isinstance(value, list):
                reason, remedy = "a list, not an object", ONE_A_LINE
        except UnicodeDecodeError as error:
            reason, remedy = not_of_encoding(encoding, error.start), encoding_remedy(encoding)
        except (RecursionError, MemoryError):
            reason = "JSON nested too deep"
        except (ValueError, SyntaxError, TypeError) as error:
            reason, remedy = _what_it_is(raw.strip(), error, python)
        yield line, BadRow(path, line, reason, remedy=remedy)


def _what_it_is(raw: bytes, error: Exception, python: bool) -> tuple[str, str]:
    """Reason and remedy for a line that is no object."""
    if python:
        return "not a Python dict", ""
    if raw.startswith((b"{'", b"{u'", b'{u"')):
        return "a Python dict, not JSON", "set format: python"
    if raw in (b"[", b"{") or (raw.startswith(b"[{") and raw.endswith((b",", b"{", b"}"))):
        return "JSON over several lines", ONE_A_LINE
    return f"not JSON ({error})", ""


def _frame(chunk: list[dict[str, str | None]], lines: list[int]) -> pl.DataFrame:
    names = list(dict.fromkeys(name for row in chunk for name in row))
    columns = [pl.Series(name, [row.get(name) for row in chunk], dtype=pl.String) for name in names]
    return pl.DataFrame([*columns, pl.Series(LINE, lines, dtype=pl.Int64)])
