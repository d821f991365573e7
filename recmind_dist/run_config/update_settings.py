"""Settings of a run that begins from another one: an update (`recmind update`), or a transfer."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from recmind_dist.config import Settings


class UpdateSettings(Settings):
    """How a run learns on from another one, over its log and a newer one: docs/update.md."""

    of: Path | None = None
    """The run whose dense parameters and optimizer state this run begins from; written by `recmind
    update` and `recmind experiment transfer`."""
    rows: Literal["carried", "anew"] = "carried"
    """carried: an update takes that run's rows over by external id, and its gates rest. anew: that
    run is of another data set; rows start from nothing, and gates learn."""
    refresh_after_events: int = Field(5, ge=1)
    """A user's text that would change is made anew once they have so many new interactions…"""
    refresh_every_days: float = Field(30.0, ge=0)
    """…or once the log is so many days past those that the text was made of; 0: whenever it would
    change. Texts of items are made anew whenever they change."""
