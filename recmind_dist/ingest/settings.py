"""Settings of a data set: the log, the item and user files, and which rows are kept."""

import codecs
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from recmind_dist.config import Settings
from recmind_dist.errors import DataError
from recmind_dist.ingest.sources import expand

Format = Literal["auto", "csv", "tsv", "jsonl", "python", "parquet", "atomic", "lightgcn"]
TableFormat = Literal["auto", "csv", "tsv", "jsonl", "python", "parquet", "atomic"]
Ids = Literal["auto", "text", "stripped", "integer"]
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


Paths = Path | list[Path]
"""A file, a folder or a pattern, or several of these."""


def paths_of(paths: Paths | None) -> list[Path]:
    """The paths as given, in the order of reading."""
    return paths if isinstance(paths, list) else [paths] if paths is not None else []


def files_of(paths: Paths | None, key: str) -> list[Path]:
    """See `FileSettings.files`."""
    files = [file for path in paths_of(paths) for file in expand(path, key)]
    twice = next((file for file, times in Counter(files).items() if times > 1), None)
    if twice is not None:
        raise DataError(f"{twice}: named twice in {key}: name it once")
    return files


class FileSettings(Settings):
    """How files of one layout are read."""

    path: Paths
    """a file, a folder (its files in sorted order, without names that begin with . or _), a pattern
    (`log/*/part-*.parquet`), or a list of these, read in this order; relative to the current
    directory; .gz, .zst, .bz2 and .xz are unpacked while they are read"""
    separator: str | None = Field(default=None, min_length=1, max_length=8)
    """one or several characters; unset: comma for csv, tab for tsv and atomic. With several (`::`),
    quotes are text"""
    has_header: bool = True
    """false: columns are named by number, from 0"""
    encoding: str = "utf-8"
    """of text files: utf-8, latin-1, cp1252, utf-16, …"""
    escape: str | None = Field(default=None, min_length=1, max_length=1)
    """the letter before a quote that is text, often a backslash; unset: such quotes are doubled"""

    @property
    def paths(self) -> list[Path]:
        """The paths as given, in the order of reading."""
        return paths_of(self.path)

    def files(self, key: str) -> list[Path]:
        """The files. Raises DataError, which names `key`, for a path that names none, and for a
        file that is named twice.
        """
        return files_of(self.path, key)

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path | list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """Of the settings, or of their path alone."""
        settings = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{**settings}, settings["properties"]["path"]]}

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: Paths) -> Paths:
        if value == []:
            raise ValueError("no file named: give at least one path")
        return value

    @field_validator("separator")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and set(value) & set('\n\r"'):
            raise ValueError("a line end or quote cannot separate fields: choose another")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "".encode(value)
            return codecs.lookup(value).name
        except LookupError as error:
            raise ValueError(f"no such encoding: {value!r}: utf-8, latin-1, cp1252 …") from error


class LogSettings(FileSettings):
    """The interaction log. A path or list of paths stands for a log with defaults."""

    format: Format = "auto"
    """auto: by suffix (.csv .tsv .jsonl .json .parquet .inter, LightGCN's train.txt), if the
    content is of that layout; python: a dict a line, as Python prints it"""
    columns: LogColumns = LogColumns()
    time_format: str | None = None
    """unset: numbers, and dates with the year first, of RFC 2822 or of JavaScript; otherwise as
    strptime writes it (`%m/%d/%Y %H:%M`), or the unit of numbers: s, ms, us, ns"""

    @field_validator("time_format")
    @classmethod
    def _form(cls, value: str | None) -> str | None:
        if value is not None and value not in ("s", "ms", "us", "ns") and "%" not in value:
            raise ValueError('give a form like "%d/%m/%Y %H:%M", or one of s, ms, us, ns')
        return value


class TableSettings(FileSettings):
    """The texts of items or users, one a line. A path stands for a file with defaults."""

    format: TableFormat = "auto"
    """auto: by suffix (.csv .tsv .jsonl .json .parquet .item .user), if the content is of that
    layout"""
    id: ColumnName = None
    """the column that holds the id; unset: `id`, `item_id`/`user_id` or `item`/`user`"""
    fields: list[str | int] | Literal["all"] = "all"
    """the text columns to keep, in this order"""
    repeats: Literal["refuse", "first", "last"] = "refuse"
    """which row of an id that stands on several to keep; rows alike in all kept fields are one"""

    @field_validator("fields")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and len(set(map(str, value))) < len(value):
            raise ValueError("a field stands twice: name each once")
        return value


