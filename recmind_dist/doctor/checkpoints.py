"""Reads every checkpoint of a run in full: which are good, damaged, or unfinished."""

from dataclasses import dataclass
from pathlib import Path

from recmind_dist.checkpoint.layout import COMMIT, attempt_directories
from recmind_dist.checkpoint.manifest import OtherSchemaError
from recmind_dist.checkpoint.reader import Checkpoint, open_checkpoint
from recmind_dist.errors import CheckpointError


@dataclass(frozen=True)
class CheckpointFault:
    """A checkpoint that cannot be used; `sentence` names the file."""

    path: Path
    sentence: str
    damaged: bool = True
    """False if it may be whole: another version wrote it, or the disk fails."""


@dataclass(frozen=True)
class CheckpointAudit:
    """The checkpoints of a run."""

    good: list[Checkpoint]
    """Newest first."""
    faults: list[CheckpointFault]
    unfinished: list[Path]
    """Directories without COMMIT, which readers ignore."""


def audit_checkpoints(directory: Path) -> CheckpointAudit:
    """Hashes every file that a reader of these checkpoints would read.

    Raises:
        CheckpointError: `directory` is there and is no directory.
    """
    good, faults, unfinished = [], [], []
    for path in attempt_directories(directory):
        commit = path / COMMIT
        has_commit = commit.is_symlink() or commit.exists()
        if path.is_dir() and not path.is_symlink() and not has_commit:
            unfinished.append(path)
            continue
        try:
            good.append(open_checkpoint(path))
        except (CheckpointError, OSError) as error:
            causes = (error, error.__cause__)
            maybe_whole = any(isinstance(e, (OtherSchemaError, OSError)) for e in causes)
            faults.append(CheckpointFault(path, str(error), damaged=not maybe_whole))
    good.sort(key=lambda checkpoint: checkpoint.manifest.sequence, reverse=True)
    return CheckpointAudit(good, faults, unfinished)
