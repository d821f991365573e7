"""Which files a setting names, and their bytes: unpacked, and in UTF-8."""

import bz2
import codecs
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote

import pyarrow as pa
from zlib_ng import gzip_ng, zlib_ng

from recmind_dist.errors import DataError

PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
UNSOUND = (  # what reading a damaged packed file raises; zlib-ng's stub calls a class an object
    *(OSError, EOFError, ValueError, lzma.LZMAError, pa.ArrowException),
    cast(type[Exception], zlib_ng.error),
)
REFUSED = {
    b"PK\x03\x04": ("a zip archive (or an Excel workbook)", "unpack it, or save it as CSV"),
    b"PAR1": ("Parquet", "set format: parquet"),
    b"\x89HDF": ("HDF5", "save it as CSV or Parquet"),
    b"\x80\x04": ("a Python pickle", "save it as CSV or Parquet"),
    b"ARROW1": ("Arrow", "save it as CSV or Parquet"),
    b"SQLite format 3": ("an SQLite database", "save the table as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save it as CSV"),
    b"\x93NUMPY": ("a NumPy array", "save it as CSV or Parquet"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"\x04\x22\x4d\x18": ("an lz4 file", "unpack it"),
    b"\x1f\x8b": ("packed twice", "unpack it once"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file by `git lfs pull`"),
    b"<!DOCTYPE html": ("a web page", "fetch the file itself"),
    b"<!doctype html": ("a web page", "fetch the file itself"),
    b"<html": ("a web page", "fetch the file itself"),
}
WIDE = {b"\xff\xfe\0\0": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # a folder name's null
VERSIONED = ("_delta_log", ".hoodie")  # folders of tables whose files may be of older versions
PACKED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
BLOCK = 1 << 20  # bytes
HEAD = 512  # bytes that tell what a file is
MAX_GROWTH = 400  # bytes out of one byte in: logs never reach it, bombs do
FREE_GROWTH = 256 << 20  # bytes that may come out before the growth counts
MAX_LINE = 1 << 24  # bytes; parsing JSON may take thirty times as much memory


@dataclass
class Beginnings:
    """How many bytes of each text file are read, and which files have more."""

    limit: int
    longer: list[Path] = field(default_factory=list)


_beginnings: ContextVar[Beginnings | None] = ContextVar("beginnings", default=None)


@contextmanager
def only_beginnings(limit: int) -> Iterator[Beginnings]:
    """Within it readers see whole lines of the first `limit` bytes of text files, and the first
    batch of Parquet files.
    """
    token = _beginnings.set(Beginnings(limit))
    try:
        yield _beginnings.get()  # type: ignore[misc]
    finally:
        _beginnings.reset(token)


def beginnings() -> Beginnings | None:
    """Set where only the beginnings of files are read."""
    return _beginnings.get()


def expand(path: Path, key: str) -> list[Path]:
    """The files that a path names: itself, those of a folder, or those of a pattern, sorted.

    Names that begin with a dot or an underscore (`_SUCCESS`) and empty files are left out of
    folders and patterns.

    Raises:
        DataError: there is none, or a folder is a table of several versions.
    """
    path = path.expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        _refuse_versions(path, key)
        found = [inner for inner in path.rglob("*") if _is_data(inner, path)]
    elif any(letter in str(path) for letter in "*?["):
        start = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(start)) if path.is_absolute() else str(path)
        found = [inner for inner in start.glob(pattern) if _is_data(inner, start)]
    else:
        raise DataError(f"{path}: no such file: give the path of a file in {key}")
    if not found:
        what = "the folder holds no file" if path.is_dir() else "no file matches the pattern"
        raise DataError(f"{path}: {what}: give the path of a file in {key}")
    return sorted(found)


def _refuse_versions(path: Path, key: str) -> None:
    for name in VERSIONED:
        if (path / name).is_dir():
            raise DataError(
                f"{path}: a table of several versions ({name}): files there may be of older ones: "
                f"save the table as plain Parquet, and give that in {key}"
            )


def is_there(path: Path) -> bool:
    """Whether a path names at least one file."""
    try:
        return bool(expand(path, ""))
    except DataError:
        return False


def _is_data(path: Path, below: Path) -> bool:
    inner = path.relative_to(below).parts if below != Path() else path.parts
    hidden = any(part.startswith((".", "_")) and part not in ("..", ".") for part in inner)
    return not hidden and path.is_file() and path.stat().st_size > 0


def partition_columns(path: Path) -> dict[str, str | None]:
    """Columns that Spark and Hive write into folder names: `year=2020/` is year → 2020."""
    pairs = (part.partition("=") for part in path.parent.parts)
    return {
        name: None if value == NO_VALUE else unquote(value)
        for name, mark, value in pairs
        if mark and name
    }


def plain_suffix(path: Path) -> str:
    """The suffix that names the layout, below that of a packed file: `.csv` of log.csv.gz."""
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def packing_of(path: Path) -> str | None:
    """How a file is packed, by its first bytes; None: it is not."""
    with path.open("rb") as file:
        return packing(file.read(8))


def packing(head: bytes) -> str | None:
    """How a file that begins so is packed; None: it is not."""
    return next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None)


def unpacked(raw: IO[bytes], kind: str) -> Any:
    """The content of a packed file, to be read; one of `UNSOUND` where it is damaged."""
    openers = {"gzip": gzip_ng.open, "bz2": bz2.open, "xz": lzma.open}  # zlib takes twice the time
    opener: Any = openers.get(kind) or (lambda file: pa.CompressedInputStream(file, "zstd"))
    return opener(raw)


@contextmanager
def open_utf8(path: Path, encoding: str = "utf-8") -> Iterator[IO[bytes]]:
    """The bytes of a text file, unpacked and in UTF-8. Bytes that are not of `encoding` stay as
    they are, so that the reader of lines finds them.

    Raises:
        DataError: the file is no text, or a packed file is damaged or grows without bounds.
    """
    with path.open("rb") as raw:
        plain: Any = raw
        kind = packing_of(path)
        if kind is not None:
            plain = io.BufferedReader(_Unpacked(path, raw, kind), BLOCK)
        _refuse_other_kinds(path, plain.peek(HEAD)[:HEAD], encoding)
        if codecs.lookup(encoding).name not in ("utf-8", "ascii"):
            plain = io.BufferedReader(_Recoded(plain, encoding), BLOCK)
        begun = beginnings()
        yield plain if begun is None else _beginning(path, plain, begun)


def _beginning(path: Path, file: IO[bytes], begun: Beginnings) -> IO[bytes]:
    """Whole lines, and no record with an open quote at the end."""
    data = file.read(begun.limit)
    data += b"" if data.endswith(b"\n") else file.readline(MAX_LINE)
    if not file.read(1):
        return io.BytesIO(data)
    if path not in begun.longer:
        begun.longer.append(path)
    end, quotes = len(data), data.count(b'"')
    while quotes % 2 and end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', start, end)
        end = start
    return io.BytesIO(data[: end or len(data)])


def _refuse_other_kinds(path: Path, head: bytes, encoding: str) -> None:
    """Raises DataError for what is no text of the encoding by its first bytes, unpacked."""
    for magic, (what, remedy) in REFUSED.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}, not text: {remedy}")
    if codecs.lookup(encoding).name != "utf-8":
        return
    for mark, name in WIDE.items():
        if head.startswith(mark):
            remedy = f"set encoding: {name.lower()} beside its path"
            raise DataError(f"{path}: is {name}, not UTF-8: {remedy}")
    if b"\0" in head.partition(b"\n")[0]:
        raise DataError(
            f"{path}: holds zero bytes: it is no text (an archive?), or UTF-16 without its mark: "
            "unpack it, or set encoding: utf-16-le (or utf-16-be) beside its path"
        )


class _Unpacked(io.RawIOBase):
    """The content of a packed file; DataError where it is damaged, or a bomb."""

    def __init__(self, path: Path, raw: IO[bytes], kind: str) -> None:
        self._path, self._raw, self._kind = path, raw, kind
        self._stream = unpacked(raw, kind)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except UNSOUND as error:
            raise DataError(
                f"{self._path}: the {self._kind} file is damaged or cut off ({error}): fetch it "
                "again"
            ) from error
        self._size += len(data)
        if self._size > FREE_GROWTH and self._size > MAX_GROWTH * self._raw.tell():
            raise DataError(
                f"{self._path}: grows to more than {MAX_GROWTH} times its size when unpacked: not "
                "a log, refused"
            )
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, source: Any, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            data = self._source.read(BLOCK)
            self._ended = not data
            text = self._decoder.decode(data, self._ended)
            self._ready = text.encode("utf-8", "surrogateescape")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
