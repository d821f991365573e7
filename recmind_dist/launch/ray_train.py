"""Training on Ray Train, which only this file imports: starts, restarts, and errors of workers."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray.train import FailureConfig, ScalingConfig, report
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from recmind_dist import errors
from recmind_dist.causes import cause_in, cause_of
from recmind_dist.distributed.accelerator import CPU_RANK, CUDA_RANK
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError, RecmindError, TrainingError, WorkerLostError
from recmind_dist.kernels.memory import KEEP_FREED_MEMORY
from recmind_dist.launch.card import check_card
from recmind_dist.launch.cluster import (
    START_ATTEMPTS,
    check_nodes,
    publish_requirements,
    start_ray,
    wait_for_room,
)
from recmind_dist.launch.device import choose_device, has_cuda, refuse_cuda_alone
from recmind_dist.launch.machine import shared_memory
from recmind_dist.launch.node_check import NodeRequirements, check_node, name_of_this_node
from recmind_dist.report import RunDirectory
from recmind_dist.report.follow import follow_training
from recmind_dist.report.metrics_log import WarningsToMetrics
from recmind_dist.report.ray_gauges import show_in_ray
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json, write_json
from recmind_dist.training.evaluate import evaluate_run
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.trainer import Trainer
from recmind_dist.types import Say

log = logging.getLogger(__name__)
RESIZE_CHECK_S = 60.0
"""Seconds between looks for room for more workers, with [min, max]; Ray's own default."""


def train(
    config: RunConfig,
    inputs: RunStores,
    phases: tuple[str, ...],
    resume: str = "auto",
    allow_mismatch: bool = False,
    say: Say = print,
) -> None:
    """Trains `phases` on Ray workers, and restarts them after a loss up to scaling.max_failures
    times.

    Args:
        say: called with one line on the device
    Raises:
        RecmindError: what a worker refused, in its words.
        TrainingError: workers were lost too often.
    """
    run = RunDirectory(config.run_dir.absolute())
    order = {"phases": list(phases), "resume": resume, "allow_mismatch": allow_mismatch}
    with follow_training(run.metrics, config.evaluation.metric):
        _run_workers(train_on_worker, config, inputs, "scaling.num_workers", order, say)


def evaluate_on_workers(config: RunConfig, inputs: RunStores, say: Say = print) -> None:
    """Evaluates a run on evaluation.num_workers Ray workers, which write results.json.

    Raises as `train`.
    """
    _run_workers(evaluate_on_worker, config, inputs, "evaluation.num_workers", {}, say)


def _run_workers(
    function: Callable[[dict[str, Any]], None],
    config: RunConfig,
    inputs: RunStores,
    key: Literal["scaling.num_workers", "evaluation.num_workers"],
    more: dict[str, Any],
    say: Say,
) -> None:
    trains = key == "scaling.num_workers"
    num_workers = config.scaling.num_workers if trains else config.evaluation.num_workers
    refuse_cuda_alone(config.scaling, num_workers, key)
    for line in shared_memory():
        say(line)
    start_ray(config)
    few, many = (num_workers, num_workers) if isinstance(num_workers, int) else num_workers
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    choice = choose_device(config.scaling, few, num_gpus, has_cuda())
    choice.tell(say)
    kind = "GPU" if choice.device == "cuda" else "CPU"
    wait_for_room(config, few, kind)
    with publish_requirements(config, inputs, many, kind) as requirements:
        check_nodes(requirements)
        more = {"requirements": requirements.to_json(), **more}
        _run_trainer(function, config, inputs, num_workers, choice.device, more)


