"""What is measured, how often, and how items are scored."""

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from recmind_dist.config import Settings
from recmind_dist.report.metric_names import ACCURACY


class GroupSettings(Settings):
    """Groups that metrics are reported by, beside all users and strata."""

    users: tuple[str, ...] = ()
    """Columns of the users' file, such as gender; `activity` is the user's training degree. Numbers
    of more than ten values are cut into quarters.
    """

    items: tuple[str, ...] = ()
    """Columns of the items' file, such as genres, whose lists are taken apart; `popularity` is
    head, middle and tail, by the share of training edges. The first column gives the categories
    that diversity and calibration are measured by.
    """

    min_users: int = Field(default=30, ge=2)
    """Users with held-out items that a group has at least; smaller ones are not reported."""


def _ndcg_near_20(values: dict[str, Any]) -> str:
    ks = values.get("ks") or (20,)  # absent: a fault of its own
    return f"ndcg@{min(ks, key=lambda k: abs(k - 20))}"


class EvaluationSettings(Settings):
    """How rankings are made and judged."""

    ks: tuple[int, ...] = (20, 40)
    """Cut-offs K of the metrics."""

    every_epochs: int = Field(default=0, ge=0)
    """Epochs between validations; the last epoch is always validated; 0: a tenth of train.epochs.
    """

    max_users: int = Field(default=0, ge=0)
    """Users with held-out items that a validation ranks the catalogue for: a sample drawn once, by
    graph.seed, and said to be one where its metrics are written; 0: all.
    """

    whole_at_end: bool = False
    """Where max_users samples: validate over all users once more after the last epoch, for the
    record `whole_validation`; it chooses nothing.
    """

    metric: str = Field(default_factory=_ndcg_near_20)
    """Validation metric that chooses checkpoint and norm exponent; its K is one of `ks`, by default
    the nearest to 20."""

    norm_exponent: float | None = Field(default=-1.0, ge=-1.0, le=1.0)
    """p of s(u, i) = <h_u, h_i> / |h_i|^p: 0 is the dot product, 1 ranks as cosine; null
    chooses from 0, 0.25, 0.5, 0.75 and 1 on validation; -1: 0 for recmind, whose gates learn how
    much an item's length counts, else null.
    """

    popularity_penalty: float = Field(default=0.0, ge=0.0)
    """λ of s(u, i) − λ σ_u z_i in the test: z_i is the standardised log(1 + degree) of an item, σ_u
    the standard deviation of the user's scores over all items. Above 0 popular items are shown
    less; `recmind audit --curve` says at what price.
    """

    groups: GroupSettings = GroupSettings()

    num_workers: int = Field(default=1, ge=1)
    """Processes that share the users of an evaluation."""

    @field_validator("ks")
    @classmethod
    def _cut_offs(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
            raise ValueError(f"{list(ks)}: give distinct cut-offs of 1 or more")
        return tuple(sorted(ks))

    @model_validator(mode="after")
    def _metric_is_measured(self) -> "EvaluationSettings":
        match = re.fullmatch(rf"({'|'.join(ACCURACY)})@(\d+)", self.metric)
        if match is None or int(match.group(2)) not in self.ks:
            choices = f"{', '.join(ACCURACY)} @ one of {list(self.ks)}"
            raise ValueError(f"metric {self.metric!r} is not measured: write {choices}")
        return self
