"""When checkpoints are made, and how many are kept."""

from pydantic import Field

from recmind_dist.config import Settings


class CheckpointSettings(Settings):
    """How a run saves itself."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 saves at the end of each epoch."""

    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""

    keep_best: int = Field(default=1, ge=0)
    """Checkpoints kept for their validation score, beside the newest."""

    background: bool = True
    """Write in a thread while training goes on; costs one copy of the rank's rows in host memory.
    """

    max_failures: int = Field(default=3, ge=1)
    """Saves in a row that may fail (full disk, lost rank) before training stops."""

    wait_s: float = Field(default=600.0, gt=0)
    """Seconds a save waits for the other ranks' shares, their upload to storage_uri included,
    before it counts as failed.
    """
