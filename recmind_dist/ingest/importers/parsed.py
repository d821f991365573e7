"""What a block of lines becomes: text columns with line numbers, and malformed lines."""

from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from recmind_dist.ingest.importers.sources import Block
from recmind_dist.ingest.rows import CLIP, LINE


@dataclass
class Parsed:
    """Text columns and `LINE`; malformed lines as (line, reason, beginning)."""

    frame: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={LINE: pl.Int64}))
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def refuse(self, line: int, reason: str, text: str) -> None:
        """Counts a malformed line."""
        self.bad.append((line, reason, text[:CLIP]))


class Reader(Protocol):
    """Reads the blocks of one file, in order."""

    def parse(self, block: Block) -> Parsed:
        """The rows of a block. The first block of a file has its header, if it has one."""

    def finish(self) -> Parsed:
        """The rows of lines that waited for a next block."""
