"""Settings of an update: a run that begins from another one (`recmind update`)."""

from pathlib import Path

from pydantic import Field

from recmind_dist.config import Settings


class UpdateSettings(Settings):
    """How a run learns on from another one, over its log and a newer one: docs/update.md."""

    of: Path | None = None
    """The run whose rows, optimizer state and dense parameters this run begins from; written by
    `recmind update`. Rows are carried over by external id where `dataset.name` is the same, else
    they start anew."""
    refresh_after_events: int = Field(5, ge=1)
    """A user's text that would change is made anew once they have so many new interactions…"""
    refresh_every_days: float = Field(30.0, ge=0)
    """…or once the log is so many days past those that the text was made of; 0: whenever it would
    change. Texts of items are made anew whenever they change."""
