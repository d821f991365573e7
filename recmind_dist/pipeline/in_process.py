"""A whole run on one rank in this process: for tuning, studies and small machines."""

from functools import partial
from typing import Any

import torch

from recmind_dist.launch.device import choose_device_here
from recmind_dist.launch.in_process import Report, join_group_of_one, leave_ray, train_phases
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.train import fit, prepare_texts
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from recmind_dist.types import Say


def train_in_process(
    config: RunConfig,
    say: Say = print,
    on_commit: Report | None = None,
    resume: str = "auto",
    allow_mismatch: bool = False,
) -> RunDirectory:
    """Trains a run to its end on one rank alone, in this process; `recmind evaluate` reads its
    directory.

    Ray is started only if texts must be embedded, and stopped before training.

    Args:
        config: its scaling.num_workers is taken as 1.
        say: called with each line of progress.
        on_commit: called after each checkpoint with {"step", …validation metrics}; what it raises
            ends the run
    Raises:
        ConfigError: the device is cuda and there is none, or this process has trained on another.
        TrainingError: a loss is not finite; and whatever `Pipeline.fit` raises.
    """
    scaling = config.scaling.model_copy(update={"num_workers": 1})
    pipeline = Pipeline(config.model_copy(update={"scaling": scaling}), say)
    run = pipeline.directory
    torch.set_num_threads(scaling.threads_per_worker)
    choice = choose_device_here(scaling)

    with run.lock():
        graph = pipeline.prepare_for_texts()
        config = pipeline.config.absolute()
        if not config.trains:
            run.write_config(config.model_dump(mode="json"))
            return run
        choice.tell(say)
        try:
            train = partial(_train_here, choice.device, on_commit or (lambda _: None))
            prepared = prepare_texts(config, graph)
            device = "cpu" if config.train.deterministic else choice.device
            fit(config, prepared, say, resume, allow_mismatch, train, device)
        finally:
            leave_ray()
    metric = config.evaluation.metric
    for record in validation_curve(run)[-1:]:
        of = ""
        if "users" in record:
            of = f" on a sample of {record['users']:,} of {record['of_users']:,} users"
        say(f"{run.path}: epoch {record['epoch']}: {metric} {record[metric]:.4f}{of}")
    return run


def _train_here(
    device: str,
    report: Report,
    config: RunConfig,
    inputs: RunStores,
    phases: tuple[str, ...],
    resume: str,
    allow_mismatch: bool,
) -> None:
    leave_ray()
    context = join_group_of_one(config, device)
    train_phases(config, inputs, phases, context, resume, allow_mismatch, report)


def validation_curve(run: RunDirectory) -> list[dict[str, Any]]:
    """A run's validations by epoch: {"epoch", "norm_exponent", "recall@20", …}, and on a sample
    {"users", "of_users"}.
    """
    if not run.metrics.exists():
        return []
    by_epoch = {record["epoch"]: record for record in read_metrics(run.metrics, "validation")}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
