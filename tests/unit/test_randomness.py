"""Randomness is a function of its key: the same for numpy and numba, even, independent of order,
and a true shuffle.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.randomness import (
    Permutation,
    integers,
    mix64_pair,
    normals,
    stream_key,
    uniform_rows,
    uniforms,
    words,
)

keys = st.integers(0, (1 << 64) - 1)


@settings(deadline=None)
@given(keys, st.lists(st.integers(0, (1 << 62)), min_size=1, max_size=20))
def test_numba_and_numpy_draw_the_same(key: int, counters: list[int]) -> None:
    ours = words(key, np.array(counters, dtype=np.int64))
    assert ours.tolist() == [int(mix64_pair(key, counter)) for counter in counters]


def test_rows_of_uniforms_are_the_draws_at_their_counters() -> None:
    rows = np.array([5, 0, 1 << 40])
    counters = rows[:, None] * 3 + np.arange(3)
    assert np.array_equal(
        uniform_rows((1 << 63) + 7, rows, 3), uniforms((1 << 63) + 7, counters).astype(np.float32)
    )


def test_streams_differ_by_seed_name_and_every_counter() -> None:
    found = [
        stream_key(1, "hop"),
        stream_key(2, "hop"),
        stream_key(-1, "hop"),
        stream_key(1, "hop", 0),
        stream_key(1, "hop", 1),
        stream_key(1, "hop", 0, 0),
        stream_key(1, "hop", 0, 1),
        stream_key(1, "hop", 1, 0),
        stream_key(1, "hop", -1),
        stream_key(1, "hop\0"),
        stream_key(1, "abcdefgh"),
        stream_key(1, "abcdefghi"),
        stream_key(1, "abcdefgh", ord("i")),
        stream_key(1, ""),
        stream_key(1, "", 0),
    ]
    assert len(set(found)) == len(found)
    assert all(0 <= key < 1 << 64 for key in found)


def test_uniforms_are_even_and_uncorrelated_between_streams() -> None:
    counters = np.arange(200_000)
    one, two = uniforms(stream_key(1, "a"), counters), uniforms(stream_key(1, "a", 1), counters)
    counts = np.bincount((one * 100).astype(int), minlength=100)
    chi2 = ((counts - 2000) ** 2 / 2000).sum()
    assert 50 < chi2 < 160  # 99 degrees of freedom
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.01
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.01
    assert one.min() >= 0
    assert one.max() < 1


@pytest.mark.parametrize("high", [1, 2, 7, 1 << 40])
def test_integers_stay_below_high_and_reach_every_value(high: int) -> None:
    drawn = integers(stream_key(3, "n"), np.arange(2000), high)
    assert drawn.min() >= 0
    assert drawn.max() < high
    if high < 10:
        assert set(drawn.tolist()) == set(range(high))


def test_a_row_of_normals_depends_on_its_number_alone() -> None:
    key = stream_key(5, "table")
    whole = normals(key, np.arange(5000), 16)
    assert np.array_equal(normals(key, np.array([4999, 3]), 16), whole[[4999, 3]])
    assert abs(whole.mean()) < 0.02
    assert abs(whole.std() - 1) < 0.02
    assert abs((whole**4).mean() - 3) < 0.1  # kurtosis
    assert np.isfinite(whole).all()
    assert abs(np.corrcoef(whole[:, 0], whole[:, 1])[0, 1]) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), keys)
def test_a_permutation_meets_every_place_once(n: int, key: int) -> None:
    assert sorted(Permutation(n, key)(np.arange(n)).tolist()) == list(range(n))


def test_a_permutation_is_evaluated_point_by_point_at_any_size() -> None:
    shuffle = Permutation(10**12, stream_key(1, "epoch", 3))
    positions = np.array([0, 1, 10**12 - 1])
    together = shuffle(positions)
    assert [int(shuffle(positions[i : i + 1])[0]) for i in range(3)] == together.tolist()
    assert ((together >= 0) & (together < 10**12)).all()


def test_permutations_of_different_keys_share_few_places() -> None:
    one, two = (
        Permutation(10_000, stream_key(1, "epoch", epoch))(np.arange(10_000)) for epoch in (0, 1)
    )
    assert (one == two).sum() < 20  # 1 expected
    assert (one == np.arange(10_000)).sum() < 20
