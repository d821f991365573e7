"""What was read of each file and what was set aside, by reason and line."""

import json
from dataclasses import dataclass, field
from typing import IO, Any

from recmind_dist.errors import DataError


@dataclass
class Reason:
    """How many rows were set aside for one reason, and the first of them."""

    count: int
    line: int
    text: str


@dataclass
class FileCounts:
    """rows_in = rows_kept + the rows of all reasons."""

    file: str
    kind: str
    rows_in: int = 0
    rows_kept: int = 0
    reasons: dict[str, Reason] = field(default_factory=dict)

    @property
    def set_aside(self) -> int:
        """All rows that were not kept."""
        return sum(reason.count for reason in self.reasons.values())

    def lines(self) -> list[str]:
        """For people."""
        counts = f"{self.rows_in:,} rows in = {self.rows_kept:,} kept + {self.set_aside:,}"
        said = [f"{self.file} ({self.kind}): {counts} set aside"]
        for words, reason in self.reasons.items():
            said.append(f"  {reason.count:,}: {words}, first at {self.file}:{reason.line}")
        return said

    def plain(self) -> dict[str, Any]:
        """For import.json."""
        reasons = {
            words: {"rows": reason.count, "first_line": reason.line, "text": reason.text}
            for words, reason in self.reasons.items()
        }
        counts = {"rows_in": self.rows_in, "rows_kept": self.rows_kept, "set_aside": reasons}
        return {"file": self.file, "kind": self.kind, **counts}


class SetAside:
    """Rows that were not kept: a line each in set_aside.jsonl.

    Args:
        out: where they are written.
        limit: malformed rows of all files allowed.
    """

    def __init__(self, out: IO[str], limit: int) -> None:
        self._out = out
        self._limit = limit
        self._malformed = 0

    def add(self, counts: FileCounts, line: int, reason: str, text: str, malformed: bool) -> None:
        """Counts a row. Raises DataError for one malformed row more than allowed."""
        known = counts.reasons.setdefault(reason, Reason(0, line, text))
        known.count += 1
        record = {"file": counts.file, "line": line, "reason": reason, "text": text}
        self._out.write(json.dumps(record) + "\n")
        self._malformed += malformed
        if self._malformed > self._limit:
            raise DataError(
                f"{counts.file}:{line}: {reason}: more than --max-bad-rows {self._limit} malformed "
                "rows: mend the file, fetch it again, or raise --max-bad-rows; nothing was written"
            )
