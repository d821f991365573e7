"""Directories and files whole or absent; manifests that name what is damaged; locks that die with
the process.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.errors import LockedError, StoreError
from recmind_dist.storage import (
    atomic_directory,
    content_key,
    directory_lock,
    read_json,
    read_manifest,
    verify_manifest,
    write_bytes,
    write_json,
    write_manifest,
)


def make(directory: Path, text: str = "content") -> dict[str, Any]:
    with atomic_directory(directory) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "data.txt").write_text(text)
        return write_manifest(partial, "thing", 1, {"size": 3})


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with pytest.raises(TypeError), atomic_directory(final) as partial:
        write_manifest(partial, "thing", 1, {"half": object()})
    assert list(final.parent.iterdir()) == []
    make(final, "one")
    make(final, "two")  # replaces
    assert (final / "inner" / "data.txt").read_text() == "two"
    assert list(final.parent.iterdir()) == [final]


def test_a_directory_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "final"
    make(final, "old")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        make(final, "new")
    assert (final / "inner" / "data.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_directory_verifies(tmp_path: Path) -> None:
    manifest = make(tmp_path / "thing")
    with directory_lock(tmp_path / "thing"):
        read = read_manifest(tmp_path / "thing", "thing", 1)
        verify_manifest(tmp_path / "thing", read)
    assert read == manifest
    assert list(read["files"]) == ["inner/data.txt"]


def test_a_nested_manifest_is_content_and_a_lock_is_not(tmp_path: Path) -> None:
    with directory_lock(tmp_path):
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "manifest.json").write_text("{}")
        assert list(write_manifest(tmp_path, "thing", 1, {})["files"]) == ["inner/manifest.json"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"../outside": {"bytes": 0, "sha256": ""}}, "outside the directory"),
        ({"/etc/passwd": {"bytes": 0, "sha256": ""}}, "outside the directory"),
        ({"link": {"bytes": 7, "sha256": ""}}, "outside the directory"),
        ({"gone": {"bytes": 0, "sha256": ""}}, "missing"),
        ({"inner/data.txt": {"bytes": 6, "sha256": ""}}, "truncated or changed"),
        ({"inner/data.txt": {"bytes": 7, "sha256": "0"}}, "sha256 differs"),
        ({"inner/data.txt": "7"}, "manifest is damaged"),
        ({"a\0b": {}}, "manifest is damaged"),
    ],
)
def test_what_does_not_verify_is_named(
    tmp_path: Path, files: dict[str, Any], sentence: str
) -> None:
    make(tmp_path / "thing")
    (tmp_path / "thing" / "link").symlink_to("inner/data.txt")
    with pytest.raises(StoreError, match=sentence) as error:
        verify_manifest(tmp_path / "thing", {"files": files})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\xff\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not the manifest of a thing"),
        (b'{"kind": "other", "schema": 1, "files": {}}', "not the manifest of a thing"),
        (b'{"kind": "thing", "schema": 2, "files": {}}', "schema version 2, this program reads 1"),
        (b'{"kind": "thing", "schema": 1, "files": []}', "lists no files"),
    ],
)
def test_a_manifest_of_another_make_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(StoreError, match=sentence):
        read_manifest(tmp_path, "thing", 1)


def test_a_directory_without_manifest_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a complete thing"):
        read_manifest(tmp_path, "thing", 1)
    with pytest.raises(StoreError, match="cannot be read"):
        read_json(tmp_path / "nothing.json")


def test_a_lock_names_its_holder_and_goes_with_him(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom recmind_dist.storage import "
        "directory_lock\n"
        "with directory_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    "
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(LockedError, match=f"in use by process {holder.pid} on "),
            directory_lock(tmp_path),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with directory_lock(tmp_path):
        pass


short = st.text("ab\u00e9", max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | short,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(short, json_values, max_size=4))
def test_a_key_depends_on_content_and_not_on_order(value: dict[str, Any]) -> None:
    assert content_key(value) == content_key(dict(reversed(value.items())))
    assert content_key(value) != content_key([value])
