"""Finds and reads checkpoints: uses one that verifies, names those that do not."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recmind_dist.checkpoint.layout import COMMIT, DENSE, attempt_directories, rows_file, step_of
from recmind_dist.checkpoint.manifest import Manifest, OtherSchemaError, read_commit
from recmind_dist.checkpoint.retention import score_of
from recmind_dist.checkpoint.shards import read_rows, read_shard, shard_layout
from recmind_dist.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint, open for reading on any number of ranks."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Directory name, as `find_checkpoint` takes it."""
        return self.path.name

    @property
    def step(self) -> int:
        """Optimizer steps done when it was saved."""
        return step_of(self.path.name) or 0

    @property
    def score(self) -> float | None:
        """Validation score at that time, if there was one."""
        return score_of(self.manifest.info)

    @property
    def info(self) -> dict[str, Any]:
        """What the run saved about itself: cursor, score, identity, config, inputs."""
        return self.manifest.info

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return self.manifest.num_rows

    def dense(self) -> dict[str, Tensor]:
        """All tensors that are not stored by row."""
        return read_shard(self.path / DENSE)

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows [start, stop) of every tensor stored by row. Shapes: [stop - start, …]."""
        if not 0 <= start <= stop <= self.num_rows:
            raise CheckpointError(
                f"{self.path}: rows {start} to {stop} asked for, the table has {self.num_rows}"
            )
        ranges = enumerate(self.manifest.row_ranges)
        shards = [(self.path / rows_file(rank), first, end) for rank, (first, end) in ranges]
        return read_rows(shards, start, stop)


def open_checkpoint(path: Path, verify: bool = True) -> Checkpoint:
    """Opens one checkpoint directory.

    Args:
        verify: whether to hash every file
    Raises:
        CheckpointError: not a checkpoint, not committed, damaged, or of another schema.
    """
    checkpoint = open_manifest(path)
    manifest = checkpoint.manifest
    if verify:
        manifest.verify_files(path)
    for rank, (start, stop) in enumerate(manifest.row_ranges):
        for name, (_, shape) in shard_layout(path / rows_file(rank)).items():
            if not shape or shape[0] != stop - start:
                raise CheckpointError(
                    f"{path / rows_file(rank)}: {name} has shape {shape}, not {stop - start} rows"
                )
    shard_layout(path / DENSE)
    return checkpoint


def open_manifest(path: Path) -> Checkpoint:
    """As `open_checkpoint`, without its other files, which are checked when they are read."""
    if path.is_symlink() or not path.is_dir() or step_of(path.name) is None:
        raise CheckpointError(
            f"{path}: not a checkpoint directory: give one named step-<step>.<attempt>"
        )
    if not (path / COMMIT).exists():
        raise CheckpointError(
            f"{path}: never committed: its save was cut short, use another checkpoint"
        )
    return Checkpoint(path, read_commit(path))


def find_checkpoint(directory: Path, which: str = "last", verify: bool = True) -> Checkpoint | None:
    """The checkpoint to go on from; None if none was ever committed.

    Args:
        directory: a run's checkpoints/
        which: "last", "best" (by info["score"]; the newest if none has one), or a name
        verify: whether to hash every file of the one that is returned
    Raises:
        CheckpointError: there are checkpoints, none good; the named one is not good; or one is of a
            other schema.
    """
    directory = Path(directory)
    paths, faults = candidates(directory, which)
    if which not in ("last", "best"):
        return open_checkpoint(paths[0], verify)
    for path in paths:
        try:
            return open_checkpoint(path, verify)
        except OtherSchemaError:
            raise
        except CheckpointError as error:
            faults.append(error)
            log.warning("%s; trying the next checkpoint", error)
    if faults:
        raise CheckpointError(
            f"{directory}: {len(faults)} checkpoint(s), none is good: {faults[0]}"
        ) from faults[0]
    return None


def candidates(directory: Path, which: str) -> tuple[list[Path], list[CheckpointError]]:
    """Checkpoints with a readable manifest, preferred first, and the faults of others. Hashes no
    data.

    Raises:
        CheckpointError: `which` is no name.
        OtherSchemaError: a checkpoint is of another schema.
    """
    if which not in ("last", "best"):
        if step_of(which) is None:
            raise CheckpointError(
                f"checkpoint {which!r}: give last, best, or a name like step-00001234.0a1b2c3d"
            )
        return [directory / which], []
    faults, readable = _readable(directory)
    return [path for path, _ in _by_preference(readable, which)], faults


def _readable(directory: Path) -> tuple[list[CheckpointError], list[tuple[Path, Manifest]]]:
    faults: list[CheckpointError] = []
    readable: list[tuple[Path, Manifest]] = []
    for path in attempt_directories(directory):
        try:
            if path.is_symlink():
                raise CheckpointError(
                    f"{path}: a symbolic link: not followed, copy the checkpoint itself"
                )
            if (path / COMMIT).is_symlink() or (path / COMMIT).exists():
                readable.append((path, read_commit(path)))
        except OtherSchemaError:
            raise
        except CheckpointError as error:
            faults.append(error)
            log.warning("%s; skipped", error)
    return faults, readable


def _by_preference(
    readable: list[tuple[Path, Manifest]], which: str
) -> list[tuple[Path, Manifest]]:
    newest = sorted(readable, key=lambda found: found[1].sequence, reverse=True)
    if which == "last":
        return newest
    scored = [found for found in newest if score_of(found[1].info) is not None]
    if newest and not scored:
        log.warning("%s: no checkpoint has a score: using the newest", newest[0][0].parent)
        return newest
    return sorted(scored, key=lambda found: score_of(found[1].info) or 0.0, reverse=True)
