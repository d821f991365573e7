"""Which column of a log is which, and which rows of it count."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recmind_dist.ingest.layouts import by_name_or_number
from recmind_dist.ingest.rows import missing_column
from recmind_dist.ingest.settings import DatasetSettings, LogSettings, WeightSettings

USUAL = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp", "order"),
    "rating": ("rating",),
}
ROLES = tuple(USUAL)
KEEP = "keep:"  # before the names of columns that choose rows


@dataclass(frozen=True)
class LogRules:
    """Which rows of a log count, and how its ids are read; see `DatasetSettings`."""

    need_rating: bool = False
    keep: dict[str, list[Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    user_ids: str = "auto"
    item_ids: str = "auto"
    weights: WeightSettings | None = None

    @classmethod
    def of(cls, settings: DatasetSettings) -> "LogRules":
        """The rules of a data set."""
        return cls(
            settings.min_rating is not None,
            dict(settings.keep),
            [text.strip() for text in settings.missing],
            settings.user_ids,
            settings.item_ids,
            settings.weights,
        )

    def ids_of(self, side: str) -> str:
        """How the ids of a side ("user", "item") are read."""
        return self.user_ids if side == "user" else self.item_ids


def columns_of(
    path: Path, settings: LogSettings, present: list[str], rules: LogRules
) -> dict[str, str]:
    """Role → column of this file; `KEEP` + name → name for those that choose rows.

    Raises:
        DataError: the file does not have one of them.
    """
    found: dict[str, str] = {}
    for role in ROLES:
        declared = getattr(settings.columns, role)
        wanted: Any = declared
        if declared is not None:
            column = by_name_or_number(declared, present)
        elif role == "rating" and not rules.need_rating:
            continue
        else:
            wanted = " or ".join(USUAL[role])
            column = next((name for name in USUAL[role] if name in present), None)
        if column is not None:
            found[role] = column
        elif declared is not None or role != "time":
            raise missing_column(path, f"dataset.interactions.columns.{role}", wanted, present)
    if rules.weights is not None:
        if rules.weights.column not in present:
            raise missing_column(path, "dataset.weights.column", rules.weights.column, present)
        found["weight"] = rules.weights.column
    for name in rules.keep:
        if name not in present:
            raise missing_column(path, "dataset.keep", name, present)
        found[KEEP + name] = name
    return found
