"""Parquet files of a bundle: opened, checked against what a bundle has, and read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from recmind_dist.errors import StoreError

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def open_parquet(path: Path) -> "pq.ParquetFile":
    """Raises StoreError: absent or damaged."""
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def check_columns(
    file: "pq.ParquetFile", path: Path, types: Mapping[str, str], num_rows: int
) -> None:
    """Raises StoreError: a column is missing or of another type, or rows are."""
    schema = file.schema_arrow
    for name in (*types, "vector"):
        if schema.names.count(name) != 1:
            raise unlike(path, name)
    for name, kind in types.items():
        if str(schema.field(name).type) not in (kind, f"large_{kind}", f"{kind}_view"):
            raise unlike(path, name)
    if file.metadata.num_rows != num_rows:
        raise StoreError(
            f"{path}: not as many rows as the manifest says: copy or export the bundle again"
        )


def vector_width(file: "pq.ParquetFile", column: str) -> int:
    """Numbers in each vector; 0 where the column has none."""
    kind = file.schema_arrow.field(column).type
    is_vector = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()
    return int(kind.list_size) if is_vector else 0


def unlike(path: Path, column: str) -> StoreError:
    """The error of a column that does not belong into a bundle."""
    return StoreError(f"{path}: column {column} is not a bundle's: copy or export the bundle again")


def read_columns(file: "pq.ParquetFile", path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns whole. Raises StoreError: damaged."""
    try:
        return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> StoreError:
    """The error of a file that cannot be read."""
    first = (str(error).splitlines() or [""])[0][:120]
    return StoreError(f"{path}: cannot be read ({first}): copy or export the bundle again")
