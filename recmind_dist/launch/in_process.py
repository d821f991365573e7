"""Training on one rank inside this process, without Ray."""

import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from recmind_dist.causes import telling_line
from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.settings import ScalingSettings
from recmind_dist.errors import ConfigError
from recmind_dist.launch.card import Card, check_card
from recmind_dist.launch.device import choose_evaluation_device, gpus_here
from recmind_dist.launch.device_memory import shortage
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from recmind_dist.types import Say

Report = Callable[[dict[str, Any]], None]


def train_phases(
    config: RunConfig,
    inputs: RunStores,
    phases: tuple[str, ...],
    context: DistContext,
    resume: str,
    allow_mismatch: bool,
    report: Report,
) -> None:
    """`Trainer.train` on one rank alone."""
    from recmind_dist.training.trainer import Trainer

    check_card(config, inputs, context)
    run = RunDirectory(config.run_dir)
    run.create()
    attempt = uuid.uuid4().hex
    Trainer(config, inputs, context, run, attempt, report, resume, allow_mismatch).train(phases)


def join_group_of_one(config: RunConfig, device: str) -> DistContext:
    """A process group of one rank alone, for DeepSpeed, which keeps it to the end."""
    backend = "nccl" if device == "cuda" else "gloo"
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in torch's stubs
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    elif dist.get_backend() != backend:
        raise ConfigError(
            f"scaling.device: the run is on {device}, and this process has trained by "
            f"{dist.get_backend()}, on another device: start it in another process"
        )
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed reads it
    rank_device = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(rank_device)
    return DistContext.join_group(
        rank_device, config.scaling.collective_timeout_s, config.scaling.shared_memory
    )


def evaluation_context(
    scaling: ScalingSettings, kept_bytes: Callable[[], Mapping[str, int]], say: Say
) -> DistContext:
    """A world of one in this process, to evaluate a run or to recommend: on a GPU if there is one
    with room.

    Args:
        kept_bytes: makes the bytes by part that the run keeps on the device
        say: called with one line on the device, unless that is the CPU as a matter of course
    """
    num_gpus = 0 if scaling.device == "cpu" else gpus_here()
    fault = _fault_of_gpu(kept_bytes()) if num_gpus else None
    choice = choose_evaluation_device(scaling, num_gpus, fault)
    choice.tell(say)
    return DistContext.alone("cuda:0" if choice.device == "cuda" else "cpu")


def _fault_of_gpu(parts: Mapping[str, int]) -> str | None:
    try:
        card = Card.of(torch.device("cuda", 0))
    except RuntimeError as error:  # a driver that does not fit, a GPU that is not let in
        return f"cannot use it ({telling_line(str(error))})"
    return shortage(parts, card.free_bytes, card.name)


def leave_ray() -> None:
    """Stops the Ray that embedding has started: it would hold its memory during training."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
