"""Every checkpoint of a run, read in full: which are good, which are damaged, which never came to
be.
"""

from dataclasses import dataclass
from pathlib import Path

from recmind_dist.checkpoint.layout import COMMIT, attempt_directories
from recmind_dist.checkpoint.manifest import NewerSchemaError
from recmind_dist.checkpoint.reader import Checkpoint, open_checkpoint
from recmind_dist.errors import CheckpointError


@dataclass(frozen=True)
class CheckpointFault:
    """A checkpoint that cannot be used; `sentence` names the file.

    `damaged`: its bytes are not what was written. What a newer program wrote, or the disk will not
    give, may be whole.
    """

    path: Path
    sentence: str
    damaged: bool = True


@dataclass(frozen=True)
class CheckpointAudit:
    """`good`: newest first; `unfinished`: directories without COMMIT, which exist for no reader."""

    good: list[Checkpoint]
    faults: list[CheckpointFault]
    unfinished: list[Path]


def audit_checkpoints(directory: Path) -> CheckpointAudit:
    """Hashes every file of every checkpoint in `directory` but those that nobody reads once COMMIT
    stands.

    Raises:
        CheckpointError: `directory` is there and is no directory.
    """
    good, faults, unfinished = [], [], []
    for path in attempt_directories(directory):
        if (
            not path.is_symlink()
            and path.is_dir()
            and not (path / COMMIT).is_symlink()
            and not (path / COMMIT).exists()
        ):
            unfinished.append(path)
            continue
        try:
            good.append(open_checkpoint(path))
        except (CheckpointError, OSError) as error:
            whole = isinstance(error, (NewerSchemaError, OSError)) or isinstance(
                error.__cause__, OSError
            )
            faults.append(CheckpointFault(path, str(error), damaged=not whole))
    return CheckpointAudit(
        sorted(good, key=lambda one: one.manifest.sequence, reverse=True), faults, unfinished
    )
