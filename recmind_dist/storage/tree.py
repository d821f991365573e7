"""A directory's files on shared storage, stored by hash under one index that is replaced at once.

<under>/files/<sha256>   bytes of a file
<under>/files.json       name → size, sha256, and mtime here, which tells unchanged files
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.storage.atomic import PARTIAL, json_bytes
from recmind_dist.storage.keys import sha256_file
from recmind_dist.storage.manifest import read_json
from recmind_dist.storage.remote import Remote

FILES, INDEX = "files", "files.json"


class Tree:
    """Files of the local `root`, and their copies below `under` ("": the top) on the storage."""

    def __init__(self, remote: Remote, under: str, root: Path) -> None:
        self.remote = remote
        self.root = root
        self._under = f"{under}/" if under else ""
        self._known: dict[str, dict[str, Any]] | None = None

    def push(self, paths: Iterable[Path]) -> None:
        """Uploads changed files, then the index, then deletes unnamed files. Raises OSError."""
        if self._known is None:
            self._known = self._index_or_empty()
        index = {}
        for path in sorted(paths):
            name = str(path.relative_to(self.root))
            index[name] = self._push_file(path, self._known.get(name))
        if not index or index != self._known:
            self.remote.write(self._at(INDEX), json_bytes(index))
        self._known = index
        named = {entry["sha256"] for entry in index.values()}
        for digest in self.remote.names(self._at(FILES)) - named:
            self.remote.delete(self._at(f"{FILES}/{digest}"))

    def pull(self) -> None:
        """Downloads every file of the index that is absent or different here.

        Raises:
            FileNotFoundError: there is no index.
            StoreError: a file is missing or damaged, or a name leads out of the directory.
        """
        for name, entry in self._read_index().items():
            path = self.root / name
            same_size = path.is_file() and path.stat().st_size == entry["bytes"]
            if not (same_size and sha256_file(path) == entry["sha256"]):
                self._pull_file(name, entry)

    def clear(self) -> None:
        """Removes everything from the storage, the index first."""
        self.remote.delete(self._at(INDEX))
        self.remote.delete_folder(self._at(FILES))
        self._known = None

    def _push_file(self, path: Path, known: dict[str, Any] | None) -> dict[str, Any]:
        stat = path.stat()
        if known and (known["bytes"], known["changed_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return known
        # a log may grow meanwhile: only the bytes that were hashed are sent
        digest = sha256_file(path, stat.st_size)
        entry = {"bytes": stat.st_size, "sha256": digest, "changed_ns": stat.st_mtime_ns}
        if known is None or known["sha256"] != digest:
            self.remote.upload(path, self._at(f"{FILES}/{digest}"), stat.st_size)
        return entry

    def _pull_file(self, name: str, entry: dict[str, Any]) -> None:
        path = self.root / name
        source = self._at(f"{FILES}/{entry['sha256']}")
        arriving = path.with_name(f"{PARTIAL}arriving-{path.name}")
        try:
            self.remote.download(source, arriving)
            if sha256_file(arriving) != entry["sha256"]:
                raise StoreError(f"{self.remote.uri}/{source}: {name} is damaged")
            os.utime(arriving, ns=(entry["changed_ns"], entry["changed_ns"]))
            arriving.replace(path)
        except FileNotFoundError as error:
            raise StoreError(f"{self.remote.uri}/{source}: {name} is missing") from error
        finally:
            arriving.unlink(missing_ok=True)

    def _index_or_empty(self) -> dict[str, dict[str, Any]]:
        try:
            return self._read_index()
        except (FileNotFoundError, StoreError):
            return {}  # absent or damaged: everything is sent again

    def _read_index(self) -> dict[str, dict[str, Any]]:
        self.root.mkdir(parents=True, exist_ok=True)
        arriving = self.root / f"{PARTIAL}{INDEX}"
        try:
            self.remote.download(self._at(INDEX), arriving)
            values = read_json(arriving)
        finally:
            arriving.unlink(missing_ok=True)
        if isinstance(values, dict) and all(_is_entry(self.root, *it) for it in values.items()):
            return values
        raise StoreError(
            f"{self.remote.uri}/{self._at(INDEX)}: damaged, or names files outside the directory: "
            "refused"
        )

    def _at(self, name: str) -> str:
        return f"{self._under}{name}"


def _is_entry(root: Path, name: str, entry: Any) -> bool:
    parts = name.split("/")
    if "\0" in name or parts[-1].startswith(".") or any(part in ("", "..") for part in parts):
        return False
    if not (root / name).resolve().is_relative_to(root.resolve()):
        return False
    if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256", "changed_ns"}:
        return False
    if not isinstance(entry["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
        return False
    numbers = (entry["bytes"], entry["changed_ns"])
    return all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
