"""Locks on directories: an flock that the kernel drops when the process dies, however it dies."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recmind_dist.errors import LockedError

NAME = ".lock"


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Holds `directory` for this process. Raises LockedError, naming the holder, if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise LockedError(f"{directory}: in use by {holder}: wait for it, or choose another directory") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def moment_lock(directory: Path) -> Iterator[None]:
    """Waits for its turn in `directory`, for the few operations inside. Raises OSError where there is no such directory."""
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile has the file open too
        os.close(handle)
