"""Names on disk: `<checkpoints>/step-00001234.<attempt>/`, and the files in it.

rows-00000.safetensors   one per rank: its rows of every tensor
rows-00000.done.json     one per rank, once its rows are durable: size, sha256, range
dense.safetensors        rank 0: tensors that are not stored by row
manifest.json            written when all shares are there (manifest.py)
FAILED                   a rank gave the attempt up; the others need not wait
COMMIT                   sha256 of the manifest; readers ignore a directory without it
.lock                    held while COMMIT is made, or while a rank that gives up removes its files
"""

import re
from pathlib import Path

from recmind_dist.errors import CheckpointError
from recmind_dist.types import Rank

COMMIT = "COMMIT"
FAILED = "FAILED"
DENSE = "dense.safetensors"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,18})\.([0-9a-z]{8})")


def attempt_name(step: int, attempt: str) -> str:
    """The directory name of one attempt to save.

    Args:
        step: optimizer steps done
        attempt: 8 or more letters a–z and digits, the same on every rank, drawn anew at each start
            of the workers so that files of a dead start are never taken for ours
    """
    name = f"step-{step:08d}.{attempt[:8]}"
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"attempt {attempt!r} at step {step}: give 8 letters a-z or digits, and a step >= 0"
        )
    return name


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name; None for other names, so for `..` and absolute paths."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def rows_file(rank: Rank) -> str:
    return f"rows-{rank:05d}.safetensors"


def done_file(rank: Rank) -> str:
    """A file that declares a rank's rows durable."""
    return f"rows-{rank:05d}.done.json"


def attempt_directories(directory: Path) -> list[Path]:
    """Directories named as checkpoints, committed or not, by name. Follows no symbolic links."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise CheckpointError(
            f"{directory}: not a directory of checkpoints: give a run's checkpoints/ directory"
        )
    if not directory.exists():
        return []
    try:
        return sorted(path for path in directory.iterdir() if step_of(path.name) is not None)
    except OSError as error:
        raise CheckpointError(
            f"{directory}: cannot be read ({error.strerror}): check the disk"
        ) from error
