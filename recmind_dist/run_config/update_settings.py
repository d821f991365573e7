"""Settings of an update: a run that begins from another one (`recmind update`)."""

from pathlib import Path

from pydantic import Field

from recmind_dist.config import Settings


class UpdateSettings(Settings):
    """How a run learns on from another one, over its log and a newer one: docs/update.md."""

    of: Path | None = None
    """The run whose rows, optimizer state and dense parameters this run begins from; written by
    `recmind update`."""
    rows: bool = True
    """Rows of the table are carried over by external id; false: they start anew, where ids are of
    another data set (`recmind experiment transfer`)."""
    epochs: int = Field(0, ge=0)
    """Epochs of an update, over old and new interactions; 0: three tenths of those of the run that
    it begins from, at least one."""
    refresh_after_events: int = Field(5, ge=1)
    """A user's text that would change is made anew once they have so many new interactions…"""
    refresh_every_days: float = Field(30.0, ge=0)
    """…or once the log is so many days past those that the text was made of; 0: whenever it would
    change. Texts of items are made anew whenever they change."""
