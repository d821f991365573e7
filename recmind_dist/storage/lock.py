"""Locks on directories: an flock that the kernel drops when the process dies, however it dies."""

import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recmind_dist.errors import LockedError, StoreError

NAME = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Holds `directory` for this process. Raises LockedError, naming the holder, if another process
    has it.
    """
    handle = _open(directory / NAME)
    try:
        while True:
            if not _taken(handle):
                raise LockedError(
                    f"{directory}: in use by {_holder(handle)}: wait for it, or choose another "
                    "directory"
                )
            if _is_at(handle, directory / NAME):
                break
            os.close(handle)  # its last holder removed the directory
            handle = _open(directory / NAME)
        _sign(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def moment_lock(directory: Path) -> Iterator[None]:
    """Waits for its turn in `directory`, for the few operations inside. Raises OSError where there
    is no such directory.
    """
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile has the file open too
        os.close(handle)


def empty_directory(directory: Path) -> None:
    """Removes all that a directory holds but its lock. Only for the holder of the lock."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != NAME:
            path.unlink()


@contextmanager
def building(final: Path) -> Iterator[None]:
    """Holds the right to build `final`, by a lock file beside it; waits while another process
    builds it.

    Whoever has waited must look again whether `final` is there.

    Raises:
        StoreError: the lock file cannot be made.
    """
    path = final.with_name(f".{final.name}{NAME}")
    try:
        handle = _first_in_line(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}): free space or choose another cache"
        ) from error
    try:
        _sign(handle)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _first_in_line(path: Path) -> int:
    """A handle on a lock file that nobody else holds. Its last holder removed it: then a new one is
    made.
    """
    while True:
        handle = _open(path)
        if not _taken(handle):
            logger.warning("%s: waiting for %s, which is at work on it", path, _holder(handle))
            fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the holder, however it ends
        if _is_at(handle, path):
            return handle
        os.close(handle)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(handle: int) -> str:
    return os.read(handle, 200).decode(errors="replace").strip() or "another process"


def _sign(handle: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
