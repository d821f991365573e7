"""Which checkpoints stay. Others lose COMMIT first, so that a kill leaves no half checkpoint."""

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recmind_dist.checkpoint.layout import COMMIT, attempt_directories, step_of
from recmind_dist.checkpoint.manifest import Manifest, read_commit
from recmind_dist.errors import CheckpointError
from recmind_dist.storage import fsync_directory, moment_lock
from recmind_dist.storage.lock import NAME as LOCK

log = logging.getLogger(__name__)


def score_of(info: Mapping[str, Any]) -> float | None:
    """The validation score in a checkpoint's info (higher is better); None if it has none."""
    score = info.get("score")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        return None
    return float(score)


def kept(manifests: Mapping[Path, Manifest], keep_last: int) -> set[Path]:
    """The paths to keep: the newest by sequence, and the best by score, of equal ones the newer."""
    newest = sorted(manifests, key=lambda path: manifests[path].sequence, reverse=True)
    scored = [path for path in newest if score_of(manifests[path].info) is not None]
    best = sorted(scored, key=lambda path: score_of(manifests[path].info) or 0.0, reverse=True)
    return {*newest[: max(keep_last, 1)], *best[:1]}


def prune(directory: Path, committed: str, keep_last: int) -> None:
    """Rank 0, just after the commit of `committed`: deletes what retention does not keep.

    Directories without COMMIT go too, up to the step of `committed`: other ranks may be writing
    later ones. Damaged checkpoints stay for inspection.
    """
    manifests: dict[Path, Manifest] = {}
    for path in attempt_directories(directory):
        if path.is_symlink():
            continue
        if not (path / COMMIT).exists():
            if path.name != committed and (step_of(path.name) or 0) <= (step_of(committed) or 0):
                remove_uncommitted(path)
            continue
        try:
            manifests[path] = read_commit(path)
        except CheckpointError as error:
            log.warning("%s", error)
    # the one just committed stays: only its bytes were hashed a moment ago
    for path in set(manifests) - kept(manifests, keep_last) - {directory / committed}:
        remove(path)


def remove(path: Path) -> None:
    """Deletes a checkpoint, COMMIT first. Of a symbolic link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    (path / COMMIT).unlink(missing_ok=True)
    fsync_directory(path)
    shutil.rmtree(path)


def remove_uncommitted(path: Path) -> None:
    """Deletes a dead attempt, unless a worker of the start before has just committed it."""
    if path.is_dir():
        with moment_lock(path):
            if (path / COMMIT).exists():
                return
            for file in path.iterdir():
                if file.name != LOCK and not file.is_dir():
                    file.unlink(missing_ok=True)
    remove(path)
