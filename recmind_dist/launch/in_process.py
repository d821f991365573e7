"""Training on one rank inside this process, without Ray."""

import os
import uuid
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.inputs import Inputs

Report = Callable[[dict[str, Any]], None]


def train_phases(
    config: RunConfig,
    inputs: Inputs,
    phases: tuple[str, ...],
    context: DistContext,
    resume: str,
    allow_mismatch: bool,
    report: Report,
) -> None:
    """`Trainer.train` on one rank alone."""
    from recmind_dist.training.trainer import Trainer

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


def leave_ray() -> None:
    """Stops the Ray that embedding has started: it would hold its memory during training."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
