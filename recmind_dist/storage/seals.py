"""SHA256SUMS: hashes of single files of a directory, so that none of them is read damaged.

`sha256sum -c` checks it too. While a file is replaced it has two lines, with the old hash and the
new: whenever the process is killed, one of them fits.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recmind_dist.errors import RecmindError, StoreError
from recmind_dist.storage.atomic import PARTIAL, fsync_directory, json_bytes, write_bytes
from recmind_dist.storage.keys import sha256_file

NAME = "SHA256SUMS"
DOCTOR = "`recmind doctor RUN --repair` mends what can be mended"
_LINE = re.compile(rb"([0-9a-f]{64})  ([0-9A-Za-z_.-]+)")
Sums = dict[str, list[str]]
"""File name → hashes, one of which is the file's."""


def write_sealed(path: Path, data: bytes) -> None:
    """`write_bytes`, with the hash in SHA256SUMS. A kill at any moment harms nothing."""
    digest = hashlib.sha256(data).hexdigest()
    with _locked(path.parent):
        sums, _ = read_seals(path.parent)
        _write(path.parent, sums | {path.name: [*sums.get(path.name, []), digest]})
        write_bytes(path, data)
        _write(path.parent, sums | {path.name: [digest]})


@contextmanager
def sealed_file(path: Path) -> Iterator[Path]:
    """Yields the name of a file to write, which replaces `path` as `write_sealed` does."""
    temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        digest = sha256_file(temporary)
        with _locked(path.parent):
            sums, _ = read_seals(path.parent)
            _write(path.parent, sums | {path.name: [*sums.get(path.name, []), digest]})
            temporary.replace(path)
            fsync_directory(path.parent)
            _write(path.parent, sums | {path.name: [digest]})
    finally:
        temporary.unlink(missing_ok=True)


def write_sealed_json(path: Path, value: object) -> None:
    """`write_json`, sealed."""
    write_sealed(path, json_bytes(value))


def drop_lost_lines(directory: Path) -> None:
    """Drops damaged lines and lines of absent files. Call it when all files are known as sound."""
    with _locked(directory):
        sums, _ = read_seals(directory)
        _write(directory, {name: sums[name] for name in sums if (directory / name).is_file()})


def read_seals(directory: Path) -> tuple[Sums, list[int]]:
    """Hashes by file name, and numbers of damaged lines; both empty without SHA256SUMS.

    Raises:
        StoreError: SHA256SUMS cannot be read.
    """
    try:
        data = (directory / NAME).read_bytes()
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise StoreError(f"{directory / NAME}: cannot be read ({error.strerror})") from error
    sums: Sums = {}
    damaged: list[int] = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            damaged.append(number)
        else:
            sums.setdefault(found.group(2).decode(), []).append(found.group(1).decode())
    return sums, damaged


def check_seal(path: Path, remedy: str, error: type[RecmindError] = StoreError) -> None:
    """Verifies a sealed file. In a directory without SHA256SUMS, a copy perhaps, every file passes.

    Args:
        remedy: what the user can do; ends the error's sentence.

    Raises:
        error: the file differs from what was written, or its hash is lost.
    """
    sums, damaged = read_seals(path.parent)
    if not sums and not damaged:
        return
    if path.name not in sums:
        raise error(f"{path}: its hash is lost from {NAME}, so it cannot be verified: {remedy}")
    try:
        found = sha256_file(path)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}): {remedy}") from cause
    if found not in sums[path.name]:
        raise error(
            f"{path}: sha256 differs from {NAME}: the file is damaged or was edited: {remedy}"
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lets one process at a time change SHA256SUMS."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(directory: Path, sums: Sums) -> None:
    lines = [f"{digest}  {name}\n" for name in sorted(sums) for digest in dict.fromkeys(sums[name])]
    write_bytes(directory / NAME, "".join(lines).encode())
