"""One writer a directory: an flock that the kernel drops when the process dies, however it dies."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recmind_dist.errors import LockedError, StoreError

NAME = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Holds `directory` for this process. Raises LockedError, naming the holder, if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _taken(handle):
            raise LockedError(f"{directory}: in use by {_holder(handle)}: wait for it, or choose another directory")
        _sign(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def building(final: Path) -> Iterator[None]:
    """Holds the right to build `final`, by a lock file beside it; waits while another process builds it.

    Whoever has waited must look again whether `final` is there.

    Raises:
        StoreError: the lock file cannot be made.
    """
    path = final.with_name(f".{final.name}{NAME}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """A handle on a lock file that nobody else holds. Its last holder removed it: then a new one is made."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _taken(handle):
            logger.warning("%s: waiting for %s, which is at work on it", path, _holder(handle))
            fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the holder, however it ends
        try:
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


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
