"""DeepSpeed, imported for the device of the rank.

DeepSpeed chooses its accelerator when it is first imported in a process. By default it takes any
GPU that it sees, and Ray does not hide GPUs from workers without one: a rank on the CPU would have
its dense part on a GPU. So ranks import it here, first of all; no other module imports it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from recmind_dist.errors import ConfigError

CPU_RANK = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
"""Environment of a process of a rank on the CPU: it sees no GPU."""
CUDA_RANK = {"DS_ACCELERATOR": "cuda"}
"""Environment of a process of a rank on a GPU, which Ray makes visible to it."""


def import_deepspeed(device: torch.device) -> Any:
    """The module `deepspeed`, whose accelerator is the device of this rank.

    Libraries import it too: accelerate does when a model is saved. If that came first and DeepSpeed
    has done nothing yet, its accelerator is replaced.

    Args:
        device: of the rank; DeepSpeed uses the same GPU where it has an index.

    Raises:
        ConfigError: DeepSpeed already works on another device in this process.
    """
    with environment("DS_ACCELERATOR", device.type):
        deepspeed = import_module("deepspeed")
        accelerator = import_module("deepspeed.accelerator")
        has: str = accelerator.get_accelerator().device_name()
    if has != device.type:
        if deepspeed.comm.is_initialized():
            raise ConfigError(
                f"scaling.device: DeepSpeed works on {has} in this process, and the run is on "
                f"{device.type}: start it in another process"
            )
        made = import_module(f"deepspeed.accelerator.{device.type}_accelerator")
        accelerator.set_accelerator(getattr(made, f"{device.type.upper()}_Accelerator")())
    if device.type == "cuda" and device.index is not None:
        os.environ["LOCAL_RANK"] = str(device.index)  # the GPU that DeepSpeed makes the current one
    return deepspeed


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable and restores it: child processes may be ranks on another device."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def use_deterministic_operations() -> None:
    """From here on this process's CUDA operations give the same bits run for run, or say that they
    cannot (torch's error).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
