"""When checkpoints are made, and how many are kept."""

from pydantic import Field

from recmind_dist.config import Settings


class CheckpointSettings(Settings):
    """How a run saves itself."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 saves at the end of each epoch."""

    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints kept, beside the one with the best validation score."""
