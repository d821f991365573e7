"""metrics.jsonl: the truth about a run, one JSON object a line, appended and flushed line by line."""

import json
import logging
import math
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.types import Rank

log = logging.getLogger(__name__)
_CRC = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


class MetricsLog:
    """Appends to one file; safe to call from several threads of one process.

    A full disk does not stop the run: lines that cannot be written are counted, and the first of a
    row is logged.

    Args:
        path: metrics.jsonl; clock: unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.lost_lines = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._disk_refuses = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        self._torn = _ends_torn(self.path)

    def log(self, kind: str, **fields: Any) -> None:
        """Writes {"time": unix seconds, "kind": kind, **fields}. NaN and infinities become null,
        arrays lists.
        """
        record = {"time": round(self._clock(), 3), "kind": kind, **fields}
        line = (
            _with_crc(json.dumps(plain(record), ensure_ascii=False, allow_nan=False).encode())
            + b"\n"
        )
        with self._lock:
            self._write(line)

    def close(self) -> None:
        """Closes the file; logs how many lines a full disk has cost."""
        self._file.close()
        if self.lost_lines:
            log.warning("%s: %d lines were lost to write errors", self.path, self.lost_lines)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        data = (
            b"\n" + line if self._torn else line
        )  # a line cut short by a kill must not swallow this one
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
    """Brings a worker's warnings into metrics.jsonl, where whoever follows the run sees them.

    Args:
        path: metrics.jsonl; rank: of the worker.
    """

    def __init__(self, path: Path, rank: Rank) -> None:
        super().__init__(logging.WARNING)
        self._metrics, self._rank = MetricsLog(path), rank

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one warning, unless it is about the log itself."""
        if record.name != __name__:
            self._metrics.log("warning", rank=self._rank, message=record.getMessage())

    def close(self) -> None:
        """Closes the file."""
        self._metrics.close()
        super().close()


class Heartbeat:
    """While it lasts, a thread writes a record of kind "heartbeat" every so often: a run that hangs
    shows by its silence
    of steps, one that is dead by its silence altogether.

    Args:
        metrics: of rank 0, None elsewhere, where nothing is done; every_s: seconds; state: called
        for the record's fields.
    """

    def __init__(
        self, metrics: MetricsLog | None, every_s: float, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._metrics, self._every_s, self._state = metrics, every_s, state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> "Heartbeat":
        if self._metrics is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._metrics is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every_s):
            if self._metrics is not None:
                self._metrics.log("heartbeat", **self._state())


def read_metrics(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Records in order, of one kind or all. A line cut short by a kill is skipped with a warning
    that names it.

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
            log.warning(
                "%s:%d: not a line as written (%d bytes), cut short or damaged: skipped",
                path,
                number,
                len(line),
            )
        elif kind is None or record.get("kind") == kind:
            yield record


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A record of metrics.jsonl without its "crc32"; None if it is damaged. Lines of older programs
    have no crc32.
    """
    found = _CRC.search(line)
    if found is not None and found.group(1) != _crc(line[: found.start()] + b"}"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict):
        record.pop("crc32", None)
        return record
    return None


def has_crc(line: bytes) -> bool:
    """Whether a line of metrics.jsonl can be verified."""
    return _CRC.search(line) is not None


def _crc(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


def _with_crc(body: bytes) -> bytes:
    """A JSON object with the CRC-32 of its own bytes as last key: a flipped bit must not pass for a
    figure.
    """
    return body[:-1] + b', "crc32": "' + _crc(body) + b'"}'


def plain(value: Any) -> Any:
    """Plain JSON data: scalars and arrays of numpy or torch become numbers and lists, what is not
    finite null.
    """
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