class WeightSettings(Settings):
    """What an interaction weighs in the ranking loss: its term is multiplied by it."""

    column: str
    """of the log"""
    values: dict[str, float] | Literal["number", "log"] = "number"
    """number: as the column has it; log: log(1 + number), for counts of plays; or what each text
    weighs: `{view: 1, transaction: 10}`. Of repeats, numbers add up and the largest of the texts'
    weights counts. Weights are divided by their mean over training interactions"""

    @field_validator("values")
    @classmethod
    def _above_zero(cls, value: Any) -> Any:
        wrong = isinstance(value, dict) and next(
            (k for k, w in value.items() if not 0 < w < 1e9), None
        )
        if wrong or value == {}:
            raise ValueError(
                f"{wrong or 'no value named'}: give numbers above 0 (dataset.keep leaves rows out)"
            )
        return value


class DatasetSettings(Settings):
    """Files of a data set, and filters in this order: keep, missing, quarantine, rating, repeats,
    k-core.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """letters, digits, dot, dash; the folder name under the cache"""
    interactions: LogSettings
    items: TableSettings | None = None
    """Ids that the log does not have become nodes of degree 0."""
    users: TableSettings | None = None
    test: Paths | None = None
    """held-out log of a given split, one or several paths as `interactions`, and laid out as it
    (LightGCN: test.txt); needs no times"""
    valid: Paths | None = None
    """validation log of a given split; needs `test`"""
    keep: dict[str, list[str | bool | float]] = Field(default_factory=dict)
    """column of the log → the values whose rows are kept: `{event: [transaction]}`"""
    weights: WeightSettings | None = None
    """unset: all interactions weigh the same"""
    missing: list[str] = Field(default_factory=list)
    """texts that stand for none: `[NA, "", NULL]`. Rows of the log that have one of them as user,
    item, time or rating are dropped and counted; "" is an empty field"""
    user_ids: Ids = "auto"
    """text: as written; stripped: without blanks around; integer: numbers, so that 007, 7.0 and 7
    are one; auto: as text, but 7.0 is 7 where all ids of a file have the .0 that pandas adds to
    integers, and those of the other files are integers"""
    item_ids: Ids = "auto"
    """as user_ids"""
    min_rating: float | None = None
    """rows with a lower rating are dropped (true is 1, false 0); unset: every row is an
    interaction"""
    repeats: Literal["first", "last"] = "first"
    """which of several interactions of a user with an item to keep"""
    k_core: int = Field(default=0, ge=0)
    """users and items with fewer are dropped, repeatedly, until none remains; 0: off"""
    memory_mb: int = Field(default=0, ge=0)
    """above 0: a Parquet log is prepared in blocks of about this size; 0: all at once"""
    max_bad_rows: int = Field(default=0, ge=0)
    """malformed rows of all files allowed in quarantine.jsonl; one more is an error"""

    def content(self) -> dict[str, Any]:
        """The settings that the data set's key depends on."""
        unset = {"weights"} if self.weights is None else set()
        return self.model_dump(mode="json", exclude={"memory_mb", *unset})

    def ids_of(self, side: str) -> Ids:
        """How the ids of a side ("user", "item") are read."""
        return self.user_ids if side == "user" else self.item_ids

    @field_validator("test", "valid")
    @classmethod
    def _some_path(cls, value: Paths | None) -> Paths | None:
        if value == []:
            raise ValueError("no file named: give at least one path, or leave it out")
        return value

    @field_validator("keep")
    @classmethod
    def _some_values(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        empty = next((name for name, values in value.items() if not values), None)
        if empty is not None:
            raise ValueError(f"{empty}: no value named: give at least one, or leave it out")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "DatasetSettings":
        if self.valid is not None and self.test is None:
            raise ValueError(
                "dataset.valid is given without dataset.test: a given split needs its test file"
            )
        if self.weights is not None and self.memory_mb:
            raise ValueError(
                "dataset.weights with dataset.memory_mb: weights are not streamed: leave one out"
            )
        if self.test is not None and self.k_core > 1:
            raise ValueError(
                "dataset.k_core with dataset.test: a k-core would change the given split: leave "
                "one out"
            )
        return self