def _run_trainer(
    function: Callable[[dict[str, Any]], None],
    config: RunConfig,
    inputs: RunStores,
    num_workers: int | tuple[int, int],
    device: str,
    more: dict[str, Any],
) -> None:
    run = RunDirectory(config.run_dir.absolute())
    call = uuid.uuid4().hex[:8]
    refusal = run.logs / f"refused-{call}.json"
    order = {
        "config": config.absolute().model_dump(mode="json"),
        "inputs": inputs.to_json(),
        "run_dir": str(run.path),
        "device": device,
        "begun": str(run.logs / f"begun-{call}"),
        "refusal": str(refusal),
        **more,
    }
    use_gpu = device == "cuda"
    # the controller's process takes it from the driver
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.scaling.start_timeout_s)
    scaling = config.scaling
    environment = KEEP_FREED_MEMORY | (CUDA_RANK if use_gpu else CPU_RANK)
    trainer = TorchTrainer(
        function,
        train_loop_config=order,
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=scaling.collective_timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=RayRunConfig(
            name=call,
            storage_path=str(run.logs / "ray"),
            worker_runtime_env={"env_vars": environment},
            failure_config=FailureConfig(
                max_failures=scaling.max_failures, controller_failure_limit=START_ATTEMPTS - 1
            ),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        raise _not_started(config, num_workers, error) from error
    except TrainingFailedError as error:
        raise _worker_error(refusal, error) from error
    if refusal.exists():
        raise _worker_error(refusal, None)


def train_on_worker(order: dict[str, Any]) -> None:
    """Ray runs it on each training worker. Collective: every rank must call."""
    with _worker_context(order) as (config, inputs, context, run):
        if context is None:
            return
        attempt = context.broadcast_str(uuid.uuid4().hex)
        # from rank 0: shared storage may show a new file to some nodes later than to others
        resume = context.broadcast_str("auto" if Path(order["begun"]).exists() else order["resume"])
        mismatch = order["allow_mismatch"]
        trainer = Trainer(config, inputs, context, run, attempt, report, resume, mismatch)
        if trainer.metrics is not None:
            show_in_ray(trainer.metrics, run.path, config.evaluation.metric)
        context.barrier()
        Path(order["begun"]).touch()  # a restart of this call resumes, even with --resume never
        trainer.train(tuple(order["phases"]))


def evaluate_on_worker(order: dict[str, Any]) -> None:
    """Ray runs it on each evaluating worker. Collective: every rank must call."""
    with _worker_context(order) as (config, inputs, context, run):
        if context is not None:
            evaluate_run(config, inputs, run, context)


@contextmanager
def _worker_context(
    order: dict[str, Any],
) -> Iterator[tuple[RunConfig, RunStores, DistContext | None, RunDirectory]]:
    """A worker's settings and process group. Collective: every rank must call.

    An error that the user must mend is written to the refusal file, and not tried again: from then
    on every worker gets None for its group.
    """
    refusal = Path(order["refusal"])
    config = RunConfig.model_validate(order["config"])
    inputs = RunStores.from_json(order["inputs"])
    run = RunDirectory(Path(order["run_dir"]))
    torch.set_num_threads(config.scaling.threads_per_worker)
    refused = refusal.exists()
    # this node may have joined after the driver's check
    if not refused and (fault := check_node(NodeRequirements(**order["requirements"]))):
        refused_node = ConfigError(f"node {name_of_this_node()} {fault}")
        if refusal.parent.is_dir():
            _write_error(refusal, refused_node)
        raise refused_node
    device = get_device() if order["device"] == "cuda" else torch.device("cpu")
    context = DistContext.join_group(
        device, config.scaling.collective_timeout_s, config.scaling.shared_memory
    )
    # all ranks or none: one that sees the refusal late would wait for the others
    if context.all_reduce(torch.tensor([float(refused)], device=context.device)).item():
        yield config, inputs, None, run
        return
    warnings = WarningsToMetrics(run.metrics, context.rank)
    logging.getLogger("recmind_dist").addHandler(warnings)
    try:
        if mixed := check_card(config, inputs, context):
            log.warning("%s", mixed)
        yield config, inputs, context, run
    except WorkerLostError as error:
        # a new start may succeed, so this is no refusal
        log.warning("%s", error)  # into metrics.jsonl
        _write_error(_lost_file(refusal), error)
        raise
    except RecmindError as error:
        _write_error(refusal, error)
        raise
    except Exception as error:
        # Ray passes on only the outermost error, and both ends of its traceback
        cause = f"rank {context.rank} of {context.world_size}: {cause_of(error)}"
        write_json(_failure_file(refusal), {"message": str(error), "cause": cause})
        raise
    finally:
        logging.getLogger("recmind_dist").removeHandler(warnings)
        warnings.close()


def _write_error(path: Path, error: RecmindError) -> None:
    write_json(path, {"error": type(error).__name__, "message": str(error)})


def _not_started(
    config: RunConfig, num_workers: int | tuple[int, int], error: ControllerError
) -> TrainingError:
    if "Timeout" not in type(getattr(error, "controller_failure", error)).__name__:
        return TrainingError(
            f"workers failed: {cause_of(error)}: see the logs, then run the same command again"
        )
    few = num_workers if isinstance(num_workers, int) else num_workers[0]
    return TrainingError(
        f"no room for {few} workers after {START_ATTEMPTS} waits of "
        f"{config.scaling.start_timeout_s:g} s (scaling.start_timeout_s): the nodes are in use by "
        "others: wait for them, add nodes, or lower scaling.num_workers"
    )


def _lost_file(refusal: Path) -> Path:
    """Where workers write that they lost each other."""
    return refusal.with_name(refusal.name.replace("refused", "lost"))


def _failure_file(refusal: Path) -> Path:
    """Where a worker writes the first cause of any other error; the last attempt's stays."""
    return refusal.with_name(refusal.name.replace("refused", "failed"))


def _worker_error(refusal: Path, error: Exception | None) -> RecmindError:
    """The error that a worker wrote, or what Ray reports."""
    # another failure is the cause of ranks that lost each other, and is reported instead
    failures = getattr(error, "worker_failures", {}).values()
    only_lost = bool(failures) and all(WorkerLostError.__name__ in str(f) for f in failures)
    path = refusal if refusal.exists() or not only_lost else _lost_file(refusal)
    if path.exists():
        written = read_json(path)
        kind: Callable[[str], RecmindError]
        kind = getattr(errors, str(written.get("error")), TrainingError)
        return kind(str(written.get("message")))
    cause = _first_cause(refusal, error)
    return TrainingError(f"workers failed: {cause}: see the logs, then run the same command again")


def _first_cause(refusal: Path, error: Exception | None) -> str:
    """As the worker wrote it, if it is about this failure; else as Ray reports it."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [f for f in failures if WorkerLostError.__name__ not in str(f)]
    if _failure_file(refusal).exists():
        written = read_json(_failure_file(refusal))
        if any(str(failure) == written.get("message") for failure in causes):
            return str(written.get("cause"))
    return cause_of(causes[0]) if causes else cause_in(str(error))
