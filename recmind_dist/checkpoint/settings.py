"""When checkpoints are made, and how many are kept."""

from pydantic import Field

from recmind_dist.config import Settings


class CheckpointSettings(Settings):
    """How a run saves itself."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints within an epoch; 0: at the end of each epoch alone."""

    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints kept, beside the one with the best validation score."""
