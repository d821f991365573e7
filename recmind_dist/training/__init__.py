"""Where the rooms meet: the run's config, one step, one worker, Ray Train, and the stages of a whole run."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.training.run_config import RunConfig, load_run_config

if TYPE_CHECKING:
    from recmind_dist.training.trainer import Trainer

__all__ = ["RunConfig", "Trainer", "load_run_config"]

__getattr__ = lazy_exports(__name__, {"Trainer": "trainer"})  # brings torch and the checkpoint readers
