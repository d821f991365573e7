"""`tune`: a search of a fixed budget on validation, which the same command goes on with after a
stop.

Trial n is a function of the trials before it and of (seed, n), so a stop does not change the
outcome. Test data are never opened: a trial trains and validates.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from recmind_dist.config import dump_yaml
from recmind_dist.errors import ConfigError, TrainingError
from recmind_dist.experiments.data import refuse_missing_data
from recmind_dist.experiments.space import Space, as_word, default_space, load_space
from recmind_dist.experiments.trial_runs import drop_checkpoints, run_trial
from recmind_dist.launch.device import choose_device_here
from recmind_dist.randomness import stream_key
from recmind_dist.report import MetricsLog
from recmind_dist.report.tables import markdown_table
from recmind_dist.run_config.defaults import STEPS, STEPS_AN_EPOCH
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.run_config.variants import VARIANTS
from recmind_dist.storage import content_key, directory_lock, write_bytes
from recmind_dist.types import Say

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
NOT_TUNED = ("run_dir", "compare", "variant", "evaluation")
HEADERS = ("trial", "state", "score", "epoch", "seed", "seconds", "settings")


@dataclass(frozen=True)
class Search:
    """One search: its directory, what it varies, and the config of a trial."""

    path: Path
    overrides: list[str]
    space: Space
    seed: int
    base: RunConfig

    @property
    def home(self) -> Path:
        """<run_dir>: journal.log, trials.jsonl, trials.md, best.yaml, a directory per trial."""
        return self.base.run_dir.absolute()

    def config(self, values: dict[str, Any], run_dir: Path) -> RunConfig:
        """The config with these values. Raises ConfigError if they contradict each other."""
        words = [as_word(key, value) for key, value in values.items()]
        words += [f"run_dir={run_dir}", "compare=[]", "storage_uri=null"]
        config = load_run_config(self.path, [*self.overrides, *words])
        train = config.train.model_copy(update={"seed": self.seed})
        return config.model_copy(update={"train": train})


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        path: best.yaml.
        trial: number of the best one.
        score: its validation `metric`.
        values: its settings, by key.
        trials: all that ended, the best first: see `HEADERS`.
    """

    path: Path
    trial: int
    metric: str
    score: float
    values: dict[str, Any]
    trials: list[list[Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [dict(zip(HEADERS, row, strict=True)) for row in self.trials]
        return {**asdict(self), "trials": rows}


def tune(
    path: Path, overrides: list[str], trials: int, seed: int, space: Path | None, say: Say
) -> Found:
    """Searches until `trials` trials are done, earlier calls included.

    Args:
        seed: of the search, and of the training of every trial
        space: None: see `default_space`
    Raises:
        ConfigError: config or space is not valid, run_dir has a search with others, or a GPU is
            asked for that is not there.
        TrainingError: no trial ended well.
    """
    search = _prepare(path, overrides, seed, space)
    refuse_missing_data(search.base)
    choose_device_here(search.base.scaling)  # refuses a GPU that is not there
    with directory_lock(search.home), MetricsLog(search.home / "trials.jsonl") as log:
        study = _open(search)
        _recover(study, log)
        while len(done := _finished(study)) < trials:
            _run_next(search, study, log, f"[{len(done) + 1}/{trials}]", say)
        return _conclude(search, study, say)


def trial_rows(study: optuna.Study) -> list[list[Any]]:
    """One row a finished trial, the best first, then those without a score."""
    rows = []
    for trial in _finished(study):
        attrs = trial.user_attrs
        values = attrs.get("values", {}).items()
        settings = ", ".join(f"{key}={_short(value)}" for key, value in values)
        if attrs.get("reason"):
            settings += f": {attrs['reason']}"
        score = trial.value if trial.state == TrialState.COMPLETE else attrs.get("score")
        times = (attrs.get("epoch"), attrs.get("seed"), attrs.get("seconds"))
        rows.append([trial.number, STATES[trial.state], score, *times, settings])
    return sorted(rows, key=lambda row: (row[1] != "complete", -(row[2] or 0.0), row[0]))


def _prepare(path: Path, overrides: list[str], seed: int, space: Path | None) -> Search:
    base = load_run_config(path, overrides)
    space = space or default_space(path, base.variant)
    search = Search(path, overrides, load_space(space), seed, base)
    fixed = [key for key in search.space if _sets(VARIANTS.get(base.variant, {}), key.split("."))]
    if fixed:
        raise ConfigError(
            f"{space}: {fixed[0]}: variant {base.variant} decides this key: leave it out"
        )
    for key, dimension in search.space.items():
        if key == "train.seed" or key.partition(".")[0] in NOT_TUNED:
            fault = "not for tuning: it would change how trials are judged"
            raise ConfigError(f"{space}: {key}: {fault}: leave it out")
        search.config({key: dimension.example}, search.home)  # refuses an unknown key
    return search


def _open(search: Search) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(search.home / "journal.log")))
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=5,
        n_warmup_steps=max(1, (search.base.train.epochs or STEPS // STEPS_AN_EPOCH) // 4),
    )
    study = optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True
    )
    shared = search.base.model_dump(mode="json", exclude={"run_dir", "cache_dir", "compare"})
    space = {key: dimension.model_dump(mode="json") for key, dimension in search.space.items()}
    key = content_key([shared, space, search.seed])
    if study.user_attrs.get("key", key) != key:
        raise ConfigError(
            f"{search.home}: holds a search with another config, space or seed: restore them, or "
            "choose another run_dir"
        )
    study.set_user_attr("key", key)
    return study


