"""Splits: what is held out is newer than what is trained on, and nothing is lost or doubled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.graph import splits
from recmind_dist.graph.splits import TEST, TRAIN, VALID, Interactions


def log_of(user: list[int], time: list[float], item: list[int] | None = None) -> Interactions:
    count = len(user)
    return Interactions(
        np.array(user), np.array(item or range(count)), np.array(time), np.arange(count)
    )


logs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=60).map(
    lambda rows: log_of([user for user, _ in rows], [time for _, time in rows])
)


def age(log: Interactions, index: int) -> tuple[float, int]:
    return float(log.time[index]), int(log.row[index])


@settings(max_examples=100, deadline=None)
@given(log=logs)
def test_leave_one_out_holds_out_the_two_newest(log: Interactions) -> None:
    labels = splits.leave_one_out(log)
    for user in np.unique(log.user):
        mine = sorted(np.flatnonzero(log.user == user), key=lambda i: age(log, i))
        expected = (
            [TRAIN] * len(mine) if len(mine) < 3 else [TRAIN] * (len(mine) - 2) + [VALID, TEST]
        )
        assert labels[mine].tolist() == expected


@settings(max_examples=100, deadline=None)
@given(log=logs, valid=st.sampled_from([0.0, 0.1, 0.3]), test=st.sampled_from([0.1, 0.25, 0.5]))
def test_ratio_holds_out_each_users_newest_shares(
    log: Interactions, valid: float, test: float
) -> None:
    labels = splits.ratio(log, valid, test)
    for user in np.unique(log.user):
        mine = sorted(np.flatnonzero(log.user == user), key=lambda i: age(log, i))
        assert (np.diff(labels[mine]) >= 0).all()
        assert (labels[mine] == TEST).sum() == int(len(mine) * test + 1e-9)
        assert (labels[mine] == VALID).sum() == int(len(mine) * valid + 1e-9)
        assert (labels[mine] == TRAIN).any()


@settings(max_examples=100, deadline=None)
@given(log=logs, valid=st.sampled_from([0.0, 0.1, 0.3]), test=st.sampled_from([0.1, 0.25, 0.5]))
def test_global_time_cuts_once_and_never_inside_a_moment(
    log: Interactions, valid: float, test: float
) -> None:
    labels = splits.global_time(log, valid, test)
    by_time = labels[np.argsort(log.time, kind="stable")]
    assert (np.diff(by_time) >= 0).all()
    for time in np.unique(log.time):
        assert len(np.unique(labels[log.time == time])) == 1
    if valid == 0.0:
        assert not (labels == VALID).any()
    assert (labels == TEST).sum() >= int(len(labels) * test + 1e-9)


def test_a_share_of_training_is_seeded_and_leaves_test_alone() -> None:
    user = np.repeat(np.arange(10), 20)
    log = Interactions(user, np.arange(200), np.zeros(200, np.int64), np.arange(200))
    labels = np.where(np.arange(200) % 20 < 4, TEST, TRAIN).astype(np.int8)
    first = splits.share_of_training(labels, log, 200, 0.25, seed=1)
    assert ((first == TEST) == (labels == TEST)).all()
    assert [(first[user == u] == VALID).sum() for u in range(10)] == [4] * 10
    assert (splits.share_of_training(labels, log, 200, 0.25, seed=1) == first).all()
    assert (splits.share_of_training(labels, log, 200, 0.25, seed=2) != first).any()
    shuffle = np.random.Generator(np.random.Philox(0)).permutation(200)
    mixed = log[shuffle]
    assert (
        splits.share_of_training(labels[shuffle], mixed, 200, 0.25, seed=1) == first[shuffle]
    ).all()


def test_rank_in_time_is_each_users_own_clock() -> None:
    log = log_of([1, 0, 1, 1, 0], [5.0, 2.0, 1.0, 5.0, 1.5])
    assert splits.rank_in_time(log).tolist() == [1, 1, 0, 2, 0]


@pytest.mark.parametrize("count", [10, 30, 70])
def test_shares_are_not_lost_to_rounding(count: int) -> None:
    labels = splits.ratio(log_of([0] * count, list(range(count))), 0.1, 0.2)
    assert ((labels == VALID).sum(), (labels == TEST).sum()) == (count // 10, count // 5)


def test_the_cold_protocol_leaves_chosen_items_nought_to_three_edges_and_no_user_empty() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [60, 25], size=(900, 2)), axis=0)
    log = splits.Interactions(
        pairs[:, 0], pairs[:, 1], np.arange(len(pairs)), np.arange(len(pairs))
    )
    before = splits.leave_one_out(log)
    after = splits.withhold(before, log, 25, 0.4, seed=1)
    # nothing held out is touched
    assert np.array_equal(before[before != splits.TRAIN], after[before != splits.TRAIN])
    degree = np.bincount(log.item[after == splits.TRAIN], minlength=25)
    full = np.bincount(log.item[before == splits.TRAIN], minlength=25)
    changed = np.flatnonzero(degree < full)
    assert 4 <= len(changed) <= 16
    assert (degree[changed] <= 4).all()  # 0..3, and what a user would be empty without
    assert set(log.user[before == splits.TRAIN]) == set(log.user[after == splits.TRAIN])
    order = rng.permutation(len(pairs))
    shuffled = splits.Interactions(
        *(column[order] for column in (log.user, log.item, log.time, log.row))
    )
    assert np.array_equal(splits.withhold(before[order], shuffled, 25, 0.4, seed=1), after[order])


def test_a_drawn_order_depends_on_the_seed_and_the_row_alone() -> None:
    log = log_of([0] * 50 + [1] * 50, [0] * 100)
    first, again, other = (splits.leave_one_out(splits.shuffled(log, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    drawn = np.concatenate(
        [np.flatnonzero(splits.leave_one_out(splits.shuffled(log, s)) == TEST) for s in range(40)]
    )
    assert len(set(drawn.tolist())) > 40  # of 80 draws, not the last row of each user
    half = log[np.arange(100) < 50]
    assert np.array_equal(splits.leave_one_out(splits.shuffled(half, 1)), first[:50])
