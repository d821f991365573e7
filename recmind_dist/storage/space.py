"""Room on disks, and directories that are not there yet."""

import os
import shutil
from pathlib import Path

from recmind_dist.errors import StoreError


def nearest_directory(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    path = path.expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that a directory is, or will be, on."""
    return shutil.disk_usage(nearest_directory(path)).free


def refuse_unwritable(path: Path) -> None:
    """Raises StoreError: a directory cannot be made, or written."""
    above = nearest_directory(path)
    if not above.is_dir():
        raise cannot_be_written(path, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise cannot_be_written(path, "Permission denied")


def cannot_be_written(path: Path, reason: str | None) -> StoreError:
    """The sentence for users."""
    return StoreError(f"{path}: cannot be written ({reason}): free space or choose another cache")
