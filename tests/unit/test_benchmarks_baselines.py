"""Baselines: histories, EASE, ItemKNN and popularity by hand, ranks kept by user, rows by grid."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix

from benchmarks.baselines import EVALUATION, chosen_of, points
from benchmarks.baselines_compare import compare
from benchmarks.baselines_page import write_page
from benchmarks.contenders.histories import Histories
from benchmarks.contenders.item_models import (
    SECONDS_A_DAY,
    cosine_similarity,
    ease_weights,
    keep_nearest,
    popularity_at,
    popularity_lately,
)
from benchmarks.contenders.ranking import rank_by_scores
from benchmarks.contenders.sequences import SoftmaxLoss, batches, candidates, windows
from benchmarks.rank_store import RankStore, users_metric
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError
from recmind_dist.evaluation.ranking import evaluate_popularity, evaluate_ranking
from recmind_dist.report import RunDirectory
from recmind_dist.training.evaluate import write_per_user
from tests.graphs import make_graph, random_pairs


def binary(*rows: list[int]) -> csr_matrix:
    return csr_matrix(np.array(rows, np.float32))


def random_rows(users: int = 40, items: int = 9) -> csr_matrix:
    rng = np.random.default_rng(0)
    return csr_matrix((rng.random((users, items)) < 0.3).astype(np.float32))


def test_ease_has_a_zero_diagonal_and_no_better_weights_beside_it() -> None:
    """The gradient of |X − XB|² + λ|B|² is zero wherever B is free."""
    x, l2 = random_rows(), 3.0
    b = ease_weights(x, l2).astype(np.float64)
    assert (b.diagonal() == 0).all()
    dense = x.toarray().astype(np.float64)
    gradient = dense.T @ (dense @ b - dense) + l2 * b
    assert np.abs(gradient[~np.eye(9, dtype=bool)]).max() < 1e-4
    assert np.abs(gradient.diagonal()).min() > 0.1  # where the constraint holds it back


def test_ease_is_ridge_regression_of_each_item_on_the_others() -> None:
    x = random_rows().toarray().astype(np.float64)
    others = np.delete(x, 4, axis=1)
    ridge = np.linalg.solve(others.T @ others + 2.0 * np.eye(8), others.T @ x[:, 4])
    found = np.delete(ease_weights(csr_matrix(x.astype(np.float32)), 2.0)[:, 4], 4)
    np.testing.assert_allclose(found, ridge, atol=1e-5)


def test_neighbours_of_four_items_by_hand() -> None:
    # item 0 has users {0, 1}, item 1 {0, 1, 2}, item 2 {2}, item 3 {0}
    x = binary([1, 1, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0])
    found = cosine_similarity(x, shrink=0.0).toarray()
    expected = np.array(
        [
            [0, 2 / np.sqrt(6), 0, 1 / np.sqrt(2)],
            [2 / np.sqrt(6), 0, 1 / np.sqrt(3), 1 / np.sqrt(3)],
            [0, 1 / np.sqrt(3), 0, 0],
            [1 / np.sqrt(2), 1 / np.sqrt(3), 0, 0],
        ]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    shrunk = cosine_similarity(x, shrink=2.0).toarray()
    assert shrunk[0, 1] == pytest.approx(2 / (np.sqrt(6) + 2))
    nearest = keep_nearest(cosine_similarity(x, 0.0), 1).toarray()
    # column by column: 1 is nearest to 0, 0 to 1, 1 to 2, 0 to 3
    assert np.argwhere(nearest.T).tolist() == [[0, 1], [1, 0], [2, 1], [3, 0]]


def test_of_equally_near_items_the_lower_one_is_kept() -> None:
    similarity = csr_matrix(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], np.float32)).tocsc()
    kept = keep_nearest(similarity, 1).toarray()
    assert kept.argmax(axis=0).tolist() == [1, 0, 0]
    assert kept.sum() == 3


def test_newer_items_of_a_history_weigh_more() -> None:
    histories = Histories(np.array([0, 3, 3, 4]), np.array([5, 0, 2, 1]), num_items=6)
    assert histories.age.tolist() == [2, 1, 0, 0]
    rows = histories.rows(decay=0.5).toarray()
    assert rows[0].tolist() == [0.5, 0, 1, 0, 0, 0.25]
    assert rows[1].sum() == 0
    assert rows[2].tolist() == [0, 1, 0, 0, 0, 0]
    assert set(histories.rows().data) == {1.0}


def test_a_history_follows_time_and_the_validation_item_is_its_newest(tmp_path: Path) -> None:
    pairs = random_pairs(num_users=6, num_items=12, num_pairs=40)  # in the order of time
    later = [(user, min({*range(12)} - {i for u, i in pairs if u == user})) for user in (1, 4)]
    graph = make_graph(tmp_path, pairs, 6, 12, valid=later)
    train = Histories.of_graph(graph)
    longer = Histories.of_graph(graph, with_validation=True)
    for user in range(6):
        taken = [i for u, i in pairs if u == user]
        own, more = (h.items[h.indptr[user] : h.indptr[user + 1]].tolist() for h in (train, longer))
        assert own == taken
        assert more == taken + [i for u, i in later if u == user]


def test_popularity_is_the_packages_own(tmp_path: Path) -> None:
    pairs = random_pairs(num_users=8, num_items=60, num_pairs=120)
    graph = make_graph(tmp_path, pairs, 8, 60, test=[(u, 59 - u) for u in range(8)])
    degree = np.asarray(graph.degree[8:], np.float32)
    rank_users = rank_by_scores(lambda users: np.tile(degree, (len(users), 1)), 40)
    alone = DistContext.alone()
    found = evaluate_ranking(rank_users, graph, "test", EVALUATION, alone)
    assert found.metrics == evaluate_popularity(graph, "test", EVALUATION, alone).metrics


def test_popularity_lately_weighs_by_age() -> None:
    items, age = np.array([0, 1, 1, 0]), np.array([1, 0, 2, 0])
    assert popularity_lately(items, age, 0.5, 3).tolist() == [1.5, 1.25, 0]


def test_popularity_at_a_users_time_counts_what_was_before_it() -> None:
    day = int(SECONDS_A_DAY)
    items, times = np.array([1, 0, 0, 2]), day * np.array([0, 1, 3, 9])
    at = day * np.array([3, 1])
    found = popularity_at(items, times, at, half_life_days=1.0, num_items=3)
    np.testing.assert_allclose(found, [[0.25 + 1, 0.125, 0], [1, 0.5, 0]])


def test_scores_are_ranked_without_seen_items_and_ties_go_to_the_lower_id() -> None:
    scores = np.array([[1.0, 3, 3, 0, 3], [0, 0, 0, 0, 0]], np.float32)
    rank_users = rank_by_scores(lambda users: scores[users].copy(), k=4)
    ranked = rank_users(np.array([0, 1]), np.array([0, 1, 3]), np.array([1, 0, 2]))
    assert ranked.tolist() == [[2, 4, 0, 3], [1, 3, 4, -1]]
    assert torch.from_numpy(scores).sum() == 10  # the model's own array is as it was


def test_a_model_with_decays_is_two_rows_and_each_counts_its_own_looks() -> None:
    grid = {"l2": [1, 2], "decay": [1, 0.9, 0.8]}
    trials = [{"settings": settings} for settings in points(grid)]
    rows = dict(chosen_of("ease", trials))
    assert {name: len(chosen) for name, chosen in rows.items()} == {"ease": 2, "ease_recent": 4}
    assert all(trial["settings"]["decay"] < 1 for trial in rows["ease_recent"])
    assert list(dict(chosen_of("lately", [{"settings": {"decay": 0.5}}]))) == ["lately"]


def test_ranks_give_every_users_metrics() -> None:
    rank = np.array([0, 1, 3, 21])
    assert users_metric(rank, "recall@20").tolist() == [0, 1, 1, 0]
    assert users_metric(rank, "ndcg@40").tolist() == [0, 1, 0.5, pytest.approx(1 / np.log2(22))]


def test_results_are_replaced_by_key_and_kept_by_user(tmp_path: Path) -> None:
    store = RankStore(tmp_path)
    row = {"dataset": "d", "model": "ease", "history": "train", "seed": 0, "users": 3}
    row |= {"looks": 2, "settings": {"l2": 1}, "validation": 0.1, "seconds": 1.0, "commit": "c"}
    row |= dict.fromkeys(("recall@20", "ndcg@20", "recall@40", "ndcg@40"), 0.5)
    users = np.array([0, 2, 3])
    store.put(row, users, np.array([0, 9, 9]))
    store.put(row | {"recall@20": 0.25}, users, np.array([0, 5, 40]))
    store.put(row | {"seed": 1}, users, np.array([1, 2, 0]))
    assert [(r["seed"], r["recall@20"]) for r in store.rows()] == [(1, 0.5), (0, 0.25)][::-1]
    kept, ranks = store.ranks("d", "ease", "train")
    assert kept.tolist() == [0, 2, 3]
    assert ranks.tolist() == [[0, 5, 40], [1, 2, 0]]
    with pytest.raises(DataError, match="other users of d"):
        store.put(row, np.array([0, 1, 2]), np.array([0, 0, 0]))
    with pytest.raises(DataError, match="no sasrec of d with history train"):
        store.ranks("d", "sasrec", "train")
    write_page(store, tmp_path / "page.md")
    assert "| ease | train | 2 | 0.3750 ± 0.1768 |" in (tmp_path / "page.md").read_text()


def test_runs_are_compared_with_a_baseline_user_by_user(tmp_path: Path) -> None:
    store, users = RankStore(tmp_path), np.arange(60)
    row = {"dataset": "d", "history": "train", "seed": 0}
    store.put(row | {"model": "ease"}, users, np.zeros(60, np.int64))
    store.put(row | {"model": "sasrec"}, users, np.zeros(60, np.int64))
    runs = [RunDirectory(tmp_path / str(seed)) for seed in range(3)]
    for run in runs:
        run.create()
        hits = {"user": users, "degree": np.ones(60, np.int64), "recall@20": np.ones(60)}
        write_per_user(pl.DataFrame(hits), run)
    found = compare(store, "d", "ease", "train", runs, "recall@20")
    assert (found.a, found.b, found.users, found.significant) == (1.0, 0.0, 60, True)
    one_seed = compare(store, "d", "sasrec", "train", runs, "recall@20")
    assert one_seed.verdict == "not significant (1 of 3 seeds)"
    store.put(row | {"dataset": "e", "model": "ease"}, users[:5], np.zeros(5, np.int64))
    with pytest.raises(DataError, match="not the users of e"):
        compare(store, "e", "ease", "train", runs, "recall@20")


def test_the_softmax_made_in_blocks_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.contenders.sequences.TARGETS_AT_ONCE", 4)
    torch.manual_seed(0)
    h, items = (torch.randn(n, 3, requires_grad=True) for n in (10, 7))
    targets = torch.randint(0, 7, (10,))
    bias = torch.randn(7)
    expected = torch.nn.functional.cross_entropy(h @ items.T + bias, targets)
    found = SoftmaxLoss.apply(h, items, targets, bias)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    wanted = torch.autograd.grad(2 * expected, (h, items))
    for ours, theirs in zip(torch.autograd.grad(2 * found, (h, items)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_transition_of_a_sequence_is_in_one_window() -> None:
    pieces = windows(np.array([0, 7, 8, 8, 10]), np.arange(10), length=3)
    assert [piece.tolist() for piece in pieces] == [[3, 4, 5, 6], [0, 1, 2, 3], [8, 9]]


def test_batches_hold_every_window_once_and_count_items_from_one() -> None:
    pieces = [np.arange(n) for n in (2, 5, 3, 4, 2)]
    found = [row for batch in batches(pieces, 2, np.random.default_rng(0)) for row in batch]
    rows = sorted(row[row > 0].tolist() for row in found)
    assert rows == sorted((piece + 1).tolist() for piece in pieces)


def test_the_sampled_sum_over_the_catalogue_has_no_bias() -> None:
    rng, scores, targets = np.random.default_rng(0), np.arange(12.0), np.array([3, 7, 3])
    sums = []
    for _ in range(4000):
        items, position, log_weight = candidates(targets, 12, 5, rng)
        assert items[position].tolist() == [3, 7, 3]
        assert len(set(items)) == 7
        sums.append((scores[items] * np.exp(log_weight)).sum())
    assert np.mean(sums) == pytest.approx(scores.sum(), rel=0.02)
    items, _, log_weight = candidates(targets, 12, 10, rng)
    assert sorted(items) == list(range(12))
    assert not log_weight.any()
