"""Where a run keeps what: one place for the names that every stage and every reader uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recmind_dist.config import dump_yaml
from recmind_dist.errors import StoreError
from recmind_dist.report.metrics_log import plain
from recmind_dist.report.results import Results
from recmind_dist.storage import (
    check_seal,
    directory_lock,
    read_json,
    write_sealed,
    write_sealed_json,
)


class RunDirectory:
    """A run's directory: config.yaml as resolved, metrics.jsonl, results.json, checkpoints/, logs/."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """config.yaml, as resolved."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """results.json."""
        return self.path / "results.json"

    @property
    def per_user(self) -> Path:
        """per_user.parquet: the metrics of results.json for each user apart."""
        return self.path / "per_user.parquet"

    @property
    def checkpoints(self) -> Path:
        """checkpoints/, for `Checkpointer` and `find_checkpoint`."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """logs/, one file a process."""
        return self.path / "logs"

    def create(self) -> None:
        """Makes the directory and its folders where they are not."""
        for folder in (self.path, self.checkpoints, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{folder}: cannot be made ({error.strerror}): set another run directory"
                ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory for this process. Raises LockedError if another run has it."""
        self.create()
        with directory_lock(self.path):
            yield

    def write_config(self, values: dict[str, Any]) -> None:
        """Writes config.yaml, whole or not at all. Args: values: plain data, as
        `settings.model_dump(mode="json")`.
        """
        write_sealed(self.config, dump_yaml(values).encode())

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json, whole or not at all. Numbers of numpy and torch are taken; NaN
        becomes null.

        Raises:
            StoreError: the results lack a key, or have a value out of range.
        """
        values = plain(results)
        _check(values, self.results)
        write_sealed_json(self.results, values)

    def read_results(self) -> dict[str, Any]:
        """results.json, checked. Raises StoreError if it is not there, or not of its shape."""
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
