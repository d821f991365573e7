"""One trial of a search: a run in this process, reported to the pruner epoch by epoch."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from recmind_dist.errors import ConfigError, TrainingError
from recmind_dist.pipeline.in_process import train_in_process, validation_curve
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.types import Say


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended: its best validation score, that epoch, and the reason of a failure."""

    state: TrialState
    score: float | None = None
    epoch: int | None = None
    reason: str = ""


def run_trial(make_config: Callable[[], RunConfig], trial: optuna.Trial, say: Say) -> TrialResult:
    """Trains a trial to its end, or until the pruner stops it.

    Contradictory settings and losses that are not finite fail the trial; other errors end the
    search.
    """
    try:
        config = make_config()
    except ConfigError as error:
        return TrialResult(TrialState.FAIL, reason=str(error))
    run, metric = RunDirectory(config.run_dir), config.evaluation.metric
    try:
        train_in_process(config, lambda _: None, _Pruner(trial, run, metric))
    except TrainingError as error:
        return TrialResult(TrialState.FAIL, *_best(run, metric), str(error))
    except optuna.TrialPruned:
        return TrialResult(TrialState.PRUNED, *_best(run, metric))
    score, epoch = _best(run, metric)
    if score is None:
        reason = "no validation: the split holds out nothing for it: set graph.split"
        return TrialResult(TrialState.FAIL, reason=reason)
    return TrialResult(TrialState.COMPLETE, score, epoch)


class _Pruner:
    """Reports new validations to the trial; raises TrialPruned below the median of the others."""

    def __init__(self, trial: optuna.Trial, run: RunDirectory, metric: str) -> None:
        self.trial = trial
        self.run = run
        self.metric = metric
        self.reported = 0

    def __call__(self, _: dict[str, Any]) -> None:
        best = 0.0
        for record in validation_curve(self.run):
            best = max(best, record[self.metric])
            if record["epoch"] > self.reported:
                self.reported = record["epoch"]
                self.trial.report(best, self.reported)
                if self.trial.should_prune():
                    raise optuna.TrialPruned


def drop_checkpoints(home: Path, keep: str | None) -> None:
    """Deletes the checkpoints of all trials but the best."""
    for directory in home.glob("trial-*/checkpoints"):
        if directory.parent.name != keep:
            shutil.rmtree(directory, ignore_errors=True)


def _best(run: RunDirectory, metric: str) -> tuple[float | None, int | None]:
    curve = validation_curve(run)
    if not curve:
        return None, None
    record = max(curve, key=lambda record: (record[metric], -record["epoch"]))
    return float(record[metric]), int(record["epoch"])
