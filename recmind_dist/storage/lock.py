"""Locks on directories, by flock: the kernel drops it when the process dies."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recmind_dist.errors import LockedError
from recmind_dist.storage.space import cannot_be_written

NAME = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Locks `directory`. Raises LockedError, naming the holder, if another process has it."""
    path = directory / NAME
    handle = _open(path)
    try:
        while True:
            if not _try_lock(handle):
                raise LockedError(
                    f"{directory}: in use by {_holder(handle)}: wait for it, or choose another "
                    "directory"
                )
            if _is_at(handle, path):
                break
            os.close(handle)  # its last holder removed the directory
            handle = _open(path)
        _sign(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def moment_lock(directory: Path) -> Iterator[None]:
    """Locks `directory` for a few operations; waits for it. Raises OSError if it is absent."""
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a forked process may hold the file open too
        os.close(handle)


def empty_directory(directory: Path) -> None:
    """Removes everything but the lock. Only the holder of the lock may call."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != NAME:
            path.unlink()


@contextmanager
def building(final: Path) -> Iterator[None]:
    """Lets one process at a time build `final`, by a lock file beside it; the others wait.

    Inside, look again whether `final` exists: another process may have built it. A failed build
    leaves nothing, not even directories above `final` that were made for it.

    Raises:
        StoreError: the lock file cannot be created.
    """
    path = final.with_name(f".{final.name}{NAME}")
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        handle = _wait_for_lock(path)
    except OSError as error:
        raise cannot_be_written(path, error.strerror) from error
    try:
        _sign(handle)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # it holds what was built, or what others build
            for parent in made:
                parent.rmdir()


def _wait_for_lock(path: Path) -> int:
    while True:
        handle = _open(path)
        if not _try_lock(handle):
            logger.warning("%s: waiting for %s, which is at work on it", path, _holder(handle))
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, path):
            return handle
        os.close(handle)  # its last holder removed the file


def _open(path: Path) -> int:
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        # another process, whose build failed, has removed the directory since
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(handle: int) -> str:
    return os.read(handle, 200).decode(errors="replace").strip() or "another process"


def _sign(handle: int) -> None:
    with suppress(OSError):  # on a full disk the lock still holds, without a name
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
