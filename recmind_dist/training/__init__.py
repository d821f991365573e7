"""Where the rooms meet: the run's config, one step, one worker, Ray Train, and the stages of a whole run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recmind_dist.training.run_config import RunConfig, load_run_config

if TYPE_CHECKING:
    from recmind_dist.training.trainer import Trainer

__all__ = ["RunConfig", "Trainer", "load_run_config"]


def __getattr__(name: str) -> Any:
    if name == "Trainer":  # brings torch and the checkpoint readers
        return import_module(f"{__name__}.trainer").Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
