"""Publishers' files as streams of whole lines: plain, packed, zip members, folders."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import BOM, check_file
from recmind_dist.ingest.sources import MAX_LINE, UNSOUND, packing, unpacked

BLOCK = 8 << 20  # bytes read at a time
HEAD = 256 << 10  # bytes looked at to tell what a file is
HEAD_LINES = 50
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Block:
    """Whole lines of a file; `first` is the number of the first one, from 1."""

    first: int
    data: bytes

    @cached_property
    def num_lines(self) -> int:
        """Blank ones included, and one without a line end."""
        ends = int(np.count_nonzero(np.frombuffer(self.data, np.uint8) == ord("\n")))
        return ends + (self.data[-1:] not in (b"", b"\n"))

    @property
    def lines(self) -> list[bytes]:
        """Without line ends."""
        lines = self.data.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        return [line.removesuffix(b"\r") for line in lines]


@dataclass(frozen=True)
class Source:
    """A file, or a member of a zip archive.

    Attributes:
        searched: found in a folder or archive that was named, not named itself.
    """

    path: Path
    member: str | None = None
    searched: bool = False

    @property
    def name(self) -> str:
        """For people: the path, and the member."""
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    @property
    def size(self) -> int:
        """Bytes to be read, compressed."""
        if self.member is None:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).compress_size

    def blocks(
        self, block_bytes: int = BLOCK, position: list[int] | None = None
    ) -> Iterator[Block]:
        """Whole lines in order, without a byte order mark.

        Args:
            position: its one element follows the bytes read so far, compressed.

        Raises:
            DataError: the file is damaged or cut off, or a line is longer than `MAX_LINE`.
        """
        line, rest = 1, b""
        with self._refused(), self._opened() as (stream, tell):
            while piece := stream.read(block_bytes):
                if position is not None:
                    position[0] = tell()
                rest = rest + piece if rest or line > 1 else piece.removeprefix(BOM)
                end = rest.rfind(b"\n") + 1
                if len(rest) - end > MAX_LINE:
                    at = line + rest.count(b"\n")
                    raise DataError(
                        f"{self.name}:{at}: longer than {MAX_LINE} bytes: is the file of another "
                        "format?"
                    )
                if end:
                    block = Block(line, rest[:end])
                    rest = rest[end:]
                    line += block.num_lines
                    yield block
        if rest:
            yield Block(line, rest)

    @cached_property
    def head(self) -> list[str]:
        """The first lines that are not blank, as text."""
        block = next(self.blocks(HEAD), None)
        lines = block.lines[: 4 * HEAD_LINES] if block else []
        return [text for line in lines if (text := _decoded(line)).strip()][:HEAD_LINES]

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The stream of plain bytes, and what tells how many compressed ones were read."""
        if self.member is not None:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self.member) as inner,
            ):
                yield _decompressed(inner), inner.tell
            return
        with self.path.open("rb") as raw:
            yield _decompressed(raw), raw.tell

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Turns errors about damaged bytes into one sentence."""
        try:
            yield
        except DataError:
            raise
        except (*UNSOUND, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise DataError(f"{self.name}: damaged or cut off ({error}): fetch it again") from error


def sources_of(paths: list[Path]) -> list[Source]:
    """The files, the files of folders, and the members of zip archives, in order of name.

    Raises:
        DataError: a path is not there, is empty, or is a tar archive.
    """
    found: list[Source] = []
    for path in map(Path.expanduser, paths):
        if path.is_dir():
            inside = [one for p in _inside(path) for one in _of_file(p, searched=True)]
            if not inside:
                raise DataError(f"{path}: no file in this folder: give one with data")
            found += inside
        else:
            check_file(path, "the command line")
            found += _of_file(path, searched=False)
    if len(set(found)) < len(found):
        twice = next(one for k, one in enumerate(found) if one in found[:k])
        raise DataError(f"{twice.name}: named twice: name each file once")
    return found


def _inside(folder: Path) -> list[Path]:
    """All files below a folder but empty and hidden ones (`_SUCCESS`, `.crc`)."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    hidden = (".", "_")
    return [p for p in files if not any(x.startswith(hidden) for x in p.relative_to(folder).parts)]


def _of_file(path: Path, searched: bool) -> list[Source]:
    with path.open("rb") as file:
        start = file.read(300)
    if start[257:262] == b"ustar" or path.name.endswith((".tar.gz", ".tgz", ".tar.bz2")):
        if searched:
            return []
        raise DataError(f"{path}: a tar archive: unpack it (tar xf) and name its files")
    if not start.startswith(ZIP):
        return [Source(path, searched=searched)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir() and one.file_size]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a sound zip archive ({error}): fetch it again") from error
    names = sorted(member.filename for member in members)
    return [Source(path, name, True) for name in names if not name.startswith("__MACOSX")]


def _decompressed(raw: IO[bytes]) -> Any:
    kind = packing(raw.read(8))
    raw.seek(0)
    return raw if kind is None else unpacked(raw, kind)


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
