"""Paired bootstrap and rank-correlation intervals: known differences found, chance ones not,
against plain resampling.
"""

import numpy as np
import pytest
from scipy.stats import spearmanr

from recmind_dist.evaluation.significance import paired_bootstrap, spearman_interval


def runs(num_seeds: int, num_users: int, shift: float, seed: int = 0) -> np.ndarray:
    """Metrics of users who differ much from each other, and little between runs."""
    users = np.random.default_rng(0).random(num_users)
    noise = np.random.default_rng(seed).normal(0, 0.02, (num_seeds, num_users))
    return np.clip(users + noise + shift, 0, None)


def test_a_real_gain_is_found_with_an_interval_around_it() -> None:
    found = paired_bootstrap(runs(3, 800, 0.02, seed=1), runs(3, 800, 0.0, seed=2))
    assert found.significant
    assert found.low is not None
    assert found.high is not None
    assert found.gain is not None
    assert 0 < found.low < found.gain < found.high
    assert found.gain == pytest.approx(0.04, abs=0.01)
    assert found.verdict.startswith("p = ")


def test_pairing_finds_what_unpaired_users_would_hide() -> None:
    a, b = runs(3, 300, 0.02, seed=1), runs(3, 300, 0.0, seed=2)
    assert paired_bootstrap(a, b).significant
    assert not paired_bootstrap(a, b[:, ::-1]).significant  # the same numbers, of other users


def test_equal_models_are_rarely_called_different() -> None:
    told_apart = sum(
        paired_bootstrap(
            runs(3, 200, 0, seed=2 * k), runs(3, 200, 0, seed=2 * k + 1), resamples=400
        ).significant
        for k in range(40)
    )
    assert told_apart <= 6  # 2 of 40 are expected at 5 %


def test_too_few_seeds_are_never_significant() -> None:
    found = paired_bootstrap(runs(2, 800, 0.5), runs(3, 800, 0.0))
    assert found.p < 0.01
    assert not found.significant
    assert found.verdict == "not significant (2 of 3 seeds)"


def test_a_difference_between_seeds_widens_the_interval() -> None:
    base = runs(3, 500, 0.0)
    steady, shaky = base + 0.05, base + np.array([[0.0], [0.05], [0.1]])
    narrow, wide = paired_bootstrap(steady, base), paired_bootstrap(shaky, base)
    assert wide.gain == pytest.approx(narrow.gain)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)  # type: ignore[operator]


def test_equals_plain_resampling_of_one_run() -> None:
    a, b = runs(1, 100, 0.03, seed=1)[0], runs(1, 100, 0.0, seed=2)[0]
    drawn = np.random.default_rng(5)
    chosen = drawn.integers(0, 100, (4000, 100))
    gains = a[chosen].mean(1) / b[chosen].mean(1) - 1
    found = paired_bootstrap(a, b, resamples=4000)
    assert (found.low, found.high) == pytest.approx(np.percentile(gains, [2.5, 97.5]), abs=0.005)


def test_groups_weigh_alike_whatever_their_size() -> None:
    a, b = np.zeros(101), np.zeros(101)
    a[:100], b[:100], a[100], b[100] = 0.5, 0.5, 1.0, 0.5
    found = paired_bootstrap(a, b, groups_U=np.r_[np.zeros(100, int), 1])
    assert (found.a, found.b) == (0.75, 0.5)
    left_out = paired_bootstrap(a, b, groups_U=np.r_[np.zeros(100, int), -1])
    assert left_out.a == left_out.b == 0.5


def test_the_same_seed_gives_the_same_answer_and_a_zero_baseline_no_ratio() -> None:
    a, b = runs(3, 50, 0.1), runs(3, 50, 0.0, seed=3)
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    nothing = paired_bootstrap(a, np.zeros_like(a))
    assert nothing.gain is None
    assert nothing.significant


def test_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="50 users against 49"):
        paired_bootstrap(np.zeros((3, 50)), np.zeros((3, 49)))


def test_spearman_interval_equals_ranking_anew_in_each_resample() -> None:
    drawn = np.random.default_rng(0)
    degree = drawn.integers(0, 20, 150)  # many ties
    gamma = 0.02 * degree + drawn.normal(0, 0.2, 150)
    found = spearman_interval(gamma, degree, resamples=300, seed=7)
    again = np.random.default_rng(7)
    chosen = [again.integers(0, 150, 150) for _ in range(300)]
    expected = np.percentile(
        [spearmanr(gamma[c], degree[c]).statistic for c in chosen], [2.5, 97.5]
    )
    assert found == pytest.approx(tuple(expected))
    assert spearman_interval(np.full(150, 0.5), degree) is None
