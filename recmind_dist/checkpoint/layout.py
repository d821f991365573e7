"""Names on disk: `<checkpoints>/step-00001234.<attempt>/`, and what lies in it.

rows-00000.safetensors    one a rank: every tensor's rows of that rank's range
rows-00000.done.json      that rank's word that its rows are durable: size, sha256, range
dense.safetensors         rank 0: all that is not by row manifest.json             written when all
shares are there (manifest.py) FAILED                    a rank gave this attempt up; the others
need not wait COMMIT                    the manifest's sha256; without it the directory does not
exist for a reader .lock                     held while COMMIT is made, and while a rank that gives
up removes its share
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
    """The directory name of one try to save.

    Args:
        step: optimizer steps done; attempt: 8 or more letters a–z and digits, equal on every rank
        and drawn afresh at
            each start of the workers, so that shares of a dead start are never taken for ours.
    """
    name = f"step-{step:08d}.{attempt[:8]}"
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"attempt {attempt!r} at step {step}: give 8 letters a-z or digits, and a step >= 0"
        )
    return name


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name; None if it is no such name (so `..` and absolute paths are
    none).
    """
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def rows_file(rank: Rank) -> str:
    """File name of a rank's rows."""
    return f"rows-{rank:05d}.safetensors"


def done_file(rank: Rank) -> str:
    """File name of a rank's word that its rows are durable."""
    return f"rows-{rank:05d}.done.json"


def attempt_directories(directory: Path) -> list[Path]:
    """All directories named as checkpoints, committed or not, by name. Symbolic links are not
    followed.
    """
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
