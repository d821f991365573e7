"""Settings of the training run itself."""

from typing import Literal

from pydantic import Field

from recmind_dist.config import Settings


class TrainSettings(Settings):
    """Phases, batch, schedule."""

    seed: int = Field(0, ge=0)
    batch_size: int = Field(0, ge=0)
    """Pairs (or users) of the global batch, whatever the number of workers; 0: follows from the
    number of users."""
    batch_of: Literal["pairs", "users"] = "users"
    """users: a batch is so many users with all their training items, which share one product with
    the negatives.
    """
    warmup_epochs: int = Field(0, ge=0)
    """Epochs of alignment alone, in which the language model's adapters learn."""
    epochs: int = Field(0, ge=0)
    """Epochs of the joint phase; 0: follows from the steps of an epoch."""
    steps_per_epoch: int = Field(0, ge=0)
    """Steps after which an epoch ends, validates and saves, for graphs on which a whole one takes
    days; 0: all pairs once.
    """
    patience: int = Field(5, ge=0)
    """Validations without a better score after which training ends; 0: never before its time."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Of the joint phase's learning rates."""
    log_every_steps: int = Field(20, ge=1)
    deterministic: bool = False
    """On GPUs the same bits run for run, and after a resume, at a price in time (docs/gpu.md); on
    CPUs that is so without it."""
