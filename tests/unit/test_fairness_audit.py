"""The audit finds a planted disparity at its size, and none where none is planted."""

import numpy as np
import pytest

from recmind_dist.evaluation.audit import AuditedLists, item_gaps, mean_history, user_gaps
from recmind_dist.evaluation.groups import Groups, item_degree
from recmind_dist.graph import Graph
from tests.graphs import make_graph

USERS, ITEMS, K = 600, 60, 10
LABELS = ["new", "old"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Every user has ten items drawn evenly, and one held-out item of the others."""
    drawn = np.random.default_rng(0)
    rows = [drawn.permutation(ITEMS)[:11].tolist() for _ in range(USERS)]
    pairs = [(user, item) for user, items in enumerate(rows) for item in items[:10]]
    test = [(user, items[10]) for user, items in enumerate(rows)]
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, USERS, ITEMS, test=test)


def shown(
    graph: Graph, hit_rates: tuple[float, float], new_share: float, seed: int
) -> AuditedLists:
    """Lists that hold the held-out item with a probability by group of users (even and odd), and
    that are otherwise drawn with a share of items of the first half of the catalogue.
    """
    drawn = np.random.default_rng(seed)
    lists, recall = np.empty((USERS, K), np.int64), np.zeros(USERS)
    for user in range(USERS):
        recall[user] = drawn.random() < hit_rates[user % 2]
        first = drawn.permutation(ITEMS // 2)
        last = ITEMS // 2 + drawn.permutation(ITEMS // 2)
        count = drawn.binomial(K, new_share)
        lists[user] = np.r_[first[:count], last[: K - count]]
    degree = item_degree(graph)
    values = {"recall": recall, "popularity": degree[lists].mean(1)}
    return AuditedLists(np.arange(USERS), lists, values, mean_history(graph, np.arange(USERS)))


def groups_of_users() -> Groups:
    return Groups.of_codes("parity", ["even", "odd"], np.arange(USERS) % 2)


def groups_of_items() -> Groups:
    return Groups.of_codes("age", LABELS, (np.arange(ITEMS) >= ITEMS // 2).astype(np.int64))


def test_a_planted_gap_between_users_is_found_at_its_size(graph: Graph) -> None:
    a = shown(graph, (0.5, 0.3), 0.5, seed=1)
    rows = user_gaps(a, None, groups_of_users(), ("recall", "lift"), 30)
    even = {row["metric"]: row for row in rows if row["group"] == "even"}
    gap = even["recall"]["gap"]
    assert gap.low <= 0.2 <= gap.high
    assert gap.significant
    assert even["recall"]["low"] <= 0.5 <= even["recall"]["high"]
    assert not even["lift"]["gap"].significant
    assert [("gap" in row) for row in rows] == [True, True, False, False]


def test_without_a_planted_gap_tables_with_a_significant_one_are_as_rare_as_said(
    graph: Graph,
) -> None:
    false = missed = 0
    for seed in range(20):
        a = shown(graph, (0.4, 0.4), 0.5, seed)
        of_users = user_gaps(a, None, groups_of_users(), ("recall", "popularity", "lift"), 30)
        of_items = item_gaps(a, None, groups_of_items(), graph, "test")
        tables = [
            [row["gap"] for row in of_users if "gap" in row],
            [row["against_catalogue"] for row in of_items],
        ]
        false += sum(any(gap.significant for gap in table) for table in tables)
        missed += sum(not gap.low <= 0 <= gap.high for table in tables for gap in table)
        if seed == 0:
            assert not false
    assert false <= 5  # of 40 tables, two expected
    assert missed <= 12  # of 100 intervals, five expected


def test_planted_exposure_is_found_against_relevance_and_against_the_catalogue(
    graph: Graph,
) -> None:
    new = item_gaps(shown(graph, (0.4, 0.4), 0.7, 2), None, groups_of_items(), graph, "test")[0]
    assert (new["group"], new["items"], new["catalogue"]) == ("new", 30, 0.5)
    held = np.asarray(graph.held_out("test").indices) - USERS
    assert new["relevance"] == pytest.approx((held < ITEMS // 2).mean())
    planted = {"against_catalogue": 0.2, "against_relevance": 0.7 - new["relevance"]}
    for kind, gap in planted.items():
        assert new[kind].low <= gap <= new[kind].high
        assert new[kind].significant


def test_what_another_run_amplifies_is_the_change_of_the_gap(graph: Graph) -> None:
    a, b = shown(graph, (0.6, 0.2), 0.5, 3), shown(graph, (0.4, 0.4), 0.5, 4)
    row = user_gaps(a, b, groups_of_users(), ("recall",), 30)[0]
    assert not row["gap_against"].significant
    assert row["change"].significant
    assert row["change"].low <= 0.4 <= row["change"].high
    same = user_gaps(a, a, groups_of_users(), ("recall",), 30)[0]["change"]
    assert (same.gap, same.p, same.significant) == (0.0, 1.0, False)


def test_lift_is_the_mean_shown_over_the_mean_of_histories(graph: Graph) -> None:
    a = shown(graph, (0.4, 0.4), 0.5, 5)
    degree = item_degree(graph)
    own = [
        degree[graph.indices[graph.indptr[u] : graph.indptr[u + 1]] - USERS].mean()
        for u in range(USERS)
    ]
    assert a.history == pytest.approx(own)
    everyone = np.ones(USERS, np.bool_)
    lift = a.values["popularity"].mean() / np.mean(own) - 1
    assert a.sample("lift", everyone).mean() == pytest.approx(lift)
