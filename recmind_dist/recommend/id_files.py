"""Files of external ids: Parquet, or text with an id a line."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from recmind_dist.errors import DataError, StoreError
from recmind_dist.recommend.parquet_tables import open_parquet

_USUAL = ("id", "user", "user_id", "item", "item_id")


def read_ids(path: Path) -> Iterator[str]:
    """The ids of a file, a block at a time in memory.

    Args:
        path: Parquet, with one column or one that is called id, user, user_id, item or item_id;
            any other file has an id a line.
    Raises:
        DataError: absent, cannot be read, or which column has ids cannot be known.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: give a Parquet file, or a text with an id a line")
    return _of_parquet(path) if path.suffix == ".parquet" else _of_lines(path)


def _of_parquet(path: Path) -> Iterator[str]:
    try:
        file = open_parquet(path)
    except StoreError as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: make it anew") from error
    names = file.schema_arrow.names
    column = names[0] if len(names) == 1 else next((n for n in _USUAL if n in names), None)
    if column is None:
        raise DataError(f"{path}: columns {', '.join(names)}: call the one with ids id")
    try:
        for batch in file.iter_batches(columns=[column]):
            yield from (str(value) for value in batch[0].to_pylist() if value is not None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _of_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for line in file:
                if stripped := line.strip():
                    yield stripped
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: give an id a line, or Parquet") from error
