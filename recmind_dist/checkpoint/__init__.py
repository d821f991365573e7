"""Sharded checkpoints that exist whole or not at all, and are read back on any number of ranks."""

from typing import TYPE_CHECKING, Any

from recmind_dist.checkpoint.identity import compare_identity
from recmind_dist.checkpoint.layout import attempt_name
from recmind_dist.checkpoint.settings import CheckpointSettings

if TYPE_CHECKING:
    from recmind_dist.checkpoint.reader import Checkpoint, find_checkpoint, open_checkpoint
    from recmind_dist.checkpoint.saver import Checkpointer

_LAZY = {  # these import torch, which takes seconds
    "Checkpoint": "reader",
    "Checkpointer": "saver",
    "find_checkpoint": "reader",
    "open_checkpoint": "reader",
}

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "Checkpointer",
    "attempt_name",
    "compare_identity",
    "find_checkpoint",
    "open_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
