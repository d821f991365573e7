"""The commit protocol: shares made durable one by one, then one file whose appearance makes the
checkpoint exist.

Order is all: every share is fsynced before its `done` file names it, every `done` is there before
the manifest, the manifest before COMMIT. A kill at any point leaves either no COMMIT, and so no
checkpoint, or a whole one. COMMIT is made, and shares are taken back, under the attempt's lock:
what COMMIT names is never removed by a rank that gives up. Ranks meet through files of their
attempt alone, so a dead rank is a time-out here and never a hung collective. A look at
them costs the storage the same whatever the number of ranks, and looks become rare: some seventy in
ten minutes.
"""

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recmind_dist import faults
from recmind_dist.checkpoint.layout import (
    COMMIT,
    DENSE,
    FAILED,
    MANIFEST,
    attempt_directories,
    done_file,
    rows_file,
    step_of,
)
from recmind_dist.checkpoint.manifest import KIND, SCHEMA, check_ranges, read_commit
from recmind_dist.errors import CheckpointError
from recmind_dist.storage import fsync_directory, moment_lock, read_json, write_bytes, write_json
from recmind_dist.types import Rank

log = logging.getLogger(__name__)

_FIRST_LOOK_S, _RARELY_S = 0.02, 15.0
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


def write_done(
    path: Path,
    rank: Rank,
    row_range: tuple[int, int],
    entry: dict[str, Any],
    tensors: dict[str, Any],
) -> None:
    """Says that rank's rows are durable.

    Args:
        path: the attempt's directory; entry: size and sha256 of the file; tensors: name → [dtype,
        shape of one row].
    """
    write_json(path / done_file(rank), {"row_range": list(row_range), "tensors": tensors, **entry})


class Closing:
    """Says that the run is ending, and for how long its last save then still waits for other ranks."""

    def __init__(self) -> None:
        self.patience_s = 0.0
        self._begun = threading.Event()

    def begin(self, patience_s: float) -> None:
        """From now on a save waits `patience_s` for the others, from the moment at which this
        rank's share is there.
        """
        self.patience_s = patience_s
        self._begun.set()

    def begun(self) -> bool:
        """Whether the run is ending."""
        return self._begun.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleeps; wakes up when the run begins to end."""
        if self._begun.is_set():
            time.sleep(seconds)
        else:
            self._begun.wait(seconds)


def wait_for(
    path: Path, names: list[str], wait_s: float, what: Callable[[list[str]], str], closing: Closing
) -> None:
    """Returns when all `names` are in `path`.

    Raises:
        CheckpointError: `wait_s` is over, or what `closing` leaves of it (`what` words the missing
        names); or another rank
            gave the attempt up.
    """
    start, limit_s, why = time.monotonic(), wait_s, ""
    while missing := _missing(path, names):
        waited_s = time.monotonic() - start
        if closing.begun() and waited_s + closing.patience_s < limit_s and not why:
            limit_s, why = waited_s + closing.patience_s, " (the run is closing)"
        if waited_s > limit_s:
            raise CheckpointError(f"{path}: {what(missing)} after {round(limit_s, 1):g} s{why}")
        closing.sleep(min(pause_s(waited_s), max(limit_s - waited_s, _FIRST_LOOK_S)))


def pause_s(waited_s: float) -> float:
    """Seconds to the next look: often in the first one, then once in one, then after an eighth of
    what was waited.
    """
    if waited_s < 1:
        return max(_FIRST_LOOK_S, waited_s / 2)
    return min(max(1.0, waited_s / 8), _RARELY_S)


def _missing(path: Path, names: list[str]) -> list[str]:
    """Which of `names` are not there, by one listing where there are many and one look where it is
    one.

    Raises:
        CheckpointError: another rank gave the attempt up.
    """
    if len(names) == 1:
        if (path / names[0]).is_file():
            return []
        given_up, missing = (path / FAILED).exists() or not path.is_dir(), names
    else:
        try:
            there = set(os.listdir(path))
        except FileNotFoundError:
            there = {FAILED}
        missing = [name for name in names if name not in there]
        given_up = FAILED in there and bool(missing)
    if given_up:
        raise CheckpointError(f"{path}: given up by another rank: see that rank's log")
    return missing


def take_back(path: Path, names: list[str]) -> None:
    """A rank gives the attempt up: removes its `names`, in order, and tells the other ranks. Not
    where COMMIT names them.

    The emptied directory goes with the next commit's pruning: a late rank would make it again and
    wait in it to the time-out.
    """
    try:
        with moment_lock(path):
            if (path / COMMIT).exists():
                return
            for name in names:
                (path / name).unlink(missing_ok=True)
            (path / FAILED).touch()
    except OSError as error:
        log.warning(
            "%s: not all taken back, or other ranks not told, who will time out: %s", path, error
        )


def read_words(path: Path, world_size: int) -> list[dict[str, Any]]:
    """Rank 0: what each rank said of its share, one file a rank."""
    return [read_json(path / done_file(rank), CheckpointError) for rank in range(world_size)]


def commit(
    path: Path,
    words: list[dict[str, Any]],
    num_rows: int,
    dense: dict[str, Any],
    info: dict[str, Any],
) -> None:
    """Rank 0, when all shares are there: manifest, then COMMIT.

    Args:
        words: see `read_words`; dense: size and sha256 of the dense file; info: plain data for the
        reader.
    Raises:
        CheckpointError: the shares do not tile the table, or hold different tensors; or a rank took
        its share back.
    """
    try:
        check_ranges([tuple(word["row_range"]) for word in words], num_rows)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}: ranks disagree on the partition") from error
    for rank, word in enumerate(words):
        if word["tensors"] != words[0]["tensors"]:
            raise CheckpointError(
                f"{path / rows_file(rank)}: other tensors than rank 0: ranks run different configs"
            )
    files = {
        rows_file(rank): {key: word[key] for key in ("bytes", "sha256")}
        for rank, word in enumerate(words)
    }
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "sequence": next_sequence(path.parent),
        "world_size": len(words),
        "num_rows": num_rows,
        "row_ranges": [word["row_range"] for word in words],
        "files": {**files, DENSE: dense},
        "info": info,
    }
    write_json(path / MANIFEST, manifest)
    fsync_directory(path)
    faults.check("commit", 0, step_of(path.name) or 0)
    with moment_lock(path):
        if not {*files, *map(done_file, range(len(words)))} <= set(os.listdir(path)):
            raise CheckpointError(f"{path}: given up by another rank: see that rank's log")
        write_commit(path)


def write_commit(path: Path) -> None:
    """Makes the checkpoint exist. Raises FileExistsError if it does already."""
    digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest().encode()
    ready = path / f"{COMMIT}.ready"
    write_bytes(ready, digest)
    try:
        os.link(ready, path / COMMIT)  # exclusive, and never seen half-written
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with (path / COMMIT).open(
            "xb"
        ) as file:  # file systems without links, where a kill may leave it empty
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
    fsync_directory(path)
    fsync_directory(path.parent)


def next_sequence(directory: Path) -> int:
    """One more than the greatest sequence of the committed checkpoints in `directory`."""
    greatest = 0
    for path in attempt_directories(directory):
        if (path / COMMIT).is_file():
            try:
                greatest = max(greatest, read_commit(path).sequence)
            except CheckpointError:
                # damaged: the reader names it, and it can never be taken for the newest good one
                continue
    return greatest + 1