def _recover(study: optuna.Study, log: MetricsLog) -> None:
    """Trials that were cut short run first, with their values and in their directories."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get("values"):
            study.enqueue_trial(trial.params, user_attrs={"directory": _directory(trial)})
        study.tell(trial.number, state=TrialState.FAIL)
        log.log("interrupted", trial=trial.number)


def _run_next(search: Search, study: optuna.Study, log: MetricsLog, count: str, say: Say) -> None:
    start = time.monotonic()
    # a sampler per trial: its draws must not depend on trials that this process ran before
    study.sampler = optuna.samplers.TPESampler(
        seed=stream_key(search.seed, "trial", len(_finished(study))) & 0xFFFF_FFFF,
        n_startup_trials=8,
    )
    trial = study.ask()
    values = {key: dimension.suggest(trial, key) for key, dimension in search.space.items()}
    trial.set_user_attr("values", values)
    trial.set_user_attr("seed", search.seed)
    name = _directory(trial)
    result = run_trial(lambda: search.config(values, search.home / name), trial, say)
    outcome = {"score": result.score, "epoch": result.epoch, "reason": result.reason}
    outcome["seconds"] = round(time.monotonic() - start, 1)
    for key, value in outcome.items():
        trial.set_user_attr(key, value)
    complete = result.state == TrialState.COMPLETE
    study.tell(trial, result.score if complete else None, result.state)
    state = STATES[result.state]
    record = {"trial": trial.number, "state": state, **outcome, "values": values}
    log.log("trial", **record, seed=search.seed, directory=name)
    metric = search.base.evaluation.metric
    score = "" if result.score is None else f"{metric} {result.score:.4f}"
    say(f"{count} trial {trial.number}: {state} {score} {result.reason}".rstrip())
    drop_checkpoints(search.home, keep=_directory(study.best_trial) if _complete(study) else None)


def _conclude(search: Search, study: optuna.Study, say: Say) -> Found:
    metric, rows = search.base.evaluation.metric, trial_rows(study)
    table = markdown_table(HEADERS, rows)
    page = f"# Trials, by validation {metric}\n\n{table}"
    write_bytes(search.home / "trials.md", page.encode())
    say(table)
    if not _complete(study):
        reasons = {str(trial.user_attrs.get("reason", "")) for trial in study.trials} - {""}
        raise TrainingError(
            f"{search.home}: none of {len(study.trials)} trials ended well "
            f"({'; '.join(sorted(reasons))[:300]}): narrow the space"
        )
    best = study.best_trial
    values, score = best.user_attrs["values"], study.best_value
    config = search.config(values, search.base.run_dir / "best")
    out = search.home / "best.yaml"
    write_bytes(out, dump_yaml(config.model_dump(mode="json")).encode())
    if load_run_config(out) != config:
        fault = f"variant {config.variant} changes tuned keys"
        raise ConfigError(f"{out}: does not read back as it was written: {fault}")
    say(f"best: trial {best.number}, validation {metric} {score:.4f}: {out}")
    return Found(out, best.number, metric, score, values, rows)


def _directory(trial: optuna.Trial | FrozenTrial) -> str:
    return str(trial.user_attrs.get("directory") or f"trial-{trial.number:04d}")


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended; those that were cut short are tried again, and do not count."""
    trials = study.get_trials(deepcopy=False, states=tuple(STATES))
    return [trial for trial in trials if "seconds" in trial.user_attrs]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _sets(values: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
