"""Differences of means over users, with 95 % intervals and corrected for how many there are."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from scipy import stats

from recmind_dist.evaluation.metrics import Float64Array
from recmind_dist.evaluation.significance import LEVEL


@dataclass(frozen=True)
class Gap:
    """A difference of means, its 95 % interval, its p alone, and whether it is significant among
    those of its table.
    """

    gap: float
    low: float
    high: float
    p: float
    significant: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def of_mean(values: Float64Array) -> dict[str, float]:
    """Mean and its 95 % interval."""
    found = paired(values)
    return {"mean": found.gap, "low": found.low, "high": found.high}


def paired(differences: Float64Array) -> Gap:
    """A mean difference over users."""
    x = differences[np.isfinite(differences)]
    variance = x.var(ddof=1) / len(x) if len(x) > 1 else 0.0
    return _gap(float(x.mean()) if len(x) else 0.0, float(variance), max(len(x) - 1, 1))


def between(mine: Float64Array, rest: Float64Array) -> Gap:
    """The mean of some users less that of others (Welch)."""
    samples = [x[np.isfinite(x)] for x in (mine, rest)]
    if min(map(len, samples)) < 2:
        return Gap(0.0, 0.0, 0.0, 1.0)
    parts = [float(x.var(ddof=1)) / len(x) for x in samples]
    weights = sum(part**2 / (len(x) - 1) for part, x in zip(parts, samples, strict=True))
    freedom = sum(parts) ** 2 / weights if weights else 1.0
    return _gap(float(samples[0].mean() - samples[1].mean()), sum(parts), freedom)


def _gap(gap: float, variance: float, freedom: float) -> Gap:
    error = sqrt(variance)
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(gap) / error, freedom)) if error else float(gap == 0)
    return Gap(gap, gap - half, gap + half, p)


def corrected(rows: list[dict[str, Any]], kinds: Iterable[str]) -> list[dict[str, Any]]:
    """The rows with each kind of gap called significant where Holm's method over all of its kind
    says so.
    """
    for kind in kinds:
        mine = [row for row in rows if kind in row]
        kept = True
        for rank, row in enumerate(sorted(mine, key=lambda row: row[kind].p)):
            kept = kept and row[kind].p <= LEVEL / (len(mine) - rank)
            row[kind] = replace(row[kind], significant=kept)
    return rows
