"""What an importer is: the kinds of files that a publisher has, and what becomes of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from recmind_dist.ingest.importers.columns import Column
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.json_lines import JsonLines
from recmind_dist.ingest.importers.sources import Source

TABLES = ("items", "users", "interactions")


class Gatherer(Protocol):
    """Interactions that can be told only once a whole file has been read."""

    def take(self, frame: pl.DataFrame) -> None:
        """Sees the raw columns of a block."""

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows, with the columns of the interactions, after the last block."""

    @property
    def sentence(self) -> str:
        """What these rows are, for people."""


@dataclass(frozen=True)
class Lookup:
    """A file that says which ids the numbers of another one stand for.

    Attributes:
        kind: its name.
        column: of the other file, whose values it replaces.
        key, value: its own columns.
    """

    kind: str
    column: str
    key: str
    value: str


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: as in "reviews".
        interactions, items, users: the columns of these tables that the file gives; empty: none.
        rows: raw columns → raw columns: what one line holds several times, flags to words.
        aside: reasons that are no faults of a line, as "no click": counted apart.
        unused: why a file of this kind is left out, if it gives no table.
        gather: makes what gathers further interactions.
        lookup: what its item ids must go through before they meet the items' texts.
    """

    name: str
    layout: JsonLines | Delimited
    interactions: tuple[Column, ...] = ()
    items: tuple[Column, ...] = ()
    users: tuple[Column, ...] = ()
    rows: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    aside: tuple[str, ...] = ()
    unused: str = ""
    gather: Callable[[], Gatherer] | None = None
    lookup: Lookup | None = None

    def columns(self, table: str) -> tuple[Column, ...]:
        """Of one of `TABLES`."""
        found: tuple[Column, ...] = getattr(self, table)
        return found

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that the file gives, the one whose rows are counted first."""
        order = ("interactions", "items", "users")
        return tuple(table for table in order if self.columns(table))


@dataclass(frozen=True)
class Importer:
    """The files of one publisher.

    Attributes:
        name: on the command line.
        title: for people.
        kinds: the first that recognises a file counts.
        template: text of an item, by columns of its table; "": none has texts.
        remarks: comments of the config, each a key that is worth setting and why.
        by: the command, if it is not `recmind import`.
    """

    name: str
    title: str
    kinds: tuple[Kind, ...]
    template: str = ""
    remarks: tuple[str, ...] = ()
    by: str = ""

    @property
    def command(self) -> str:
        """What writes the config."""
        return self.by or f"recmind import {self.name}"

    def kind_of(self, source: Source) -> Kind | None:
        """What a file is, by its first lines."""
        return next((kind for kind in self.kinds if kind.layout.recognises(source.head)), None)
