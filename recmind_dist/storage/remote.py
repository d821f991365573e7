"""A directory on shared storage: a path, s3://… or gs://…, through pyarrow's file systems.

A reader sees a file whole or not at all: an object appears when its upload ends, and on plain file
systems files are renamed into place. Several files have no common order: upload last the one that
makes the others count.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.storage.atomic import PARTIAL, fsync_directory

_CHUNK_BYTES = 8 << 20
_OBJECT_STORES = ("s3", "gcs", "abfs")


class Remote:
    """Files below a URI. Names are relative paths with `/`.

    Args:
        uri: s3://bucket/prefix, gs://bucket/prefix, file:///path or an absolute path. Credentials
            come from the environment: AWS_…, GOOGLE_APPLICATION_CREDENTIALS, the machine's role.

    Raises:
        ConfigError: unknown kind of storage, no path on it, or a password in the URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        if "@" in uri.partition("://")[2].partition("?")[0]:
            raise ConfigError(
                "storage_uri: holds a password or key: take it out and give it by the environment"
            )
        try:
            self._fs, root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise ConfigError(
                f"storage_uri {uri}: {error}: give an absolute path, s3://… or gs://…"
            ) from error
        self._root = root.rstrip("/")
        self._objects = self._fs.type_name in _OBJECT_STORES
        if not self._root:
            raise ConfigError(
                f"storage_uri {uri}: names no folder: give s3://bucket/prefix, gs://bucket/prefix "
                "or a path"
            )

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces a file."""
        with self._whole(name) as out:
            out.write(data)

    def upload(self, path: Path, name: str, num_bytes: int | None = None) -> None:
        """Copies a local file, or its first `num_bytes`. Raises OSError if it is shorter."""
        left = path.stat().st_size if num_bytes is None else num_bytes
        with path.open("rb") as file, self._whole(name) as out:
            while left:
                data = file.read(min(_CHUNK_BYTES, left))
                if not data:
                    raise OSError(f"{path}: shorter than it was")
                out.write(data)
                left -= len(data)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Content of a small file. Raises FileNotFoundError; StoreError above `max_bytes`."""
        with self._fs.open_input_stream(self._at(name)) as file:
            data: bytes = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise StoreError(
                f"{self.uri}/{name}: larger than {max_bytes} bytes: not a file of ours"
            )
        return data

    def download(self, name: str, path: Path) -> None:
        """Copies a file to a local path, atomically and durably."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            with self._fs.open_input_stream(self._at(name)) as file, temporary.open("xb") as out:
                while data := file.read(_CHUNK_BYTES):
                    out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(path.parent)

    def names(self, under: str) -> set[str]:
        """Names of all files below a folder, relative to it. Leaves out unfinished uploads."""
        base = self._at(under)
        found = self._fs.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        names = (info.path[len(base) + 1 :] for info in found if info.is_file)
        return {name for name in names if not name.rpartition("/")[2].startswith(PARTIAL)}

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder, if it exists."""
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self._at(name))

    @contextmanager
    def _whole(self, name: str) -> Iterator[pa.NativeFile]:
        target = self._at(name)
        if self._objects:
            with self._fs.open_output_stream(target) as out:
                yield out
            return
        folder, _, last = target.rpartition("/")
        self._fs.create_dir(folder, recursive=True)
        temporary = f"{folder}/{PARTIAL}{uuid.uuid4().hex[:8]}-{last}"
        try:
            with self._fs.open_output_stream(temporary) as out:
                yield out
            if self._fs.type_name == "local":
                with Path(temporary).open("rb") as file:
                    os.fsync(file.fileno())
            self._fs.move(temporary, target)
        except BaseException:
            if self._fs.get_file_info(temporary).is_file:
                self._fs.delete_file(temporary)
            raise

    def _at(self, name: str) -> str:
        """Full path of a name."""
        assert name
        assert ".." not in name.split("/")
        return f"{self._root}/{name}"
