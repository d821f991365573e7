"""Triton's kernels where they can run: on CUDA, if Triton is installed beside torch."""

import logging
from functools import cache
from types import ModuleType

import torch

log = logging.getLogger(__name__)


def triton_ops(device: torch.device) -> ModuleType | None:
    """The module of Triton kernels, or None where torch operations do the work."""
    return _load() if device.type == "cuda" else None


@cache
def _load() -> ModuleType | None:
    try:
        from recmind_dist.kernels import triton_ops as ops
    except ImportError as error:
        log.warning("without Triton draws and Adam are slower on a GPU: %s", error)
        return None
    return ops
