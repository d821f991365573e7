"""The schema of results.json, which other programs and papers rely on."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recmind_dist.report.metric_names import ACCURACY

_METRIC = rf"^({'|'.join(ACCURACY)})@[1-9]\d*$"
FOLDED = "folded_"
"""Before the name of a metric, e.g. in per_user.parquet: of histories with the validation item."""


class StratumResult(BaseModel):
    """Metrics ("recall@20") over the held-out items of one stratum; null if no user has any."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    users: int = Field(ge=0)


class GateRow(BaseModel):
    """Gate statistics of one layer and side: of a degree bin, or correlation with degree."""

    model_config = ConfigDict(extra="forbid")

    layer: int = Field(ge=0)
    side: str = Field(pattern="^(user|item)$")
    degree_bin: str | None = None
    mean: float | None = None
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    count: int = Field(ge=0)
    spearman: float | None = None
    spearman_low: float | None = None
    spearman_high: float | None = None


class Rankings(BaseModel):
    """Metrics over all users with held-out items, and by stratum."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    metrics: dict[str, float]
    strata: dict[str, StratumResult]

    @field_validator("metrics")
    @classmethod
    def _metric_names(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not re.match(_METRIC, name):
                raise ValueError(
                    f"{name!r} is no metric: write {', '.join(ACCURACY)} with @20 or such"
                )
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, outside [0, 1]")
        return metrics

    @field_validator("strata")
    @classmethod
    def _cold_strata(cls, strata: dict[str, StratumResult]) -> dict[str, StratumResult]:
        if missing := [name for name in ("0", "1-3", "cold") if name not in strata]:
            raise ValueError(f"no stratum {missing[0]!r}: empty strata are listed too")
        return strata


class GroupResult(BaseModel):
    """Metrics of a group of users, or over the held-out items of a group of items."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    users: int = Field(ge=0)
    metrics: dict[str, dict[str, float]]
    """Mean, and low and high of its 95 % interval over users."""


class Results(Rankings):
    """results.json. Further keys are allowed; these keep their meaning.

    Histories end at the training edge; `folded` is of the same rankings by histories that the
    validation items are folded into, where the split has some.
    """

    dataset: str
    variant: str
    seed: int
    commit: str | None
    split: str = Field(pattern="^(test|valid)$")
    gate: list[GateRow]
    folded: Rankings | None = None
    lists: dict[str, float] = {}
    """Of the lists: "novelty@20", "coverage@20"."""
    groups: dict[str, dict[str, dict[str, GroupResult]]] = {}
    """users or items → column → label."""


def folded_results(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Those of histories with the validation item, of the models that have them."""
    return {name: result["folded"] for name, result in results.items() if result.get("folded")}
