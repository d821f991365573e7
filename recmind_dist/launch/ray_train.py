"""Ray Train: the only file that imports it. Starts the workers, restarts them after a loss, brings
errors home.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from recmind_dist.launch.cluster import (
    START_ATTEMPTS,
    check_nodes,
    publish_requirements,
    start_ray,
    wait_for_room,
)
from recmind_dist.launch.device import DeviceChoice, choose_device, has_cuda
from recmind_dist.launch.node_check import NodeRequirements, check_node, name_of_this_node
from recmind_dist.report import RunDirectory
from recmind_dist.report.follow import follow_training
from recmind_dist.report.metrics_log import WarningsToMetrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json, write_json
from recmind_dist.training.evaluate import evaluate_run
from recmind_dist.training.inputs import Inputs
from recmind_dist.training.trainer import Trainer
from recmind_dist.types import Say

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    inputs: Inputs,
    phases: tuple[str, ...],
    resume: str = "auto",
    allow_mismatch: bool = False,
    say: Say = print,
) -> None:
    """Trains `phases` on Ray workers, restarting them after a loss up to scaling.max_failures
    times.

    Args:
        say: takes one line on the device that they train on.
    Raises:
        RecmindError: what a worker refused, as it said it; TrainingError: workers were lost too
        often.
    """
    run = RunDirectory(config.run_dir.absolute())
    order = {"phases": list(phases), "resume": resume, "allow_mismatch": allow_mismatch}
    with follow_training(run.metrics):
        _run_workers(train_on_worker, config, inputs, config.scaling.num_workers, order, say)


def evaluate_on_workers(config: RunConfig, inputs: Inputs, say: Say = print) -> None:
    """Evaluates a run on evaluation.num_workers Ray workers, which write results.json. Arguments
    and errors as `train`.
    """
    _run_workers(evaluate_on_worker, config, inputs, config.evaluation.num_workers, {}, say)


def _run_workers(
    function: Callable[[dict[str, Any]], None],
    config: RunConfig,
    inputs: Inputs,
    num_workers: int | tuple[int, int],
    more: dict[str, Any],
    say: Say,
) -> None:
    start_ray(config)
    few, many = (num_workers, num_workers) if isinstance(num_workers, int) else num_workers
    choice = _choose_device(config, few)
    choice.tell(say)
    kind = "GPU" if choice.device == "cuda" else "CPU"
    wait_for_room(config, few, kind)
    with publish_requirements(config, inputs, many, kind) as place:
        check_nodes(place)
        _run_trainer(
            function, config, inputs, num_workers, choice.device, {"place": place.to_json(), **more}
        )


def _run_trainer(
    function: Callable[[dict[str, Any]], None],
    config: RunConfig,
    inputs: Inputs,
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
    # read by the controller, whose process is started with the driver's value
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.scaling.start_timeout_s)
    trainer = TorchTrainer(
        function,
        train_loop_config=order,
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=config.scaling.collective_timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            elastic_resize_monitor_interval_s=config.scaling.resize_check_s,
        ),
        run_config=RayRunConfig(
            name=call,
            storage_path=str(run.logs / "ray"),
            worker_runtime_env={
                "env_vars": KEEP_FREED_MEMORY | (CUDA_RANK if use_gpu else CPU_RANK)
            },
            failure_config=FailureConfig(
                max_failures=config.scaling.max_failures,
                controller_failure_limit=START_ATTEMPTS - 1,
            ),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        raise _not_started(config, num_workers, error) from error
    except TrainingFailedError as error:
        raise _told(refusal, error) from error
    if refusal.exists():
        raise _told(refusal, None)


def train_on_worker(order: dict[str, Any]) -> None:
    """What Ray runs on each training worker. Every rank must call."""
    with _joined(order) as (config, inputs, context, run):
        if context is None:
            return
        attempt = context.broadcast_str(uuid.uuid4().hex)
        # rank 0's view of it: shared storage may show a new file to some nodes later than to others
        resume = context.broadcast_str("auto" if Path(order["begun"]).exists() else order["resume"])
        worker = Trainer(
            config, inputs, context, run, attempt, report, resume, order["allow_mismatch"]
        )
        context.barrier()
        Path(order["begun"]).touch()  # a restart of this call resumes, whatever the call said
        worker.train(tuple(order["phases"]))


def evaluate_on_worker(order: dict[str, Any]) -> None:
    """What Ray runs on each evaluating worker. Every rank must call."""
    with _joined(order) as (config, inputs, context, run):
        if context is not None:
            evaluate_run(config, inputs, run, context)


@contextmanager
def _joined(
    order: dict[str, Any],
) -> Iterator[tuple[RunConfig, Inputs, DistContext | None, RunDirectory]]:
    """A worker's place and settings. An error that a person must mend is written down, and then
    not tried again: then all workers get no place. Every rank must call.
    """
    refusal = Path(order["refusal"])
    config = RunConfig.model_validate(order["config"])
    inputs = Inputs.from_json(order["inputs"])
    run = RunDirectory(Path(order["run_dir"]))
    torch.set_num_threads(config.scaling.threads_per_worker)
    refused = refusal.exists()
    if not refused and (
        fault := check_node(NodeRequirements(**order["place"]))
    ):  # a node that has come since the driver asked
        fault = f"node {name_of_this_node()} {fault}"
        if refusal.parent.is_dir():
            write_json(refusal, {"error": ConfigError.__name__, "message": fault})
        raise ConfigError(fault)
    device = get_device() if order["device"] == "cuda" else torch.device("cpu")
    context = DistContext.join_group(
        device, config.scaling.collective_timeout_s, config.scaling.shared_memory
    )
    # together: a worker that sees the refusal late would wait for the others
    if context.all_reduce(torch.tensor([float(refused)], device=context.device)).item():
        yield config, inputs, None, run
        return
    warnings = WarningsToMetrics(run.metrics, context.rank)
    logging.getLogger("recmind_dist").addHandler(warnings)
    try:
        yield config, inputs, context, run
    except WorkerLostError as error:
        log.warning(
            "%s", error
        )  # into metrics.jsonl; a new start may succeed, so this is no refusal
        write_json(_lost(refusal), {"error": type(error).__name__, "message": str(error)})
        raise
    except RecmindError as error:
        write_json(refusal, {"error": type(error).__name__, "message": str(error)})
        raise
    except Exception as error:
        # Ray brings home the outermost error alone, and of its traceback both ends
        cause = f"rank {context.rank} of {context.world_size}: {cause_of(error)}"
        write_json(_failed(refusal), {"message": str(error), "cause": cause})
        raise
    finally:
        logging.getLogger("recmind_dist").removeHandler(warnings)
        warnings.close()


def _choose_device(config: RunConfig, num_workers: int) -> DeviceChoice:
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    return choose_device(config.scaling, num_workers, num_gpus, has_cuda())


def _not_started(
    config: RunConfig, num_workers: int | tuple[int, int], error: ControllerError
) -> TrainingError:
    """Ray could not place the workers, or its controller failed."""
    if "Timeout" not in type(getattr(error, "controller_failure", error)).__name__:
        return TrainingError(
            f"workers failed: {cause_of(error)}: see the logs, then run the same command again"
        )
    few = num_workers if isinstance(num_workers, int) else num_workers[0]
    return TrainingError(
        f"no place for {few} workers after {START_ATTEMPTS} waits of "
        f"{config.scaling.start_timeout_s:g} s "
        "(scaling.start_timeout_s): the nodes are in use by others: wait for them, add nodes, or "
        "lower scaling.num_workers"
    )


def _lost(refusal: Path) -> Path:
    """Where workers write that they lost each other."""
    return refusal.with_name(refusal.name.replace("refused", "lost"))


def _failed(refusal: Path) -> Path:
    """Where a worker writes the first cause of an error that is no refusal; the last attempt's
    stays.
    """
    return refusal.with_name(refusal.name.replace("refused", "failed"))


def _told(refusal: Path, error: Exception | None) -> RecmindError:
    """The error that a worker wrote down, or what Ray says."""
    # that ranks lost each other is worth telling only where no rank has another failure, which will
    # be the cause
    failures = getattr(error, "worker_failures", {}).values()
    only_lost = bool(failures) and all(
        WorkerLostError.__name__ in str(failure) for failure in failures
    )
    written = refusal if refusal.exists() or not only_lost else _lost(refusal)
    if written.exists():
        told = read_json(written)
        kind: Callable[[str], RecmindError] = getattr(errors, str(told.get("error")), TrainingError)
        return kind(str(told.get("message")))
    return TrainingError(
        f"workers failed: {_first_cause(refusal, error)}: see the logs, then run the same command "
        "again"
    )


def _first_cause(refusal: Path, error: Exception | None) -> str:
    """As the worker wrote it down, if that is the failure at hand; else as far as Ray tells."""
    own = [
        f
        for f in getattr(error, "worker_failures", {}).values()
        if WorkerLostError.__name__ not in str(f)
    ]
    if _failed(refusal).exists():
        written = read_json(_failed(refusal))
        if any(str(failure) == written.get("message") for failure in own):
            return str(written.get("cause"))
    return cause_of(own[0]) if own else cause_in(str(error))
