"""Metrics of lists and of groups equal their definitions in plain Python (docs/metrics.md)."""

from itertools import combinations
from math import log, log2
from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.evaluation.group_differences import RankedUsers, differences_by_group
from recmind_dist.evaluation.groups import (
    Groups,
    check_groups,
    item_groups,
    popularity_codes,
    quarters,
    user_groups,
)
from recmind_dist.evaluation.list_details import describe_lists
from recmind_dist.evaluation.list_metrics import Categories, coverage, diversity, gini
from recmind_dist.evaluation.popularity_penalty import popularity_scores
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.evaluation.settings import EvaluationSettings, GroupSettings
from recmind_dist.graph import Graph
from tests.graphs import make_graph, random_pairs

USERS, ITEMS, K = 40, 30, 6
ALONE = DistContext.alone()
SETTINGS = EvaluationSettings(
    ks=(3, K),
    metric="ndcg@3",
    norm_exponent=0.0,
    groups=GroupSettings(users=("age", "activity"), items=("genre", "popularity"), min_users=5),
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    pairs = random_pairs(USERS, ITEMS - 1, 300, seed=3)  # the last item has no edge
    known = set(pairs)
    held = [(u, i) for u in range(USERS - 3) for i in range(ITEMS) if (u, i) not in known]
    test = [pair for k, pair in enumerate(held) if k % 9 == 0]
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, USERS, ITEMS, test=test)


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    drawn = np.random.default_rng(0).normal(size=(USERS + ITEMS, 5))
    return torch.from_numpy(drawn.astype(np.float32))


def genres(item: int) -> list[str]:
    return [("war", "love", "space", "crime")[item % 4]]


def of_list(user: int, shown: list[int], held: set[int], graph: Graph) -> dict[str, float]:
    """Every list metric of one list, from its definition."""
    degree = graph.degree[USERS:]
    ranks = {i: 1 + sum(degree > degree[i]) + (sum(degree == degree[i]) - 1) / 2 for i in shown}
    tail = popularity_codes(degree) == 2
    own = [i - USERS for i in graph.indices[graph.indptr[user] : graph.indptr[user + 1]]]
    names = sorted({name for item in range(ITEMS) for name in genres(item)})
    history = {n: np.mean([n in genres(i) for i in own]) for n in names}
    listed = {n: np.mean([n in genres(i) for i in shown]) for n in names}
    likely = {i: (ITEMS + 1 - r) / ITEMS * (degree[i] > 0) for i, r in ranks.items()}
    surprise = [
        max((ITEMS - place) / ITEMS - likely[i], 0) * (i in held) for place, i in enumerate(shown)
    ]
    return {
        "novelty": float(np.mean([-log2(max(degree[i], 1) / USERS) for i in shown])),
        "popularity": float(np.mean([degree[i] for i in shown])),
        "tail": float(np.mean([tail[i] for i in shown])),
        "serendipity": float(np.mean(surprise)),
        "ild_category": float(np.mean([genres(i) != genres(j) for i, j in combinations(shown, 2)])),
        "miscalibration": sum(
            p * log(p / (0.99 * listed[n] + 0.01 * p)) for n, p in history.items() if p
        ),
    }


def test_every_metric_of_a_list_is_as_defined(graph: Graph, vectors: torch.Tensor) -> None:
    found = evaluate_embeddings(vectors, graph, "test", SETTINGS, ALONE, keep_lists=True)
    details = describe_lists(found, graph, "test", SETTINGS, ALONE)
    held_out = graph.held_out("test")
    shown_by_k: dict[int, set[int]] = {3: set(), K: set()}
    for row, user in enumerate(found.per_user["user"].astype(int)):
        held = set(held_out.indices[held_out.indptr[user] : held_out.indptr[user + 1]] - USERS)
        for k in (3, K):
            shown = found.lists[row, :k].tolist()
            shown_by_k[k].update(shown)
            for name, value in of_list(user, shown, held, graph).items():
                assert details.per_user[f"{name}@{k}"][row] == pytest.approx(value, abs=1e-6), name
    for name, values in details.per_user.items():
        assert details.lists[name] == pytest.approx(values.mean())
    assert details.lists["coverage@3"] == len(shown_by_k[3]) / ITEMS
    assert "ild_text@3" not in details.lists  # nobody has texts here


