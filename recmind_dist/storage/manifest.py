"""manifest.json: size and sha256 of every file of a directory, so that damage is found by name."""

import json
import math
import stat
from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError, StoreError
from recmind_dist.storage.atomic import write_json
from recmind_dist.storage.keys import content_key, sha256_file
from recmind_dist.storage.lock import NAME as LOCK_NAME

NAME = "manifest.json"
SELF = "manifest_sha256"  # content key of all else in the manifest
MAX_BYTES = 16 << 20  # parsed JSON takes up to thirty times as much memory
MAX_DEPTH = 64
MAX_DIGITS = 100
MAX_NAME = 255  # bytes; longer names exist on no file system


def read_json(path: Path, error: type[RecmindError] = StoreError) -> Any:
    """Reads JSON that may be damaged or hostile. Raises `error`, naming the file."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise error(f"{path}: not a plain file: refused")  # pipes and devices may never end
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise error(f"{path}: larger than {MAX_BYTES} bytes: not a file of ours")
        value = json.loads(data, parse_int=_whole_number)
        _refuse_unwritable(value)
        return value
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror})") from cause
    except (ValueError, RecursionError) as cause:
        if isinstance(cause, RecmindError):
            raise
        raise error(f"{path}: not JSON: the file is damaged") from cause


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _refuse_unwritable(value: Any) -> None:
    """Raises ValueError for JSON that is too deep to walk through, or cannot be written again."""
    pending = [(value, 0)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        if isinstance(part, str):
            part.encode()  # fails for half a surrogate pair
        elif isinstance(part, float) and not math.isfinite(part):
            raise ValueError("NaN or infinity")
        elif isinstance(part, dict):
            pending += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list):
            pending += [(inner, depth + 1) for inner in part]


def write_manifest(
    directory: Path, kind: str, schema: int, content: dict[str, Any]
) -> dict[str, Any]:
    """Writes and returns the manifest of all files now in `directory`. Call it last.

    Args:
        kind: of directory ("graph", "adapter", …).
        schema: version of its layout.
        content: further keys to keep.
    """
    files = {
        str(file.relative_to(directory)): {
            "bytes": file.stat().st_size,
            "sha256": sha256_file(file),
        }
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file not in (directory / NAME, directory / LOCK_NAME)
    }
    manifest = {"kind": kind, "schema": schema, **content, "files": files}
    write_json(directory / NAME, {**manifest, SELF: content_key(manifest)})
    return manifest


def read_manifest(
    directory: Path, kind: str, schema: int, error: type[RecmindError] = StoreError
) -> dict[str, Any]:
    """Reads a manifest. Raises `error` if it is absent, damaged, or of another kind or schema."""
    path = directory / NAME
    if path.is_symlink():
        raise error(f"{path}: a symbolic link: refused, copy the directory itself")
    if not path.is_file():
        raise error(f"{directory}: no {NAME}: not a complete {kind} directory")
    manifest = read_json(path, error)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise error(f"{path}: not the manifest of a {kind} directory")
    if manifest.get("schema") != schema:
        raise error(
            f"{path}: schema version {manifest.get('schema')!r}, this program reads {schema}: use "
            "the one that wrote it"
        )
    if not isinstance(manifest.get("files"), dict):
        raise error(f"{path}: lists no files: the manifest is damaged")
    if manifest.pop(SELF, None) != content_key(manifest):
        raise error(f"{path}: differs from its own hash: the manifest is damaged")
    return manifest


def verify_manifest(
    directory: Path, manifest: dict[str, Any], error: type[RecmindError] = StoreError
) -> None:
    """Checks size and sha256 of every listed file. Raises `error` naming the first that differs."""
    root = directory.resolve()
    for name, expected in manifest["files"].items():
        if not isinstance(expected, dict) or "\0" in name or len(name) > MAX_NAME:
            raise error(
                f"{directory / NAME}: entry {name[:80]!r} is no file's size and sha256: the "
                "manifest is damaged"
            )
        file = directory / name
        if not file.resolve().is_relative_to(root) or file.is_symlink():
            raise error(f"{directory}: manifest names {name!r}, outside the directory: refused")
        if not file.is_file():
            raise error(f"{file}: missing: restore it or make the directory again")
        try:
            size = file.stat().st_size
            if size != expected.get("bytes"):
                raise error(
                    f"{file}: {size} bytes, manifest says {expected.get('bytes')}: truncated or "
                    "changed"
                )
            if sha256_file(file) != expected.get("sha256"):
                raise error(f"{file}: sha256 differs from the manifest: the file is damaged")
        except OSError as cause:  # a bad sector, or a lost file server
            raise error(f"{file}: cannot be read ({cause.strerror}): check the disk") from cause
