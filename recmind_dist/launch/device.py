"""`scaling.device`: whether ranks train on GPUs or on the CPU, and why."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from recmind_dist.distributed.settings import ScalingSettings
from recmind_dist.errors import ConfigError
from recmind_dist.run_config.run_config import RunConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoice:
    """What ranks train on, and why."""

    device: str
    """Either "cpu" or "cuda"."""
    reason: str = ""
    """One sentence; empty where the settings name the device."""
    loud: bool = False
    """Whether the reason is a warning: `auto` takes the CPU."""

    def tell(self, say: Callable[[str], None]) -> None:
        """Logs or prints the reason, if there is one."""
        if self.reason and self.loud:
            log.warning("%s", self.reason)
        elif self.reason:
            say(self.reason)


def choose_device(
    scaling: ScalingSettings, num_workers: int, num_gpus: int, built: bool
) -> DeviceChoice:
    """`auto` takes GPUs where every rank gets one of its own.

    Args:
        num_workers: ranks that the run needs at least
        num_gpus: of the cluster, or of this machine where the rank is in this process
        built: whether torch is built with CUDA
    Raises:
        ConfigError: the settings ask for cuda, and torch is built without it.
    """
    if scaling.device == "cuda" and not built:
        raise ConfigError(
            f"scaling.device: cuda: torch {torch.__version__} is built without CUDA: install a "
            "build with it"
        )
    if scaling.device != "auto":
        return DeviceChoice(scaling.device)
    gpus, workers = _count(num_gpus, "GPU"), _count(num_workers, "worker")
    if num_gpus >= num_workers and built:
        return DeviceChoice("cuda", f"scaling.device: auto takes cuda: {gpus} for {workers}")
    if num_gpus == 0:
        why = "no GPU was found"
    elif not built:
        why = (
            f"torch {torch.__version__} is built without CUDA, although there is {gpus}: install "
            "a build with it"
        )
    else:
        why = (
            f"there is {gpus} for {workers}, and each needs one of its own: "
            f"set scaling.num_workers={num_gpus} to train on {gpus}"
        )
    return DeviceChoice("cpu", f"scaling.device: auto takes the CPU: {why}", loud=True)


def choose_device_here(scaling: ScalingSettings) -> DeviceChoice:
    """As `choose_device`, for a rank in this process. Raises ConfigError: cuda without a GPU."""
    num_gpus = gpus_here()
    if scaling.device == "cuda" and not num_gpus:
        raise ConfigError(
            "scaling.device: cuda: torch finds no GPU on this machine: set cpu or auto"
        )
    return choose_device(scaling, 1, num_gpus, has_cuda())


def refuse_cuda_alone(
    scaling: ScalingSettings,
    num_workers: int | tuple[int, int] | None = None,
    key: str = "scaling.num_workers",
) -> None:
    """Raises ConfigError: cuda is asked for, and a Ray of the run's own would never have as many
    GPUs as workers, since no machine joins it.

    Args:
        num_workers: what `key` says; None: scaling.num_workers.
    """
    ray = sys.modules.get("ray")
    joins = os.environ.get("RAY_ADDRESS") or (ray and ray.is_initialized())
    if scaling.device != "cuda" or joins:
        return
    choose_device_here(scaling)
    workers = scaling.num_workers if num_workers is None else num_workers
    fewest = workers if isinstance(workers, int) else workers[0]
    if (num_gpus := gpus_here()) < fewest:
        raise ConfigError(
            f"scaling.device: cuda: {_count(fewest, 'worker')} and {_count(num_gpus, 'GPU')} on "
            f"this machine: set {key}={num_gpus}, or RAY_ADDRESS of a cluster"
        )


def refuse_cuda_for_evaluation(config: RunConfig) -> None:
    """As `refuse_cuda_alone`, for workers that evaluate a run. One alone does without a GPU."""
    workers = config.evaluation.num_workers
    if config.trains and workers > 1:
        refuse_cuda_alone(config.scaling, workers, "evaluation.num_workers")


def choose_evaluation_device(
    scaling: ScalingSettings, num_gpus: int, fault: str | None = None
) -> DeviceChoice:
    """Where a finished run is evaluated or recommends, in this process: a GPU if there is one with
    room. Unlike training it goes on without: a run may be read on another machine.

    Args:
        num_gpus: that torch sees here
        fault: what keeps the first of them from taking the run, a sentence without a subject
    """
    if scaling.device == "cpu" or (num_gpus == 0 and scaling.device == "auto"):
        return DeviceChoice("cpu")
    if num_gpus == 0:
        why = "torch finds no GPU on this machine: the CPU ranks instead"
        return DeviceChoice("cpu", f"scaling.device: cuda: {why}", loud=True)
    if fault is not None:
        return DeviceChoice("cpu", f"the CPU ranks instead of the GPU: the run {fault}", loud=True)
    return DeviceChoice("cuda", f"scaling.device: {scaling.device}: the GPU ranks")


def gpus_here() -> int:
    """GPUs that torch sees in this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_cuda() -> bool:
    """Whether torch is built with CUDA. Nodes have the same versions, so all agree."""
    return bool(torch.backends.cuda.is_built())  # type: ignore[no-untyped-call]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
