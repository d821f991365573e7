"""A directory's files on shared storage by content, under one index that is replaced in one go: all
of them, or those before.

<under>/files/<sha256>   a file's bytes <under>/files.json       name → bytes, sha256 and the time
of its last change here, by which unchanged files are told
"""

import os
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
    """Some files of `root`, here, and their copy below `under`, there ("": the top)."""

    def __init__(self, remote: Remote, under: str, root: Path) -> None:
        self.remote, self.root = remote, root
        self._under = f"{under}/" if under else ""
        self._known: dict[str, dict[str, Any]] | None = None

    def push(self, paths: Iterable[Path]) -> None:
        """Uploads what has changed since the index, then the index, then removes what it no longer
        names. Raises OSError.
        """
        if self._known is None:
            self._known = self._index_there()
        entries = {str(path.relative_to(self.root)): path for path in sorted(paths)}
        index = {
            name: self._push_file(path, self._known.get(name)) for name, path in entries.items()
        }
        if not index or index != self._known:
            self.remote.write(self._at(INDEX), json_bytes(index))
        self._known = index
        for name in self.remote.names(self._at(FILES)) - {
            entry["sha256"] for entry in index.values()
        }:
            self.remote.delete(self._at(f"{FILES}/{name}"))

    def pull(self) -> None:
        """Brings every file of the index that is not here as it says.

        Raises:
            FileNotFoundError: there is no index. StoreError: a file is missing or damaged, or a
            name leads elsewhere.
        """
        index = self._read_index()
        for name, entry in index.items():
            path = self.root / name
            if (
                path.is_file()
                and path.stat().st_size == entry["bytes"]
                and sha256_file(path) == entry["sha256"]
            ):
                continue
            self._pull_file(name, entry)

    def clear(self) -> None:
        """Removes all of it there, the index first."""
        self.remote.delete(self._at(INDEX))
        self.remote.delete_folder(self._at(FILES))
        self._known = None

    def _push_file(self, path: Path, known: dict[str, Any] | None) -> dict[str, Any]:
        stat = path.stat()
        if known and (known["bytes"], known["changed_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return known
        # a log may grow meanwhile: what is sent is what it was
        digest = sha256_file(path, stat.st_size)
        entry = {"bytes": stat.st_size, "sha256": digest, "changed_ns": stat.st_mtime_ns}
        if known is None or known["sha256"] != digest:
            self.remote.upload(path, self._at(f"{FILES}/{digest}"), stat.st_size)
        return entry

    def _pull_file(self, name: str, entry: dict[str, Any]) -> None:
        path, there = self.root / name, self._at(f"{FILES}/{entry['sha256']}")
        arriving = path.with_name(f"{PARTIAL}arriving-{path.name}")
        try:
            self.remote.download(there, arriving)
            if sha256_file(arriving) != entry["sha256"]:
                raise StoreError(f"{self.remote.uri}/{there}: {name} is damaged")
            os.utime(arriving, ns=(entry["changed_ns"], entry["changed_ns"]))
            arriving.replace(path)
        except FileNotFoundError as error:
            raise StoreError(f"{self.remote.uri}/{there}: {name} is missing") from error
        finally:
            arriving.unlink(missing_ok=True)

    def _index_there(self) -> dict[str, dict[str, Any]]:
        try:
            return self._read_index()
        except (FileNotFoundError, StoreError):
            return {}  # none yet, or one that nobody could go on from: everything is sent again

    def _read_index(self) -> dict[str, dict[str, Any]]:
        self.root.mkdir(parents=True, exist_ok=True)
        arriving = self.root / f"{PARTIAL}{INDEX}"
        try:
            self.remote.download(self._at(INDEX), arriving)
            values = read_json(arriving)
        finally:
            arriving.unlink(missing_ok=True)
        if not isinstance(values, dict) or not all(
            _is_entry(self.root, *item) for item in values.items()
        ):
            raise StoreError(
                f"{self.remote.uri}/{self._at(INDEX)}: damaged, or names files outside the "
                "directory: refused"
            )
        return values

    def _at(self, name: str) -> str:
        return f"{self._under}{name}"


def _is_entry(root: Path, name: str, entry: Any) -> bool:
    parts = name.split("/")
    inside = (
        "\0" not in name
        and all(part and part != ".." for part in parts)
        and not parts[-1].startswith(".")
    )
    if not inside or not (root / name).resolve().is_relative_to(root.resolve()):
        return False
    if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256", "changed_ns"}:
        return False
    digest, numbers = entry["sha256"], (entry["bytes"], entry["changed_ns"])
    is_hash = (
        isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    )
    return is_hash and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
