"""Atomic, durable writes: temporary name, fsync, rename, fsync of the parent."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"


def fsync_directory(path: Path) -> None:
    """Makes the directory's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` durably; a reader sees the old content or the new."""
    temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON, keys in the order given. NaN is refused: JSON has none."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Indented JSON as `write_json` writes it."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def follow_umask(file: Path) -> None:
    """Gives a file the mode of one that `open` makes: safetensors makes them 0600."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yields an empty directory that replaces `final` if the block succeeds, else is removed.

    Fsyncs the files, so that the writer need not.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f"{PARTIAL}{uuid.uuid4().hex[:8]}-{final.name}"
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            else:
                fsync_directory(file)
        fsync_directory(temporary)
        if final.exists():
            old = final.parent / f"{PARTIAL}{uuid.uuid4().hex[:8]}-old-{final.name}"
            final.rename(old)
            try:
                temporary.rename(final)
            except OSError:
                old.rename(final)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(final)
        fsync_directory(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
