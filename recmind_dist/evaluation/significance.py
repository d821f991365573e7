"""Whether a difference is significant: paired bootstrap over users and seeds, rank correlations.

Legend: S seeds (runs of one model), U users (in the same order for both models), G groups of users,
R resamples.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.types import IntArray

MIN_SEEDS = 3
LEVEL = 0.05
_BLOCK = 128  # resamples drawn at once: 128 × 30,000 users × 8 bytes are 31 MB
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Model a against model b in one metric: `gain` = a / b − 1, None where b is 0."""

    a: float
    b: float
    gain: float | None
    low: float | None
    high: float | None
    p: float
    """Two-sided."""
    seeds: int
    """Runs of the model that has fewer."""
    users: int

    @property
    def significant(self) -> bool:
        """Whether the difference may be claimed: p below 0.05, and three runs of each model."""
        return self.p < LEVEL and self.seeds >= MIN_SEEDS

    @property
    def verdict(self) -> str:
        """`p = 0.003`, or why it is "not significant"."""
        if self.seeds < MIN_SEEDS:
            return f"not significant ({self.seeds} of {MIN_SEEDS} seeds)"
        return f"p = {self.p:.2g}" if self.significant else f"not significant (p = {self.p:.2g})"

    def to_json(self) -> dict[str, Any]:
        """Plain data, verdict included."""
        return {**asdict(self), "significant": self.significant, "verdict": self.verdict}


def paired_bootstrap(
    a_SU: Float64Array,
    b_SU: Float64Array,
    *,
    groups_U: IntArray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares two models on the same users.

    Each resample draws users with replacement, the same for both models, and seeds with
    replacement, for each model separately: run k of one model is not paired with run k of the
    other. With three seeds their share of the variance is underestimated by a third.

    Args:
        a_SU: a metric per run and user
        b_SU: likewise; the number of runs may differ
        groups_U: group of each user, 0..G−1, −1 for none: compares the macro-average over groups.
            None compares the mean over users
    Raises:
        ValueError: the models were measured on different users, or on none.
    """
    a = np.atleast_2d(np.asarray(a_SU, np.float64))
    b = np.atleast_2d(np.asarray(b_SU, np.float64))
    if a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(
            f"{a.shape[1]} users against {b.shape[1]}: compare runs on the same data set and split"
        )
    member_UG = _membership(groups_U, a.shape[1])
    rng = np.random.default_rng(seed)
    ones = np.ones((1, a.shape[1]))
    means = [_macro(x, ones, member_UG, np.full((1, len(x)), 1.0 / len(x)))[0] for x in (a, b)]
    found = np.empty((2, resamples))
    for start in range(0, resamples, _BLOCK):
        stop = min(start + _BLOCK, resamples)
        users_RU = _draws(rng, stop - start, a.shape[1])
        for k, x in enumerate((a, b)):
            seeds_RS = _draws(rng, stop - start, len(x)) / len(x)
            found[k, start:stop] = _macro(x, users_RU, member_UG, seeds_RS)
    return _comparison(means, found, min(len(a), len(b)), a.shape[1])


def _comparison(means: list[float], found: Float64Array, seeds: int, users: int) -> Comparison:
    difference, resamples = found[0] - found[1], found.shape[1]
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    p = min(1.0, 2.0 * (int(tail) + 1) / (resamples + 1))
    gain = low = high = None
    if means[1] > 0 and (found[1] > 0).all():
        gain = float(means[0] / means[1] - 1.0)
        low, high = map(float, np.percentile(found[0] / found[1] - 1.0, [2.5, 97.5]))
    return Comparison(float(means[0]), float(means[1]), gain, low, high, p, seeds, users)


def _membership(groups_U: IntArray | None, num_users: int) -> Float64Array:
    """[U, G] ones and zeros."""
    if groups_U is None:
        return np.ones((num_users, 1))
    groups = np.asarray(groups_U)
    present = np.unique(groups[groups >= 0])
    if not len(present):
        raise ValueError("no user is in any group: give strata that have held-out items")
    member_UG: Float64Array = (groups[:, None] == present[None, :]).astype(np.float64)
    return member_UG


def _draws(rng: np.random.Generator, resamples: int, size: int) -> Float64Array:
    """Counts of draws with replacement from `size` elements, per resample. Shape: [R, size]."""
    cells = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
    counts: Float64Array = np.bincount(cells.ravel(), minlength=resamples * size).astype(np.float64)
    return counts.reshape(resamples, size)


def _macro(
    x_SU: Float64Array, users_RU: Float64Array, member_UG: Float64Array, seeds_RS: Float64Array
) -> Float64Array:
    """Macro-average over the groups that a resample has. Shape: [R]."""
    weight_RG = users_RU @ member_UG
    total_RG = np.zeros_like(weight_RG)
    for s, x_U in enumerate(x_SU):
        total_RG += seeds_RS[:, s, None] * (users_RU @ (x_U[:, None] * member_UG))
    present = weight_RG > 0
    mean_RG = np.divide(total_RG, weight_RG, out=np.zeros_like(total_RG), where=present)
    macro: Float64Array = mean_RG.sum(1) / np.maximum(present.sum(1), 1)
    return macro


def spearman_interval(
    x: NDArray[Any], y: NDArray[Any], *, resamples: int = 500, seed: int = 0, level: float = LEVEL
) -> tuple[float, float] | None:
    """Bootstrap interval of Spearman's rank correlation, ties by mean rank; None if x or y is
    constant.

    Ranks are recomputed in every resample, without sorting, from the counts of the distinct values.
    """
    x_values, x_of = np.unique(np.asarray(x), return_inverse=True)
    y_values, y_of = np.unique(np.asarray(y), return_inverse=True)
    if len(x_values) < 2 or len(y_values) < 2:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        (count,) = _draws(rng, 1, len(x_of))
        rank_x = _mean_ranks(x_of, count, len(x_values))
        rank_y = _mean_ranks(y_of, count, len(y_values))
        found.append(_weighted_correlation(rank_x, rank_y, count))
    low, high = np.nanpercentile(found, [50 * level, 100 - 50 * level])
    return float(low), float(high)


def _mean_ranks(value_of: NDArray[Any], count: Float64Array, num_values: int) -> Float64Array:
    ties = np.bincount(value_of, weights=count, minlength=num_values)
    ranks: Float64Array = (np.cumsum(ties) - (ties - 1) / 2)[value_of]
    return ranks


def _weighted_correlation(x: Float64Array, y: Float64Array, weight: Float64Array) -> float:
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    scale = float(np.sqrt((weight * x * x).sum() * (weight * y * y).sum()))
    return float((weight * x * y).sum()) / scale if scale > 0 else float("nan")
