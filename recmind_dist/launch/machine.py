"""What this machine has for a run: devices, disks, open files, folders of temporary files."""

import os
import shutil
from pathlib import Path

import ray

from recmind_dist.errors import ConfigError
from recmind_dist.launch.cluster import short_folder
from recmind_dist.launch.device import (
    choose_device,
    gpus_here,
    has_cuda,
    refuse_cuda_alone,
    refuse_cuda_for_evaluation,
)
from recmind_dist.launch.network import fault_of_network
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.space import free_bytes, refuse_unwritable

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray keeps objects, if it is large enough
RAY_SHARE = 0.3  # of the memory, which Ray wants there


def check_machine(config: RunConfig, input_bytes: int) -> list[str]:
    """Lines on this machine.

    Args:
        input_bytes: of the data set's files.

    Raises:
        ConfigError, StoreError: what the run would refuse.
    """
    scaling = config.scaling
    lines = []
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        refuse_cuda_alone(scaling)
        refuse_cuda_for_evaluation(config)
        fewest = scaling.num_workers
        fewest = fewest if isinstance(fewest, int) else fewest[0]
        choice = choose_device(scaling, fewest, gpus_here(), has_cuda())
        lines.append(choice.reason or f"scaling.device: {choice.device}")
        workers = max(scaling.max_workers, config.evaluation.num_workers)
        if fault := fault_of_network(False, workers, scaling.shared_memory):
            raise ConfigError(f"this machine {fault}")
        if (folder := short_folder()) is not None:
            lines.append(f"TMPDIR is too long for Ray's sockets: they go to {folder}")
        lines += shared_memory()
    else:
        lines.append(f"a Ray cluster at {address}: its machines are checked when the run starts")
    for key, path in (("cache_dir", config.cache_dir), ("run_dir", config.run_dir)):
        refuse_unwritable(path)
        free = free_bytes(path)
        short = ", less than the data set's files take" if free < input_bytes else ""
        lines.append(f"{'warning: ' if short else ''}{key} {path}: {_gb(free)} GB free{short}")
    return lines


def shared_memory() -> list[str]:
    """A line where shared memory is too small for the objects of a Ray that is yet to start, of
    this run's own.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized() or not SHARED_MEMORY.is_dir():
        return []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = shutil.disk_usage(SHARED_MEMORY).free
    if size >= RAY_SHARE * memory:
        return []
    return [
        f"{SHARED_MEMORY}: {_gb(size)} GB: Ray keeps its objects in temporary files instead, which "
        "is slower (a container: --shm-size)"
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
