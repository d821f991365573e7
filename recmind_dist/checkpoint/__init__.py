"""Sharded checkpoints that exist whole or not at all, and are read back on any number of ranks."""

from typing import TYPE_CHECKING

from recmind_dist.checkpoint.identity import compare_identity
from recmind_dist.checkpoint.layout import attempt_name
from recmind_dist.checkpoint.settings import CheckpointSettings
from recmind_dist.lazy import lazy_exports

if TYPE_CHECKING:
    from recmind_dist.checkpoint.reader import Checkpoint, find_checkpoint, open_checkpoint
    from recmind_dist.checkpoint.saver import Checkpointer

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "Checkpointer",
    "attempt_name",
    "compare_identity",
    "find_checkpoint",
    "open_checkpoint",
]

_HOMES = dict.fromkeys(("Checkpoint", "find_checkpoint", "open_checkpoint"), "reader") | {
    "Checkpointer": "saver"
}
__getattr__ = lazy_exports(__name__, _HOMES)  # these import torch
