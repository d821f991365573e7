"""Writes items.parquet and users.parquet of a bundle."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recmind_dist.recommend.bundle import ROW_GROUP

_OPTIONS = {"use_dictionary": False, "write_page_checksum": True, "compression": "lz4"}
"""lz4, since most of the bytes are vectors, which hardly compress: it is read faster than zstd."""
_ITEMS_AT_ONCE = 1 << 16


def write_items(table: pa.Table, path: Path) -> None:
    """All items, a row each."""
    pq.write_table(table, path, row_group_size=_ITEMS_AT_ONCE, **_OPTIONS)


def write_users(parts: Iterator[pa.Table], path: Path) -> None:
    """All users, `ROW_GROUP` a part but for the last: a part is a row group."""
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, **_OPTIONS) as writer:
        writer.write_table(first, row_group_size=ROW_GROUP)
        for part in parts:
            writer.write_table(part, row_group_size=ROW_GROUP)
