"""One trial of a search: a run in this process, told to the pruner epoch by epoch, whose failure
costs only itself.
"""

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
class LossTerms:
    """How a trial ended: its best validation score so far and the epoch of that; why, if it failed."""

    state: TrialState
    score: float | None = None
    epoch: int | None = None
    reason: str = ""


def run_trial(make_config: Callable[[], RunConfig], trial: optuna.Trial, say: Say) -> LossTerms:
    """Trains a trial to its end or to where the pruner stops it.

    Settings that contradict each other and losses that are not finite fail the trial; other errors
    end the search.
    """
    try:
        config = make_config()
    except ConfigError as error:
        return LossTerms(TrialState.FAIL, reason=str(error))
    run, metric = RunDirectory(config.run_dir), config.evaluation.metric
    try:
        train_in_process(config, lambda _: None, _Watch(trial, run, metric))
    except TrainingError as error:
        return LossTerms(TrialState.FAIL, *_best(run, metric), str(error))
    except optuna.TrialPruned:
        return LossTerms(TrialState.PRUNED, *_best(run, metric))
    score, epoch = _best(run, metric)
    if score is None:
        return LossTerms(
            TrialState.FAIL,
            reason="no validation: the split holds out nothing for it: set graph.split",
        )
    return LossTerms(TrialState.COMPLETE, score, epoch)


class _Watch:
    """Tells the trial each new validation, and raises TrialPruned where it lies below the median of
    the others.
    """

    def __init__(self, trial: optuna.Trial, run: RunDirectory, metric: str) -> None:
        self.trial, self.run, self.metric = trial, run, metric
        self.told = 0

    def __call__(self, _: dict[str, Any]) -> None:
        best = 0.0
        for record in validation_curve(self.run):
            best = max(best, record[self.metric])
            if record["epoch"] > self.told:
                self.told = record["epoch"]
                self.trial.report(best, self.told)
                if self.trial.should_prune():
                    raise optuna.TrialPruned


def drop_checkpoints(home: Path, keep: str | None) -> None:
    """Frees the disk of all trials' checkpoints but those of the best."""
    for directory in home.glob("trial-*/checkpoints"):
        if directory.parent.name != keep:
            shutil.rmtree(directory, ignore_errors=True)


def _best(run: RunDirectory, metric: str) -> tuple[float | None, int | None]:
    curve = validation_curve(run)
    if not curve:
        return None, None
    record = max(curve, key=lambda record: (record[metric], -record["epoch"]))
    return float(record[metric]), int(record["epoch"])