def test_groups_have_the_means_of_their_users(graph: Graph, vectors: torch.Tensor) -> None:
    found = evaluate_embeddings(vectors, graph, "test", SETTINGS, ALONE, keep_lists=True)
    details = describe_lists(found, graph, "test", SETTINGS, ALONE)
    users = found.per_user["user"].astype(int)
    young = users < 10  # a user's age is their number; quarters of 40
    row = details.groups["users"]["age"]["0–9"]
    assert row["users"] == young.sum()
    for name in ("recall@3", "novelty@6"):
        values = (found.per_user | details.per_user)[name][young]
        half = 1.959964 * values.std(ddof=1) / np.sqrt(len(values))
        mean = values.mean()
        expected = {"mean": mean, "low": mean - half, "high": mean + half}
        assert row["metrics"][name] == pytest.approx(expected)
    held_out = graph.held_out("test")
    recalls = []
    for place, user in enumerate(users):
        held = set(held_out.indices[held_out.indptr[user] : held_out.indptr[user + 1]] - USERS)
        of_war = {i for i in held if genres(i) == ["war"]}
        if of_war:
            recalls.append(len(of_war & set(found.lists[place, :3].tolist())) / len(of_war))
    war = details.groups["items"]["genre"]["war"]
    assert war["users"] == len(recalls)
    assert war["metrics"]["recall@3"]["mean"] == pytest.approx(np.mean(recalls))


def test_differences_by_group_are_those_of_the_groups_means(
    graph: Graph, vectors: torch.Tensor
) -> None:
    metrics = ["recall@3", "ndcg@6"]
    found = [
        evaluate_embeddings(h, graph, "test", SETTINGS, ALONE, keep_lists=True)
        for h in (vectors, vectors.roll(1, 0))
    ]
    groups = [describe_lists(one, graph, "test", SETTINGS, ALONE).groups for one in found]
    ours, theirs = (
        RankedUsers(one.per_user["user"].astype(int), one.lists.astype(int), one.per_user)
        for one in found
    )
    differences = differences_by_group(ours, theirs, graph, "test", SETTINGS.groups, metrics)
    assert [(one["side"], one["column"]) for one in differences] == [
        *(("users", column) for column in ("age", "activity")),
        *(("items", column) for column in ("genre", "popularity")),
    ]
    for one in differences:
        mine, other = (of_run[one["side"]][one["column"]] for of_run in groups)
        assert [row["group"] for row in one["rows"]] == list(mine)
        for row in one["rows"]:
            a, b = mine[row["group"]], other[row["group"]]
            assert row["users"] == a["users"] == b["users"]
            for name in metrics:
                gap = a["metrics"][name]["mean"] - b["metrics"][name]["mean"]
                assert row[name]["gap"] == pytest.approx(gap)
                assert row[name]["low"] <= gap <= row[name]["high"]
    alike = differences_by_group(ours, ours, graph, "test", SETTINGS.groups, metrics)
    assert all(row[name]["low"] == 0 for one in alike for row in one["rows"] for name in metrics)
    assert not any(row["recall@3"]["significant"] for one in alike for row in one["rows"])


def test_small_groups_are_not_reported_and_none_at_all_is_an_error(
    graph: Graph, vectors: torch.Tensor
) -> None:
    found = evaluate_embeddings(vectors, graph, "test", SETTINGS, ALONE, keep_lists=True)
    few = SETTINGS.model_copy(update={"groups": GroupSettings(users=("age",), min_users=10)})
    details = describe_lists(found, graph, "test", few, ALONE)
    assert list(details.groups["users"]["age"]) == ["0–9", "10–19", "20–29"]  # 30–39: seven
    many = SETTINGS.model_copy(update={"groups": GroupSettings(users=("age",), min_users=11)})
    sentence = "largest group of age has 10 users with held-out items, below .*min_users 11: lower"
    with pytest.raises(ConfigError, match=sentence):
        describe_lists(found, graph, "test", many, ALONE)
    with pytest.raises(ConfigError, match=sentence):
        check_groups(graph, many.groups)
    check_groups(graph, few.groups)


@pytest.mark.parametrize(
    ("side", "name", "sentence"),
    [
        ("users", "gender", "users: no column 'gender': the users of toy have age and activity"),
        ("items", "brand", "items: no column 'brand': the items of toy have .* and popularity"),
        ("items", "title", "items: column 'title' has 300 different values: name one with 2 to"),
        ("items", "same", "items: column 'same' has one value, 'x': name one"),
        ("items", "empty", "items: column 'empty' has no value: name one"),
    ],
)
def test_a_column_that_makes_no_groups_is_one_sentence(
    tmp_path: Path, side: str, name: str, sentence: str
) -> None:
    import polars as pl

    graph = make_graph(tmp_path, [(0, 0), (1, 1)], 2, 300)
    path = graph.path / "items.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(same=pl.lit("x"), empty=pl.lit(None, pl.String)).write_parquet(path)
    with pytest.raises(ConfigError, match=sentence):
        (user_groups if side == "users" else item_groups)(graph, [name])


