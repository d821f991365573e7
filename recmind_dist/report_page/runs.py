"""What a report reads of runs: settings, metrics.jsonl, results, and the graph's counts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recmind_dist.config import Settings
from recmind_dist.errors import DataError, StoreError
from recmind_dist.ingest.dataset import dataset_reading
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.load import config_of_run
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json
from recmind_dist.training.finished_run import graph_of

Record = dict[str, Any]
PARTS = ("partition", "num_parts")
"""Settings of a graph's content that change neither users nor held-out items."""
SPLIT = (
    "users.parquet",
    "items.parquet",
    "indptr.npy",
    "indices.npy",
    "test_indptr.npy",
    "test_indices.npy",
)
"""Files of a graph that say which interactions are in training, and which are test items."""


@dataclass(frozen=True)
class ReportedRun:
    """One run as it stands now.

    Attributes:
        label: its variant; where two runs are of one, its directory's name; where two of these are
            alike, its path.
        records: of metrics.jsonl by kind. Where a restart did a step or epoch again, the last.
        results: None before evaluation.
        graph_path: None where the run trains nothing, or its graph is not there any more.
    """

    label: str
    directory: RunDirectory
    config: RunConfig
    records: Mapping[str, list[Record]]
    results: Record | None
    graph_path: Path | None

    @cached_property
    def graph(self) -> Mapping[str, Any]:
        """The graph's manifest; empty where there is none."""
        found: dict[str, Any] = {}
        if self.graph_path is not None:
            found = read_json(self.graph_path / "manifest.json")
        return found

    @property
    def dataset_key(self) -> str | None:
        """Content key of the data set; None where neither graph nor results say it."""
        key: str | None = (self.results or {}).get("dataset_key")
        return self.graph.get("dataset_key") or key

    @property
    def read(self) -> Mapping[str, Any]:
        """`dataset_reading` of its data; empty where neither cache nor results have it."""
        found: dict[str, Any] = (self.results or {}).get("data") or {}
        if "lines" not in found and self.graph_path is not None:
            key = str(self.graph.get("dataset_key"))
            with suppress(StoreError):
                return dataset_reading(self.graph_path.with_name(f"dataset-{key[:12]}"))
        return found if "lines" in found else {}

    @property
    def state(self) -> str:
        """How far it is."""
        if self.results is not None:
            return "evaluated"
        if not (steps := self.records.get("step")):
            return "started"
        last = steps[-1]
        done = last["step"] == last["total"]
        return "trained" if done else f"in training, epoch {last['epoch'] + 1} of {last['epochs']}"


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Reads runs of one data set, which may still be training.

    Raises:
        ConfigError: another version of this program wrote a run.
        DataError: the runs are of different data.
        StoreError: a path is no run, or its run has neither trained nor been evaluated.
    """
    paths = list(dict.fromkeys(paths))
    configs = [_config(path) for path in paths]
    names: list[list[str]] = [
        [config.variant for config in configs],
        [path.resolve().name for path in paths],
        [str(path) for path in paths],  # each once
    ]
    labels = next(of_runs for of_runs in names if len(set(of_runs)) == len(paths))
    runs = [
        _read(path, label, config)
        for path, label, config in zip(paths, labels, configs, strict=True)
    ]
    _refuse_other_data(runs)
    return runs


def _config(path: Path) -> RunConfig:
    run = RunDirectory(path)
    if not run.config.is_file():
        raise StoreError(f"{path}: not a run directory: give one that `recmind run` has made")
    return config_of_run(run.config)


def _read(path: Path, label: str, config: RunConfig) -> ReportedRun:
    run = RunDirectory(path)
    results = run.read_results() if run.results.is_file() else None
    records: dict[str, list[Record]] = {}
    if run.metrics.is_file():
        records = _last_of_each(read_metrics(run.metrics))
    if results is None and not records:
        raise StoreError(f"{run.metrics}: no line yet: report the run when it has begun to train")
    return ReportedRun(label, run, config, records, results, graph_of(run))


def _last_of_each(records: Iterator[Record]) -> dict[str, list[Record]]:
    """By kind, in order."""
    found: dict[str, dict[Any, Record]] = {}
    for number, record in enumerate(records):
        at = next((record[name] for name in ("step", "epoch") if name in record), number)
        if record["kind"] in ("start", "heartbeat"):
            at = number
        key = (record.get("phase"), at)
        of_kind = found.setdefault(record["kind"], {})
        of_kind.pop(key, None)  # done again after a restart
        of_kind[key] = record
    return {kind: list(of_kind.values()) for kind, of_kind in found.items()}


def _refuse_other_data(runs: Sequence[ReportedRun]) -> None:
    first, *others = runs
    for run in others:
        data = [one.config.dataset.name for one in (first, run)]
        keys = [one.dataset_key for one in (first, run)]
        splits = [one.config.graph.content() for one in (first, run)]
        differ = [k for k in splits[0] if k not in PARTS and splits[0][k] != splits[1][k]]
        what = "test items"
        said = [", ".join(f"graph.{key} {split[key]}" for key in differ) for split in splits]
        if data[0] != data[1]:
            what = "data"
            said = [f"{n}, {split['split']}" for n, split in zip(data, splits, strict=True)]
        elif all(keys) and keys[0] != keys[1]:
            what, said = "data", [f"{data[0]}, data set {str(key)[:12]}" for key in keys]
        elif not differ or _are_of_one_split(first, run):
            continue
        raise DataError(
            f"{run.directory.path}: of other {what} ({said[1]}) than {first.directory.path} "
            f"({said[0]}): report runs of one data set and split"
        )


def _are_of_one_split(a: ReportedRun, b: ReportedRun) -> bool:
    """Whether their graphs are there and say so: a seed changes nothing of a log with times."""
    files = [run.graph.get("files", {}) for run in (a, b)]
    return all(files) and all(files[0].get(name) == files[1].get(name) for name in SPLIT)


def settings_beside_defaults(settings: Settings, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys whose value is not the default → (default or None, value)."""
    found: dict[str, tuple[Any, Any]] = {}
    plain = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found |= settings_beside_defaults(value, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data=vars(settings))
        if field.is_required() or value != default:
            found[f"{prefix}{name}"] = (None if field.is_required() else default, plain[name])
    return found
