"""Settings of the embedding table."""

from typing import Literal

from pydantic import Field

from recmind_dist.config import Settings


class TableSettings(Settings):
    """The row-sharded embedding table's own optimizer."""

    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: float = Field(1.5e-2, gt=0)
