"""Settings of a data set: the log, the item and user files, and which rows are kept."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from recmind_dist.config import Settings

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "atomic", "lightgcn"]
TableFormat = Literal["auto", "csv", "tsv", "jsonl", "parquet", "atomic"]
ColumnName = str | int | None


class LogColumns(Settings):
    """Which column of the log is which: a name, or a number from 0; unset: the usual names."""

    user: ColumnName = None
    """unset: `user` or `user_id`"""
    item: ColumnName = None
    """unset: `item` or `item_id`"""
    time: ColumnName = None
    """unset: `time`, `timestamp` or `order` if present; without any, what is held
    out is drawn (`graph.split`)"""
    rating: ColumnName = None
    """unset: `rating`; read only if `min_rating` or this key is set"""


class LogSettings(Settings):
    """The interaction log. A path or list of paths stands for a log with defaults."""

    path: Path | list[Path]
    """one file, or several of one layout, read in this order; relative to the current directory"""
    format: Format = "auto"
    """auto: by suffix (.csv .tsv .jsonl .parquet .inter .txt)"""
    columns: LogColumns = LogColumns()
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """unset: comma for csv, tab for tsv and atomic"""
    has_header: bool = True

    @property
    def paths(self) -> list[Path]:
        """The files, in the order of reading."""
        return self.path if isinstance(self.path, list) else [self.path]

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path | list) else value

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: Path | list[Path]) -> Path | list[Path]:
        if value == []:
            raise ValueError("no file named: give at least one path")
        return value


class TableSettings(Settings):
    """The texts of items or users, one a line. A path stands for a file with defaults."""

    path: Path
    format: TableFormat = "auto"
    """auto: by suffix (.csv .tsv .jsonl .parquet .item .user)"""
    id: str | None = None
    """the column that holds the id; unset: `id`, `item_id`/`user_id` or `item`/`user`"""
    fields: list[str] | Literal["all"] = "all"
    """the text columns to keep, in this order"""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """unset: comma for csv, tab for tsv and atomic"""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @field_validator("fields")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("a field stands twice: name each once")
        return value


class DatasetSettings(Settings):
    """Files of a data set, and filters in this order: quarantine, rating, repeats, k-core."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """letters, digits, dot, dash; the folder name under the cache"""
    interactions: LogSettings
    items: TableSettings | None = None
    users: TableSettings | None = None
    test: Path | None = None
    """held-out log of a given split, laid out as `interactions` (LightGCN: test.txt)"""
    valid: Path | None = None
    """validation log of a given split; needs `test`"""
    min_rating: float | None = None
    """rows with a lower rating are dropped; unset: every row is an interaction"""
    repeats: Literal["first", "last"] = "first"
    """which of several interactions of a user with an item to keep"""
    k_core: int = Field(default=0, ge=0)
    """users and items with fewer are dropped, repeatedly, until none remains; 0: off"""
    include_unseen: bool = True
    """users and items found only in their text file become nodes of degree 0 (not those that k_core
    dropped)"""
    memory_mb: int = Field(default=0, ge=0)
    """above 0: a Parquet log is prepared in blocks of about this size; 0: all at once"""
    max_bad_rows: int = Field(default=0, ge=0)
    """malformed rows of all files allowed in quarantine.jsonl; one more is an error"""

    def content(self) -> dict[str, Any]:
        """The settings that the data set's key depends on."""
        return self.model_dump(mode="json", exclude={"memory_mb"})

    @model_validator(mode="after")
    def _agree(self) -> "DatasetSettings":
        if self.valid is not None and self.test is None:
            raise ValueError(
                "dataset.valid is given without dataset.test: a given split needs its test file"
            )
        if self.test is not None and self.k_core > 1:
            raise ValueError(
                "dataset.k_core with dataset.test: a k-core would change the given split: leave "
                "one out"
            )
        return self
