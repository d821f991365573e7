"""Keys made of content: equal inputs give equal keys, so finished work is found and skipped."""

import hashlib
import json
from pathlib import Path
from typing import Any


def content_key(value: Any) -> str:
    """sha256 (hex) of plain data in canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The same bytes for equal plain data."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_file(path: Path, num_bytes: int | None = None) -> str:
    """sha256 (hex) of a file's bytes, or of its first `num_bytes`."""
    with path.open("rb") as file:
        if num_bytes is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while num_bytes and (data := file.read(min(1 << 20, num_bytes))):
            digest.update(data)
            num_bytes -= len(data)
        return digest.hexdigest()
