"""Names and files of a run directory."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recmind_dist.config import dump_yaml
from recmind_dist.errors import RecmindError, StoreError
from recmind_dist.report.metrics_log import plain
from recmind_dist.report.results import Results
from recmind_dist.storage import (
    check_seal,
    directory_lock,
    read_json,
    write_sealed,
    write_sealed_json,
)
from recmind_dist.storage.lock import NAME as LOCK

SCHEMA = 3
"""Version of a run's files, in config.yaml; files of version 1 say none, version 2 has keys that
are constants now.
"""


class RunDirectory:
    """Paths of a run's files.

    Attributes:
        config: config.yaml, as resolved.
        per_user: per_user.parquet: the metrics of results.json by user.
        audit: audit.json, once `recmind audit` has examined the run.
        bundle: what ranks for users, written after evaluation.
        checkpoints: for `Checkpointer` and `find_checkpoint`.
        logs: one file for each process.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.per_user = self.path / "per_user.parquet"
        self.audit = self.path / "audit.json"
        self.bundle = self.path / "bundle"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"

    def create(self) -> None:
        """Creates the directory and its folders. Raises StoreError."""
        for folder in (self.path, self.checkpoints, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{folder}: cannot be made ({error.strerror}): set another run directory"
                ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Creates and locks the directory, and takes it away again if it is new and what was to
        write into it is refused first. Raises LockedError if another run has it.
        """
        is_new = not self.path.exists()
        self.create()
        with directory_lock(self.path):
            self.create()  # another call may just have taken it away
            try:
                yield
            except RecmindError:
                if is_new and not self._has_files():
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    def _has_files(self) -> bool:
        found = (path for path in self.path.rglob("*") if path.name != LOCK)
        return any(path.is_symlink() or not path.is_dir() for path in found)

    def write_config(self, values: dict[str, Any]) -> None:
        """Writes config.yaml atomically, with the version of the run's files.

        Args:
            values: `settings.model_dump(mode="json")`.
        """
        write_sealed(self.config, dump_yaml({"schema": SCHEMA, **values}).encode())

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json atomically, made plain by `plain`.

        Raises:
            StoreError: the results lack a key, or have a value out of range.
        """
        values = plain(results)
        _check(values, self.results)
        write_sealed_json(self.results, values)

    def read_results(self) -> dict[str, Any]:
        """Reads results.json. Raises StoreError if it is absent, damaged or of another schema."""
        values = read_json(self.results)
        check_seal(self.results, "evaluate the run again")
        _check(values, self.results)
        return dict(values)


def _check(values: Any, path: Path) -> None:
    try:
        Results.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "results"
        message = fault["msg"].removeprefix("Value error, ")
        raise StoreError(f"{path}: {key}: {message}: evaluate the run again") from error
