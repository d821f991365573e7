"""Triton's kernels where they can run: on CUDA, if Triton is installed beside torch."""

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

log = logging.getLogger(__name__)


def triton_ops(device: torch.device) -> ModuleType | None:
    """The module of Triton's draws, or None where torch operations do the work."""
    return _load("triton_ops") if device.type == "cuda" else None


def triton_padded(device: torch.device) -> ModuleType | None:
    """The same of hops of fixed shapes."""
    return _load("triton_padded") if device.type == "cuda" else None


def triton_adam(device: torch.device) -> ModuleType | None:
    """The same of row-wise Adam."""
    return _load("triton_adam") if device.type == "cuda" else None


@cache
def _load(name: str) -> ModuleType | None:
    try:
        return import_module(f"recmind_dist.kernels.{name}")
    except ImportError as error:
        log.warning("without Triton draws and Adam are slower on a GPU: %s", error)
        return None
