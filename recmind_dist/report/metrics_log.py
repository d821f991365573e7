"""metrics.jsonl: the record of a run, one JSON object a line, written line by line."""

import json
import logging
import math
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.types import Rank

log = logging.getLogger(__name__)
_CRC = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


class MetricsLog:
    """Appends to metrics.jsonl. Threads of one process may share it.

    A full disk does not stop the run: lost lines are counted, and the first in a row is logged.

    Args:
        clock: returns unix seconds.

    Attributes:
        observers: each is called with every record, by the thread that logs it, and raises nothing.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.lost_lines = 0
        self.observers: list[Callable[[dict[str, Any]], None]] = []
        self._clock = clock
        self._lock = threading.Lock()
        self._disk_refuses = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        self._torn = _ends_torn(self.path)

    def log(self, kind: str, **fields: Any) -> None:
        """Writes {"time": unix seconds, "kind": kind, **fields}, made plain by `plain`."""
        record: dict[str, Any] = plain({"time": round(self._clock(), 3), "kind": kind, **fields})
        body = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        with self._lock:
            self._write(_with_crc(body) + b"\n")
        for observe in self.observers:
            observe(record)

    def close(self) -> None:
        """Closes the file; logs the number of lost lines, if any."""
        self._file.close()
        if self.lost_lines:
            log.warning("%s: %d lines were lost to write errors", self.path, self.lost_lines)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line  # ends a line that a kill cut short
        try:
            written = self._file.write(data)
            self._torn = written != len(data)
            lost = self._torn
        except OSError as error:
            lost = True
            if not self._disk_refuses:
                log.warning(
                    "%s: cannot be written (%s): training goes on without it", self.path, error
                )
        self._disk_refuses = lost
        self.lost_lines += lost


class WarningsToMetrics(logging.Handler):
    """Writes a worker's warnings to metrics.jsonl, so that they reach the user's terminal."""

    def __init__(self, path: Path, rank: Rank) -> None:
        super().__init__(logging.WARNING)
        self._metrics = MetricsLog(path)
        self._rank = rank

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one warning, unless it is about the log itself."""
        if record.name != __name__:
            self._metrics.log("warning", rank=self._rank, message=record.getMessage())

    def close(self) -> None:
        """Closes the file."""
        self._metrics.close()
        super().close()


class Heartbeat:
    """Inside the block a thread writes a record of kind "heartbeat" at intervals.

    A run with heartbeats but no steps hangs; one without heartbeats is dead.

    Args:
        metrics: None on ranks other than 0, which write none.
        every_s: interval.
        state: returns the record's fields.
    """

    def __init__(
        self, metrics: MetricsLog | None, every_s: float, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._metrics = metrics
        self._every_s = every_s
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> "Heartbeat":
        if self._metrics is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._metrics is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every_s):
            if self._metrics is not None:
                self._metrics.log("heartbeat", **self._state())


def read_metrics(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Records of one kind, or all, in order. Skips damaged lines with a warning that names them.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}): give a run directory's metrics.jsonl"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = parse_line(line)
        if record is None:
            fault = f"not a line as written ({len(line)} bytes), cut short or damaged"
            log.warning("%s:%d: %s: skipped", path, number, fault)
        elif kind is None or record.get("kind") == kind:
            yield record


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A record of metrics.jsonl without its "crc32"; None if the line is damaged."""
    found = _CRC.search(line)
    if found is None or found.group(1) != _crc(line[: found.start()] + b"}"):
        return None
    try:
        record: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        return None
    del record["crc32"]
    return record


def _crc(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


def _with_crc(body: bytes) -> bytes:
    """Adds the CRC-32 of a JSON object's bytes as its last key, so that flipped bits are found."""
    return body[:-1] + b', "crc32": "' + _crc(body) + b'"}'


def plain(value: Any) -> Any:
    """JSON data: numpy and torch values become numbers and lists, NaN and infinities None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"
