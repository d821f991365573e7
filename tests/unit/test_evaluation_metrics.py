"""Metrics against a loop that follows the definitions, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.evaluation.metrics import metric_names, ranking_metrics
from recmind_dist.evaluation.strata import degree_bins, strata_metrics

KS = (1, 3, 5)


def loop(ranked: list[int], held: set[int], k: int) -> dict[str, float]:
    hits = [j for j, item in enumerate(ranked[:k], 1) if item in held]
    ideal = sum(1 / math.log2(j + 1) for j in range(1, min(k, len(held)) + 1))
    return {
        f"recall@{k}": len(hits) / len(held),
        f"ndcg@{k}": sum(1 / math.log2(j + 1) for j in hits) / ideal,
        f"hitrate@{k}": float(bool(hits)),
        f"mrr@{k}": 1 / hits[0] if hits else 0.0,
        f"map@{k}": sum(n / j for n, j in enumerate(hits, 1)) / len(held),
        f"precision@{k}": len(hits) / k,
    }


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, list[set[int]], np.ndarray]:
    drawn = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    num_users, num_items = draw(st.integers(1, 8)), 12
    ranked = np.stack([drawn.permutation(num_items)[:5] for _ in range(num_users)])
    ranked[drawn.random(ranked.shape) < 0.1] = -1
    held = [
        set(drawn.permutation(num_items)[: drawn.integers(0, 5)].tolist()) for _ in range(num_users)
    ]
    return ranked, held, drawn.choice([0, 1, 3, 4, 9, 40], num_items)


def as_csr(rows: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.array(
        [i for row in rows for i in sorted(row)], dtype=np.int64
    )


@settings(max_examples=150, deadline=None)
@given(judged())
def test_equals_the_definitions(case: tuple[np.ndarray, list[set[int]], np.ndarray]) -> None:
    ranked, held, _ = case
    found = ranking_metrics(ranked, *as_csr(held), KS)
    assert found.users.tolist() == [user for user, items in enumerate(held) if items]
    for k in KS:
        for place, user in enumerate(found.users):
            for name, value in loop(ranked[user].tolist(), held[user], k).items():
                assert found.per_user[name][place] == pytest.approx(value), name


@settings(max_examples=150, deadline=None)
@given(judged())
def test_strata_are_the_metrics_of_their_items_alone(
    case: tuple[np.ndarray, list[set[int]], np.ndarray],
) -> None:
    ranked, held, degree = case
    found = strata_metrics(ranked, *as_csr(held), degree, KS)
    bounds = {name: (low, high) for name, low, high in degree_bins(40)} | {"cold": (0, 3)}
    for name, (low, high) in bounds.items():
        inside = [{item for item in items if low <= degree[item] <= high} for items in held]
        users = [user for user, items in enumerate(inside) if items]
        if not users:
            assert found.get(name, {"users": 0})["users"] == 0
            continue
        assert found[name]["users"] == len(users)
        assert found[name]["pairs"] == sum(map(len, inside))
        for k in KS:
            rows = [loop(ranked[user].tolist(), inside[user], k) for user in users]
            for metric in rows[0]:
                assert found[name][metric] == pytest.approx(np.mean([row[metric] for row in rows]))


def test_every_pair_is_in_one_bin() -> None:
    degree = np.arange(100)
    held = (np.arange(101), np.arange(100))
    found = strata_metrics(np.arange(100)[:, None], *held, degree, (1,))
    assert [name for name in found if name != "cold"] == [
        "0",
        "1-3",
        "4-7",
        "8-15",
        "16-31",
        "32-63",
        "64-127",
    ]
    assert sum(row["pairs"] or 0 for name, row in found.items() if name != "cold") == 100
    assert all(row["recall@1"] == 1.0 for row in found.values())


def test_empty_cold_strata_are_listed_with_null() -> None:
    found = strata_metrics(
        np.array([[0, 1]]), np.array([0, 1]), np.array([1]), np.array([5, 6]), (2,)
    )
    empty = {"users": 0, "pairs": 0} | dict.fromkeys(metric_names([2]))
    assert {name: found[name] for name in ("0", "1-3", "cold")} == dict.fromkeys(
        ("0", "1-3", "cold"), empty
    )
    assert found["4-7"]["recall@2"] == 1.0


def test_recall_divides_by_all_held_out_items_also_beyond_k() -> None:
    found = ranking_metrics(np.array([[0]]), np.array([0, 4]), np.array([0, 1, 2, 3]), (1,))
    ones = dict.fromkeys(("ndcg@1", "hitrate@1", "mrr@1", "precision@1"), 1.0)
    assert found.means() == {"recall@1": 0.25, "map@1": 0.25, **ones}


def test_nobody_held_out_has_no_means() -> None:
    assert (
        ranking_metrics(
            np.array([[0]]), np.array([0, 0]), np.array([], dtype=np.int64), (1,)
        ).means()
        == {}
    )


def test_an_item_ranked_twice_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="twice"):
        ranking_metrics(np.array([[2, 2]]), np.array([0, 1]), np.array([2]), (2,))


def test_a_cut_off_beyond_the_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match="rank at least 20"):
        ranking_metrics(np.array([[2, 1]]), np.array([0, 1]), np.array([2]), (20,))
