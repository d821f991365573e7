"""The commit protocol: shares made durable one by one, then one file whose appearance makes the checkpoint exist.

Order is all: every share is fsynced before its `done` file names it, every `done` is there before the manifest, the
manifest before COMMIT. A kill at any point leaves either no COMMIT, and so no checkpoint, or a whole one.
Ranks meet through files of their attempt alone, so a dead rank is a time-out here and never a hung collective.
"""

import errno
import hashlib
import os
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
from recmind_dist.storage import fsync_directory, read_json, write_bytes, write_json
from recmind_dist.types import Rank

POLL_S = 0.02
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


def write_done(
    path: Path, rank: Rank, row_range: tuple[int, int], entry: dict[str, Any], tensors: dict[str, Any]
) -> None:
    """Says that rank's rows are durable.

    Args:
        path: the attempt's directory; entry: size and sha256 of the file; tensors: name → [dtype, shape of one row].
    """
    write_json(path / done_file(rank), {"row_range": list(row_range), "tensors": tensors, **entry})


def wait_for(
    path: Path, names: list[str], wait_s: float, what: Callable[[list[str]], str], abandoned: Callable[[], bool]
) -> None:
    """Returns when all `names` are in `path`.

    Raises:
        CheckpointError: `wait_s` is over (`what` words the missing names), another rank gave the attempt up, or this
            process did (`abandoned`).
    """
    deadline = time.monotonic() + wait_s
    missing = names
    while missing := [name for name in missing if not (path / name).is_file()]:
        if (path / FAILED).exists() or not path.is_dir():
            raise CheckpointError(f"{path}: given up by another rank: see that rank's log")
        if abandoned():
            raise CheckpointError(f"{path}: given up: the run is closing")
        if time.monotonic() > deadline:
            raise CheckpointError(f"{path}: {what(missing)} after {wait_s:g} s (checkpoint.wait_s)")
        time.sleep(POLL_S)


def commit(path: Path, world_size: int, num_rows: int, dense: dict[str, Any], info: dict[str, Any]) -> None:
    """Rank 0, when all shares are there: manifest, then COMMIT.

    Args:
        dense: size and sha256 of the dense file; info: plain data for the reader.
    Raises:
        CheckpointError: the shares do not tile the table, or hold different tensors.
    """
    shares = [read_json(path / done_file(rank), CheckpointError) for rank in range(world_size)]
    try:
        check_ranges([tuple(share["row_range"]) for share in shares], num_rows)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}: ranks disagree on the partition") from error
    for rank, share in enumerate(shares):
        if share["tensors"] != shares[0]["tensors"]:
            raise CheckpointError(f"{path / rows_file(rank)}: other tensors than rank 0: ranks run different configs")
    files = {rows_file(rank): {key: share[key] for key in ("bytes", "sha256")} for rank, share in enumerate(shares)}
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "sequence": next_sequence(path.parent),
        "world_size": world_size,
        "num_rows": num_rows,
        "row_ranges": [share["row_range"] for share in shares],
        "files": {**files, DENSE: dense},
        "info": info,
    }
    write_json(path / MANIFEST, manifest)
    fsync_directory(path)
    faults.check("commit", 0, step_of(path.name) or 0)
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
        with (path / COMMIT).open("xb") as file:  # file systems without links, where a kill may leave it empty
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
                continue  # damaged: the reader names it, and it can never be taken for the newest good one
    return greatest + 1
