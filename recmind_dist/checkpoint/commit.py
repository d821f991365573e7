"""The commit protocol: ranks make their shares durable, then one file makes the checkpoint exist.

The order: a share is fsynced before its `done` file, all `done` files are there before the
manifest, the manifest before COMMIT. A kill leaves no COMMIT, and so no checkpoint, or a whole one.
COMMIT is made, and a share is removed, under the attempt's lock: a rank that gives up never removes
what COMMIT names. Ranks wait for files of the attempt, not in collectives, so a dead rank is a
time-out. A wait costs some seventy listings in ten minutes, whatever the number of ranks.
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

_MIN_PAUSE_S = 0.02
_MAX_PAUSE_S = 15.0
_GIVEN_UP = "given up by another rank: see that rank's log"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


def write_done(
    path: Path,
    rank: Rank,
    row_range: tuple[int, int],
    entry: dict[str, Any],
    tensors: dict[str, Any],
) -> None:
    """Declares a rank's rows durable.

    Args:
        path: the attempt's directory
        entry: size and sha256 of the rows file
        tensors: name → [dtype, shape of one row]
    """
    write_json(path / done_file(rank), {"row_range": list(row_range), "tensors": tensors, **entry})


class Closing:
    """Whether the run is ending, and how long its last save then waits for other ranks."""

    def __init__(self) -> None:
        self.patience_s = 0.0
        self._begun = threading.Event()

    def begin(self, patience_s: float) -> None:
        """From now on a save waits `patience_s` for the others once this rank's share is there."""
        self.patience_s = patience_s
        self._begun.set()

    def begun(self) -> bool:
        return self._begun.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleeps, and wakes up when the run begins to end."""
        if self._begun.is_set():
            time.sleep(seconds)
        else:
            self._begun.wait(seconds)


def wait_for(
    path: Path, names: list[str], wait_s: float, what: Callable[[list[str]], str], closing: Closing
) -> None:
    """Returns when all `names` are in `path`.

    Args:
        what: puts the missing names into words
    Raises:
        CheckpointError: the time is over, by `wait_s` or `closing`; or another rank gave the
            attempt up.
    """
    start = time.monotonic()
    limit_s, why = wait_s, ""
    while missing := _missing(path, names):
        waited_s = time.monotonic() - start
        if closing.begun() and waited_s + closing.patience_s < limit_s and not why:
            limit_s, why = waited_s + closing.patience_s, " (the run is closing)"
        if waited_s > limit_s:
            raise CheckpointError(f"{path}: {what(missing)} after {round(limit_s, 1):g} s{why}")
        closing.sleep(min(pause_s(waited_s), max(limit_s - waited_s, _MIN_PAUSE_S)))


def pause_s(waited_s: float) -> float:
    """Seconds between looks: short in the first second, then an eighth of the wait so far."""
    if waited_s < 1:
        return max(_MIN_PAUSE_S, waited_s / 2)
    return min(max(1.0, waited_s / 8), _MAX_PAUSE_S)


def _missing(path: Path, names: list[str]) -> list[str]:
    """The `names` that are not there, by one listing where there are several.

    Raises:
        CheckpointError: another rank gave the attempt up.
    """
    if len(names) == 1:
        if (path / names[0]).is_file():
            return []
        missing = names
        given_up = (path / FAILED).exists() or not path.is_dir()
    else:
        try:
            present = set(os.listdir(path))
        except FileNotFoundError:
            present = {FAILED}
        missing = [name for name in names if name not in present]
        given_up = FAILED in present and bool(missing)
    if given_up:
        raise CheckpointError(f"{path}: {_GIVEN_UP}")
    return missing


def take_back(path: Path, names: list[str]) -> None:
    """A rank gives up: removes its `names` in order, and leaves FAILED. Not after COMMIT.

    The directory stays for the next prune: a late rank would make it again, and wait in it.
    """
    try:
        with moment_lock(path):
            if (path / COMMIT).exists():
                return
            for name in names:
                (path / name).unlink(missing_ok=True)
            (path / FAILED).touch()
    except OSError as error:
        log.warning("%s: not removed; other ranks may wait to their time-out: %s", path, error)


def read_done(path: Path, world_size: int) -> list[dict[str, Any]]:
    """Rank 0: the `done` files of all ranks."""
    return [read_json(path / done_file(rank), CheckpointError) for rank in range(world_size)]


def commit(
    path: Path,
    shares: list[dict[str, Any]],
    num_rows: int,
    dense: dict[str, Any],
    info: dict[str, Any],
) -> None:
    """Rank 0, when all shares are there: writes the manifest, then COMMIT.

    Args:
        shares: see `read_done`
        dense: size and sha256 of the dense file
        info: plain data for the reader
    Raises:
        CheckpointError: the shares do not tile the table, or hold different tensors; or a rank gave
            up.
    """
    try:
        check_ranges([tuple(share["row_range"]) for share in shares], num_rows)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}: ranks disagree on the partition") from error
    for rank, share in enumerate(shares):
        if share["tensors"] != shares[0]["tensors"]:
            raise CheckpointError(
                f"{path / rows_file(rank)}: other tensors than rank 0: ranks run different configs"
            )
    files = {
        rows_file(rank): {key: share[key] for key in ("bytes", "sha256")}
        for rank, share in enumerate(shares)
    }
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "sequence": next_sequence(path.parent),
        "world_size": len(shares),
        "num_rows": num_rows,
        "row_ranges": [share["row_range"] for share in shares],
        "files": {**files, DENSE: dense},
        "info": info,
    }
    write_json(path / MANIFEST, manifest)
    fsync_directory(path)
    faults.check("commit", 0, step_of(path.name) or 0)
    with moment_lock(path):
        if not {*files, *map(done_file, range(len(shares)))} <= set(os.listdir(path)):
            raise CheckpointError(f"{path}: {_GIVEN_UP}")
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
        # a file system without links, where a kill may leave COMMIT empty
        with (path / COMMIT).open("xb") as file:
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
                continue  # damaged: the reader names it, and never takes it
    return greatest + 1
