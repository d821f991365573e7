"""Training on one rank inside this process, without Ray: for tuning, studies, and machines where one worker is enough."""

import os
import uuid
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from recmind_dist.parallel import Ranks
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.training.fit import Say, fit, prepare_texts
from recmind_dist.training.rank_model import Inputs
from recmind_dist.training.run_config import RunConfig

Report = Callable[[dict[str, Any]], None]


def train_alone(
    config: RunConfig,
    say: Say = print,
    on_commit: Report | None = None,
    resume: str = "auto",
    allow_mismatch: bool = False,
) -> RunDirectory:
    """Trains a run to its end with one rank in this process. Its directory is one that `recmind evaluate` takes.

    Inputs are prepared as `Trainer` prepares them; Ray is started only where texts have to be embedded, and ended again.

    Args:
        config: scaling.num_workers is taken as 1, threads from scaling.threads_per_worker; say: takes one line at a time;
        on_commit: called after each checkpoint with {"step", …validation metrics so far}; what it raises ends the run.
    Raises:
        TrainingError: a loss is not finite; and whatever `Trainer.fit` raises.
    """
    from recmind_dist.training.trainer import Trainer

    scaling = config.scaling.model_copy(update={"num_workers": 1})
    trainer = Trainer(config.model_copy(update={"scaling": scaling}), say)
    config, run = trainer.config.absolute(), trainer.directory
    torch.set_num_threads(scaling.threads_per_worker)

    def train_here(config: RunConfig, inputs: Inputs, phases: tuple[str, ...], resume: str, mismatch: bool) -> None:
        _leave_ray()
        _train_phases(config, inputs, phases, resume, mismatch, on_commit or (lambda _: None))

    with run.lock():
        graph = trainer.prepare()
        if not config.trains:  # nothing to train: `evaluate` does all
            run.write_config(config.model_dump(mode="json"))
            return run
        try:
            fit(config, prepare_texts(config, graph), say, resume, allow_mismatch, train_here)
        finally:
            _leave_ray()
    for record in validation_curve(run)[-1:]:
        say(f"{run.path}: epoch {record['epoch']}: {config.evaluation.metric} {record[config.evaluation.metric]:.4f}")
    return run


def validation_curve(run: RunDirectory) -> list[dict[str, Any]]:
    """The validations of a run in order: {"epoch", "norm_exponent", "recall@20", …}; an epoch done twice stands once."""
    if not run.metrics.exists():
        return []
    by_epoch = {record["epoch"]: record for record in read_metrics(run.metrics, "validation")}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _train_phases(
    config: RunConfig, inputs: Inputs, phases: tuple[str, ...], resume: str, allow_mismatch: bool, report: Report
) -> None:
    """All of `Worker.all_fit`, on one rank alone."""
    from recmind_dist.training.worker import Worker

    run = RunDirectory(config.run_dir)
    run.create()
    ranks = _join_alone(config)
    worker = Worker(config, inputs, ranks, run, uuid.uuid4().hex, report, resume, allow_mismatch)
    worker.all_fit(phases)


def _join_alone(config: RunConfig) -> Ranks:
    """A process group of one rank alone, which DeepSpeed needs. It lasts as long as the process: DeepSpeed keeps hold of it."""
    wants_gpu = config.scaling.device == "cuda" or (config.scaling.device == "auto" and torch.cuda.is_available())
    if not dist.is_initialized():
        backend = "nccl" if wants_gpu else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]  # public in torch's manual, not in its stubs
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    scaling, device = config.scaling, torch.device("cuda" if wants_gpu else "cpu")
    return Ranks.all_join(device, scaling.collective_timeout_s, scaling.shared_memory)


def _leave_ray() -> None:
    """Ends the Ray that embedding has started: it would keep its memory through the whole training."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
