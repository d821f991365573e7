"""`recmind update`: a finished run learns on, from new interactions and items or for longer."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.errors import ConfigError, DataError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.ingest import ingest_dataset
from recmind_dist.pipeline.new_rows import NewRows, new_rows, share_to_test
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.texts import dataset_of
from recmind_dist.pipeline.update_config import (
    config_of_retraining,
    config_of_update,
    config_of_values,
    config_with_test,
    dataset_with,
)
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed_json
from recmind_dist.storage.lock import NAME as LOCK
from recmind_dist.training.finished_run import read_run
from recmind_dist.training.state import saved_epochs
from recmind_dist.training.warm_start import lost_ids
from recmind_dist.types import Say

REPORT = "update.json"
Train = Callable[[RunConfig, Say], object]
"""Trains a run to its end."""


@dataclass
class UpdateReport:
    """What an update did; kept in update.json.

    Attributes:
        rows_carried: rows of the table that begin as they were.
        new_interactions: of the log.
        edges: training edges of the new graph.
        seconds: of the whole.
        training_seconds: of its epochs.
        metrics: of the held-out part of the new log, empty where none was.
        retrained: the same of a training from nothing, on request.
    """

    of: str
    checkpoint: str
    rows_carried: int
    new_users: int
    new_items: int
    new_interactions: int
    users_with_new_interactions: int
    edges: int
    epochs: int
    seconds: float = 0.0
    training_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    retrained: dict[str, Any] = field(default_factory=dict)

    def lines(self, metric: str) -> list[str]:
        """For people."""
        found = [
            f"carried over from {self.checkpoint}: {self.rows_carried:,} rows; new: "
            f"{self.new_users:,} users, {self.new_items:,} items, {self.new_interactions:,} "
            f"interactions of {self.users_with_new_interactions:,} users",
            f"{self.epochs} epochs over {self.edges:,} edges in {self.training_seconds:.1f} s, "
            f"{self.seconds:.1f} s in all",
        ]
        if self.metrics:
            found.append(f"{metric} on the newest of the new log: {self.metrics[metric]:.4f}")
        if self.retrained:
            other = self.retrained["metrics"].get(metric, 0.0)
            share = self.training_seconds / max(self.retrained["training_seconds"], 1e-9)
            ratio = f"{self.metrics.get(metric, 0.0) / other:.3f}" if other else "no part"
            found.append(
                f"trained from nothing: {metric} {other:.4f}; the update has {ratio} of it in "
                f"{share:.3f} of its time"
            )
        return found


def train_longer(
    run_dir: Path, overrides: list[str], say: Say = print, train: Train | None = None
) -> dict[str, Any]:
    """Trains a finished run on to train.epochs, and evaluates it. Returns its results.

    Args:
        train: by default on Ray workers.
    Raises:
        ConfigError: train.epochs is not above what the run had.
    """
    previous = PreviousRun.open(run_dir)
    last = find_checkpoint(previous.directory.checkpoints, verify=False)
    had = saved_epochs(last) if last is not None else None
    config = _with_overrides(previous, overrides)
    if had is not None and config.train.epochs <= had:
        raise ConfigError(
            f"{run_dir}: trained for {had} epochs: give a higher train.epochs to train on, or new "
            "logs and --to"
        )
    (train or _train_on_ray)(config, say)
    return Pipeline(config, say).evaluate()


def update_run(
    run_dir: Path,
    to: Path,
    logs: list[Path],
    items: list[Path],
    overrides: list[str] | None = None,
    *,
    test_share: float = 0.0,
    compare: bool = False,
    say: Say = print,
    train: Train | None = None,
) -> UpdateReport:
    """Makes the run `to`, which begins from a finished run and learns its log and the new ones.

    The same call goes on after a kill.

    Args:
        items: files with texts of new items, or newer ones of old items.
        test_share: share of the new interactions, the newest, to hold out and to evaluate on.
        compare: train from nothing too, in `<to>-retrained`.
        train: by default on Ray workers.
    Raises:
        ConfigError, DataError, StoreError, CheckpointError: before anything is trained.
    """
    if compare and not test_share:
        raise ConfigError("--compare: needs something to compare on: give --evaluate 0.2, say")
    start = time.perf_counter()
    previous = PreviousRun.open(run_dir)
    _refuse_taken(to, previous)
    train = train or _train_on_ray
    dataset = dataset_with(previous.config, logs, items)
    config = config_of_update(previous, dataset, to, overrides or [])
    config, rows = _split(config, previous, test_share)
    graph = Graph.open(Pipeline(config, _silent).prepare())
    if items and previous.inputs.vectors_without_texts:
        say(f"{items[0]}: no text of it is read, since {run_dir} has learnt without: train anew")
    report = _begun_report(previous, config, graph, rows)
    _refuse_other_update(to, config)
    train(config, say)
    report.seconds, report.training_seconds = time.perf_counter() - start, _seconds(config)
    pipeline = Pipeline(config, say)
    if test_share:
        report.metrics = pipeline.evaluate()["metrics"]
    else:
        pipeline.export(pipeline.directory.bundle)
    if compare:
        report.retrained = _retrained(config, to, bool(test_share), say, train)
    write_sealed_json(to / REPORT, asdict(report))
    for line in report.lines(config.evaluation.metric):
        say(line)
    return report


def _with_overrides(previous: PreviousRun, overrides: list[str]) -> RunConfig:
    values = previous.config.model_dump(mode="json")
    return config_of_values(values, previous.directory.config, overrides)


def _split(
    config: RunConfig, previous: PreviousRun, test_share: float
) -> tuple[RunConfig, NewRows]:
    """The config with its split, and what the new log brings. Raises DataError: nothing."""
    old = dataset_of(previous.graph)
    new = ingest_dataset(config.dataset, config.cache_dir)
    rows = new_rows(old, new)
    if not rows.count:
        raise DataError(
            f"no interaction that {previous.directory.path} has not learnt or held out already: "
            "give newer logs; to train for longer, leave --to out and give train.epochs"
        )
    if test_share:
        config = config_with_test(config, share_to_test(old, new, rows, test_share))
    return config, rows


def _begun_report(
    previous: PreviousRun, config: RunConfig, graph: Graph, rows: NewRows
) -> UpdateReport:
    """Raises DataError: users or items of the run are not in the new graph."""
    old = previous.graph
    for side, ids, new_ids in (
        ("users", old.user_ids, graph.user_ids),
        ("items", old.item_ids, graph.item_ids),
    ):
        if lost := lost_ids(ids, new_ids):
            raise DataError(
                f"{len(lost)} {side} of {previous.directory.path} are not in its files any more, "
                f"{lost[0]!r} for one: restore its log and dataset.{side}, or train anew"
            )
    return UpdateReport(
        of=str(previous.directory.path),
        checkpoint=previous.checkpoint.name,
        rows_carried=old.num_nodes,
        new_users=graph.num_users - old.num_users,
        new_items=graph.num_items - old.num_items,
        new_interactions=rows.count,
        users_with_new_interactions=rows.users,
        edges=graph.num_edges,
        epochs=config.train.epochs,
    )


def _refuse_taken(to: Path, previous: PreviousRun) -> None:
    """Raises StoreError: there is something else at `to`."""
    run = RunDirectory(to)
    if to.absolute() == previous.directory.path.absolute():
        raise StoreError(f"{to}: the run itself, which stays as it is: give --to another directory")
    if not to.exists():
        return
    if (to / REPORT).is_file():
        raise StoreError(f"{to}: an update that has ended: give --to another directory")
    known = to.is_dir() and all(path.name == LOCK for path in to.iterdir())
    if run.config.is_file():
        of = read_run(to)[1].update.of
        known = of is not None and of.absolute() == previous.directory.path.absolute()
    if not known:
        raise StoreError(f"{to}: exists, and is no update of this run: give another --to")


def _refuse_other_update(to: Path, config: RunConfig) -> None:
    """Raises StoreError: `to` was begun with other settings or files."""
    run = RunDirectory(to)
    if run.config.is_file() and read_run(to)[1].absolute() != config.absolute():
        raise StoreError(
            f"{to}: begun with other logs or settings: repeat that call to go on, or give --to "
            "another directory"
        )


def _retrained(config: RunConfig, to: Path, tests: bool, say: Say, train: Train) -> dict[str, Any]:
    """Trains from nothing on the same data, for comparison."""
    other = config_of_retraining(config, to.with_name(f"{to.name}-retrained").absolute())
    start = time.perf_counter()
    train(other, say)
    found = {"run": str(other.run_dir), "seconds": time.perf_counter() - start}
    metrics = Pipeline(other, say).evaluate()["metrics"] if tests else {}
    return {**found, "training_seconds": _seconds(other), "metrics": metrics}


def _seconds(config: RunConfig) -> float:
    """Seconds of a run's epochs."""
    records = read_metrics(RunDirectory(config.run_dir).metrics, "epoch")
    return float(sum(record["seconds"] for record in records))


def _train_on_ray(config: RunConfig, say: Say) -> None:
    Pipeline(config, say).fit()


def _silent(line: str) -> None:
    """Says nothing."""
