"""manifest.json of a checkpoint: rows, sizes and sha256 of its files, and the run's `info`."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST, rows_file
from recmind_dist.config import Settings
from recmind_dist.errors import CheckpointError
from recmind_dist.storage import read_json, verify_manifest

KIND = "checkpoint"
SCHEMA = 3  # 2 kept settings that are constants now
_SHA256 = re.compile(r"[0-9a-f]{64}")


class OtherSchemaError(CheckpointError):
    """Another version of this program wrote this checkpoint: to go on from a further one would lose
    its work.
    """


class FileEntry(Settings):
    bytes: int = Field(ge=0, strict=True)
    sha256: str = Field(pattern=_SHA256.pattern, min_length=64, max_length=64)


class Manifest(Settings):
    """What a committed checkpoint holds. Rank r's file has the table rows `row_ranges[r]`,
    half-open.
    """

    kind: Literal["checkpoint"]
    schema_version: int = Field(default=SCHEMA, alias="schema")
    sequence: int = Field(ge=1, strict=True)
    """Grows by one with every commit: neither clocks nor steps (a rollback repeats them) tell the
    newest.
    """
    world_size: int = Field(ge=1, strict=True)
    num_rows: int = Field(ge=0, strict=True)
    row_ranges: list[tuple[int, int]]
    files: dict[str, FileEntry]
    info: dict[str, Any]

    @model_validator(mode="after")
    def _ranges_tile_the_table(self) -> "Manifest":
        check_ranges(self.row_ranges, self.num_rows)
        if len(self.row_ranges) != self.world_size:
            raise ValueError(f"{len(self.row_ranges)} row ranges for {self.world_size} ranks")
        expected = {DENSE, *map(rows_file, range(self.world_size))}
        if set(self.files) != expected:
            names = sorted(self.files)[:9]
            count = f"{len(expected)} of {self.world_size} ranks"
            raise ValueError(f"files are {names}, not the {count}")
        return self

    def verify_files(self, path: Path, names: Iterable[str] | None = None) -> None:
        """Hashes files of the checkpoint at `path`, by default all. Raises CheckpointError."""
        chosen = self.files if names is None else names
        files = {name: self.files[name].model_dump() for name in chosen}
        verify_manifest(path, {"files": files}, CheckpointError)


def check_ranges(ranges: list[tuple[int, int]], num_rows: int) -> None:
    """Raises ValueError unless the ranges follow each other from 0 to num_rows."""
    end = 0
    for rank, (start, stop) in enumerate(ranges):
        if start != end or stop < start:
            raise ValueError(f"rank {rank} has rows {start} to {stop}, expected to start at {end}")
        end = stop
    if end != num_rows:
        raise ValueError(f"rows end at {end}, the table has {num_rows}")


def read_commit(path: Path) -> Manifest:
    """The manifest of a committed checkpoint directory; no other file is hashed.

    Raises:
        OtherSchemaError: another version of this program wrote it.
        CheckpointError: COMMIT or manifest is damaged.
    """
    for name in (COMMIT, MANIFEST):
        if (path / name).is_symlink() or not (path / name).is_file():
            raise CheckpointError(
                f"{path / name}: missing or not a plain file: the checkpoint cannot be used"
            )
    try:
        commit = (path / COMMIT).read_bytes()[:200]
        data = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}): check the disk"
        ) from error
    # before parsing: a flipped bit must not pass for another schema
    if commit.strip().decode("ascii", "replace") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(
            f"{path / COMMIT}: does not match {MANIFEST}: the checkpoint is damaged"
        )
    raw = read_json(path / MANIFEST, CheckpointError)
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if type(schema) is int and schema >= 1 and schema != SCHEMA:
        raise OtherSchemaError(
            f"{path / MANIFEST}: schema version {schema}, this program reads {SCHEMA}: use the "
            "version that wrote it, or "
            "start over with --resume never"
        )
    if schema != SCHEMA:
        versions = f"schema version {schema!r}, this program reads {SCHEMA}"
        raise CheckpointError(f"{path / MANIFEST}: {versions}")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "manifest"
        message = fault["msg"].removeprefix("Value error, ")
        raise CheckpointError(
            f"{path / MANIFEST}: {key}: {message}: the manifest is damaged"
        ) from error
