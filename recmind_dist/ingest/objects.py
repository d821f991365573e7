"""JSON lines and Parquet as raw columns. JSON is read object by object, so that 12 and "12" may
share a column.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recmind_dist.errors import DataError
from recmind_dist.ingest.ids import text_id
from recmind_dist.ingest.rows import LINE, BadRow, Rows, check_columns, numbered_lines

CHUNK = 200_000  # objects held at a time
HEAD = 1000  # objects whose keys make the header: the first may lack an optional key
MAX_DEPTH = 8  # nesting of lists and objects in one text field
MAX_KEYS = 512  # different keys of all objects: each becomes a column of every row
# bytes of columns in memory: a Parquet file of a few kB may declare more
MAX_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def read_jsonl(
    path: Path, pick: Callable[[dict[str, Any]], dict[str, str | None] | str], limit: int
) -> Rows:
    """One object a line, as text columns: all keys of all picked rows, null where a row lacks one.

    Args:
        pick: what to keep of an object, or the reason why it is malformed.
        limit: the reader stops once more rows than this are bad.
    """
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    chunk: list[dict[str, str | None]] = []
    lines: list[int] = []
    keys: set[str] = set()
    for line, value in _objects(path):
        picked = value if isinstance(value, str) else pick(value)
        if isinstance(picked, str):
            bad.append(BadRow(path, line, picked))
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
    return Rows(path, pl.concat(frames, how="diagonal"), bad)


def jsonl_columns(path: Path) -> list[str]:
    """The keys of the first objects. Raises DataError if no line is an object."""
    objects = (value for _, value in _objects(path) if isinstance(value, dict))
    names = list(dict.fromkeys(name for value in islice(objects, HEAD) for name in value))
    if not names:
        raise DataError(
            f"{path}: no line holds a JSON object: check the file's format, or set format by hand"
        )
    return names


def parquet_columns(path: Path) -> list[str]:
    """Column names. Raises DataError for a file that is not Parquet, or for a repeated name."""
    with refused(path):
        names = list(arrow_parquet.read_schema(path).names)
    check_columns(path, names)
    if len(set(names)) < len(names):
        raise DataError(
            f"{path}: a column stands twice ({', '.join(sorted(names))[:120]}): rename one"
        )
    return names


def read_parquet(path: Path, wanted: list[str]) -> Rows:
    """The wanted columns with their types; `LINE` is the row, from 1.

    Raises:
        DataError: the file is damaged, a column's type cannot be an id, number, date or text, or
            the columns take more than half of the memory.
    """
    batches: list[pa.RecordBatch] = []
    with refused(path), arrow_parquet.ParquetFile(path) as file:
        schema = pa.schema([file.schema_arrow.field(name) for name in wanted])
        for field in schema:
            if not _is_readable(field.type):
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
        if sum(batch.num_rows for batch in batches) != file.metadata.num_rows:
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


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line that is not blank: its number, and its object or the reason why it is none."""
    for line, raw in numbered_lines(path):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield line, f"not UTF-8 at byte {error.start} of the line"
        except RecursionError:
            yield line, "JSON nested too deep"
        except ValueError as error:
            yield line, f"not JSON ({error})"
        else:
            yield line, value if isinstance(value, dict) else "not a JSON object"


def _frame(chunk: list[dict[str, str | None]], lines: list[int]) -> pl.DataFrame:
    names = list(dict.fromkeys(name for row in chunk for name in row))
    columns = [pl.Series(name, [row.get(name) for row in chunk], dtype=pl.String) for name in names]
    return pl.DataFrame([*columns, pl.Series(LINE, lines, dtype=pl.Int64)])