def test_lists_in_a_column_are_taken_apart(tmp_path: Path) -> None:
    import polars as pl

    graph = make_graph(tmp_path, [(0, 0), (1, 1)], 2, 3)
    path = graph.path / "items.parquet"
    values = pl.Series("genre", ["Crime, Drama", "Drama|War", None])
    pl.read_parquet(path).with_columns(values).write_parquet(path)
    (groups,) = item_groups(graph, ["genre"])
    assert groups.labels == ["Crime", "Drama", "War"]
    assert [groups.members(g).tolist() for g in range(3)] == [
        [True, False, False],
        [True, True, False],
        [False, True, False],
    ]
    categories = Categories.of(groups, torch.device("cpu"))
    shares = categories.shares(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 2]), 2)
    assert shares.tolist() == [[0.25, 0.5, 0.25], [0, 0, 0]]


def test_numbers_are_cut_into_quarters_that_keep_ties_together() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, np.nan])
    labels, codes = quarters(values)
    assert labels == ["1–2", "3–4", "5–6", "7–8"]
    assert codes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, -1]
    labels, codes = quarters(np.array([0.0, 0, 0, 0, 0, 9]))
    assert labels == ["0", "9"]
    assert codes.tolist() == [0, 0, 0, 0, 0, 1]


def test_head_and_tail_have_a_fifth_of_the_edges_each() -> None:
    assert popularity_codes(np.array([1, 50, 10, 20, 0, 9, 10])).tolist() == [2, 0, 1, 1, 2, 2, 2]


def test_gini_and_coverage_of_even_and_of_uneven_exposure() -> None:
    assert gini(torch.full((8,), 3)) == pytest.approx(0)
    one = torch.zeros(8, dtype=torch.int64)
    one[5] = 40
    assert gini(one) == pytest.approx(1 - 1 / 8)
    assert coverage(one) == 1 / 8
    x = torch.tensor([1, 4, 2, 9])
    apart = np.abs(np.subtract.outer(x.numpy(), x.numpy())).mean() / (2 * x.double().mean())
    assert gini(x) == pytest.approx(float(apart))


def test_diversity_is_the_mean_over_pairs_whatever_the_blocks() -> None:
    rng = np.random.default_rng(0)
    x = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(20, 7))))
    known = torch.arange(0, 20, 2)  # the others have no text
    ranked = torch.from_numpy(np.array([rng.permutation(20)[:8] for _ in range(5)]))
    ranked[4, 1:] = -1
    for size in (3, 20):
        blocks = [(ids, x[ids]) for ids in torch.split(known, size)]
        found = diversity(ranked, blocks, 7, (4, 8))
        for row, shown in enumerate(ranked.tolist()):
            for column, k in enumerate((4, 8)):
                pairs = combinations([i for i in shown[:k] if i >= 0 and i % 2 == 0], 2)
                apart = [1 - float(x[i] @ x[j]) for i, j in pairs]
                mean = np.mean(apart) if apart else 0.0
                assert float(found[row, column]) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_a_popularity_penalty_ranks_by_the_scores_it_says(
    graph: Graph, vectors: torch.Tensor, exponent: float
) -> None:
    users, items = vectors[:USERS].double().numpy(), vectors[USERS:].double().numpy()
    scores = users @ (items / np.linalg.norm(items, axis=1, keepdims=True) ** exponent).T
    degree = graph.degree[USERS:]
    wanted = scores - 0.7 * scores.std(1)[:, None] * popularity_scores(degree)
    found = evaluate_embeddings(
        vectors, graph, "test", SETTINGS, ALONE, exponent, penalty=0.7, keep_lists=True
    )
    for row, user in enumerate(found.per_user["user"].astype(int)):
        own = graph.indices[graph.indptr[user] : graph.indptr[user + 1]] - USERS
        wanted[user, own] = -np.inf
        assert found.lists[row].tolist() == np.argsort(-wanted[user])[:K].tolist()


def test_groups_of_pairs_keep_every_membership() -> None:
    groups = Groups.of_pairs("x", ["a", "b"], np.array([2, 0, 2]), np.array([1, 1, 0]), 4)
    assert groups.indptr.tolist() == [0, 1, 1, 3, 3]
    assert groups.group.tolist() == [1, 0, 1]
    assert groups.node.tolist() == [0, 2, 2]
