"""Evaluation as a GPU runs it, held on CPU tensors: blocks by free memory, ties broken at the end,
no wait for the device in a block, metrics equal to plain numpy's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental import _config as symbolic
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import evaluate
from benchmarks.graphs import PowerLaw
from benchmarks.interactions import Interactions, graph_of
from benchmarks.measure import Report
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation import ranking
from recmind_dist.evaluation.degree_bins import strata_bins
from recmind_dist.evaluation.metrics import HeldItems, metrics_of_hits
from recmind_dist.evaluation.ranking import evaluate_embeddings, seen_items
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.strata import stratum_sums
from recmind_dist.evaluation.topk import _rank, _rank_ties_last, _Seen, block_shape, rank_items
from recmind_dist.graph import Graph

WAITS = {"aten.nonzero.default", "aten._local_scalar_dense.default", "aten.item.default"}
"""Operations whose result the host reads, or whose shape it has to know."""
KS = (2, 5)
JUDGED = EvaluationSettings(ks=KS, metric="ndcg@5", norm_exponent=0.0)


class Waits(TorchDispatchMode):
    """Operations that make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in WAITS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def catalogue(seed: int, levels: int) -> tuple[torch.Tensor, torch.Tensor, _Seen]:
    """Whole numbers: products are exact, and with few levels many scores tie."""
    drawn = np.random.default_rng(seed)
    h_users, h_items = (
        torch.from_numpy(drawn.integers(-levels, levels + 1, (size, 3)).astype(np.float32))
        for size in (13, 400)
    )
    indptr = np.arange(0, 14 * 5, 5)
    seen = np.concatenate([drawn.permutation(400)[:5] for _ in range(13)]).astype(np.int32)
    return h_users, h_items, _Seen.of(indptr, seen, torch.device("cpu"))


def test_blocks_on_the_cpu_hold_as_many_scores_whatever_the_catalogue() -> None:
    assert block_shape(40_981, None) == (1024 * 16_384 // 40_981, 40_981)
    assert block_shape(500, None) == (1024, 500)
    assert block_shape(1 << 20, None) == (256, 65_536)


def test_blocks_on_a_gpu_follow_its_free_memory() -> None:
    gib = 1 << 30
    assert block_shape(40_981, 70 * gib) == (8192, 40_981)
    users, items = block_shape(40_981, 2 * gib)
    assert 1024 < users < 8192
    assert items == 40_981
    assert block_shape(5_000_000, 70 * gib) == (int(70 * gib * 0.25) // 4 // 5_000_000, 5_000_000)
    for free in (gib >> 10, gib, 16 * gib):  # 5 M items do not fit for 256 users: fewer items
        users, items = block_shape(5_000_000, free)
        assert 1 <= items < 5_000_000
        assert 4 * users * items <= free // 4
    assert block_shape(100, 1) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 3, 1000]), st.sampled_from([150, 400]))
def test_ties_broken_at_the_end_are_broken_alike(seed: int, levels: int, item_block: int) -> None:
    h_users, h_items, seen = catalogue(seed, levels)
    at_once = _rank(h_users, h_items, 6, seen, (4, item_block))
    at_the_end = _rank_ties_last(h_users, h_items, 6, seen, (4, item_block))
    assert at_the_end[0].tolist() == at_once[0].tolist()
    assert at_the_end[1].tolist() == at_once[1].tolist()


def test_ties_are_seen_and_without_them_nothing_is_ranked_again() -> None:
    h_users, h_items, seen = catalogue(0, 1)
    assert _rank(h_users, h_items, 6, seen, (4, 400), break_ties=False)[2].any()
    h_items = torch.arange(400.0)[:, None].expand(-1, 3)
    h_users = torch.ones(13, 3)
    assert not _rank(h_users, h_items, 6, seen, (4, 400), break_ties=False)[2].any()


def test_no_block_waits_for_the_device() -> None:
    h_users, h_items, seen = catalogue(0, 1)
    with Waits() as waits:
        _rank(h_users, h_items, 6, seen, (2, 400), break_ties=False)
    assert waits.found == []
    with Waits() as waits:  # the check can fail
        _rank(h_users, h_items, 6, seen, (2, 400))
    assert "aten.nonzero.default" in waits.found


@pytest.mark.parametrize("user_block", [1, 13])
def test_where_nothing_ties_the_host_waits_once_whatever_the_blocks(user_block: int) -> None:
    _, _, seen = catalogue(0, 1)
    h_items = torch.arange(400.0)[:, None].expand(-1, 3)
    with Waits() as waits:
        _rank_ties_last(torch.ones(13, 3), h_items, 6, seen, (user_block, 400))
    assert waits.found == ["aten.nonzero.default"]


def test_nothing_is_left_behind_on_the_host() -> None:
    """On `meta`, which refuses to meet tensors of the CPU."""
    there = torch.device("meta")
    h_users, h_items = torch.zeros(13, 3, device=there), torch.zeros(400, 3, device=there)
    seen = _Seen.of(np.arange(0, 14 * 5, 5), np.zeros(65, np.int32), there)
    ranked, scores, tied = _rank(h_users, h_items, 6, seen, (4, 400), break_ties=False)
    held = HeldItems.of(np.arange(14), np.arange(13), 400, there)
    hits, degree = held.hits(ranked), torch.zeros(400, dtype=torch.int64, device=there)
    metrics = metrics_of_hits(hits, held.counts(), (2, 6))
    with symbolic.patch(meta_nonzero_assume_all_nonzero=True):
        sums = stratum_sums(ranked, hits, held, degree, (0, 3), (2, 6))
    assert [tuple(x.shape) for x in (ranked, metrics, sums)] == [(13, 6), (13, 12), (14,)]
    assert {x.device for x in (ranked, scores, tied, hits, metrics, sums)} == {there}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Users with none, one and several held-out items in both splits."""
    made = PowerLaw(60, 80, 900).open(tmp_path_factory.mktemp("graphs"))
    drawn = np.random.default_rng(1)
    for split in ("valid", "test"):
        rows = []
        for user in range(60):
            train = made.indices[made.indptr[user] : made.indptr[user + 1]]
            others = np.setdiff1d(np.arange(60, 140), train)
            kept = others[others % 2 == (split == "test")]
            rows.append(np.sort(drawn.permutation(kept)[: drawn.integers(0, 4)]))
        indptr = np.cumsum([0, *map(len, rows)])
        np.save(made.path / f"{split}_indptr.npy", indptr.astype(np.int64))
        np.save(made.path / f"{split}_indices.npy", np.concatenate(rows).astype(np.int32))
    return made


def plain_metrics(ranked: list[int], held: set[int]) -> list[float]:
    """In numpy, as the definitions have it."""
    values = []
    for k in KS:
        places = 1.0 + np.flatnonzero([item in held for item in ranked[:k]])
        ideal = (1.0 / np.log2(np.arange(2, min(k, len(held)) + 2))).sum()
        values += [
            len(places) / len(held),
            min((1.0 / np.log2(places + 1.0)).sum() / ideal, 1.0),
            float(len(places) > 0),
            1.0 / places[0] if len(places) else 0.0,
            (np.arange(1, len(places) + 1) / places).sum() / len(held),
            len(places) / k,
        ]
    return values


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("users_at_once", [7, 1 << 18])
def test_a_whole_evaluation_equals_plain_numpy(
    split: str, users_at_once: int, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "USERS_AT_ONCE", users_at_once)
    h = torch.randn(graph.num_nodes, 8, generator=torch.Generator().manual_seed(3))
    found = evaluate_embeddings(h, graph, split, JUDGED, DistContext.alone())
    held_out, degree = graph.held_out(split), graph.degree[60:]
    scores = (h[:60] @ h[60:].T).numpy()
    held, ranked = [], []
    for user in range(60):
        _, seen = seen_items(graph, split, user, user + 1)
        scores[user, seen] = -np.inf
        ranked.append(np.lexsort((np.arange(80), -scores[user]))[: max(KS)].tolist())
        rows = slice(held_out.indptr[user], held_out.indptr[user + 1])
        held.append(set((held_out.indices[rows] - 60).tolist()))
    users = [user for user in range(60) if held[user]]
    expected = np.array([plain_metrics(ranked[user], held[user]) for user in users])
    names = list(found.metrics)
    assert found.per_user["user"].tolist() == users
    per_user = np.stack([found.per_user[name] for name in names], 1)
    np.testing.assert_allclose(per_user, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(list(found.metrics.values()), expected.mean(0), rtol=1e-14)
    for name, low, high in strata_bins(int(degree.max())):
        inside = [{i for i in held[user] if low <= degree[i] <= high} for user in range(60)]
        rows_of = [plain_metrics(ranked[u], inside[u]) for u in range(60) if inside[u]]
        row = found.strata.get(name, {"users": 0})
        assert row["users"] == len(rows_of), name
        if rows_of:
            assert row["pairs"] == sum(map(len, inside))
            np.testing.assert_allclose(
                [row[n] for n in names], np.mean(rows_of, axis=0), rtol=1e-13, err_msg=name
            )


def test_on_the_test_split_the_items_of_both_other_splits_are_seen(graph: Graph) -> None:
    valid = graph.held_out("valid")
    indptr, seen = seen_items(graph, "test", 5, 40)
    for row, user in enumerate(range(5, 40)):
        train = graph.indices[graph.indptr[user] : graph.indptr[user + 1]]
        newer = valid.indices[valid.indptr[user] : valid.indptr[user + 1]]
        expected = np.concatenate([train, newer]) - 60
        assert seen[indptr[row] : indptr[row + 1]].tolist() == expected.tolist()


def test_exponents_are_chosen_as_by_evaluations_of_their_own(graph: Graph) -> None:
    h = torch.randn(graph.num_nodes, 8, generator=torch.Generator().manual_seed(4))
    open_exponent = JUDGED.model_copy(update={"norm_exponent": None})
    found = evaluate_embeddings(h, graph, "valid", open_exponent, DistContext.alone())
    for p, score in found.tried.items():
        alone = evaluate_embeddings(h, graph, "valid", JUDGED, DistContext.alone(), p)
        assert alone.metrics["ndcg@5"] == score
        if p == found.norm_exponent:
            assert alone.metrics == found.metrics
    assert found.tried[found.norm_exponent] == max(found.tried.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_ranks_and_measures_as_the_cpu(graph: Graph) -> None:
    h = torch.randint(-3, 4, (graph.num_nodes, 8)).float()  # exact products, many ties
    on_cpu = evaluate_embeddings(h, graph, "test", JUDGED, DistContext.alone())
    on_gpu = evaluate_embeddings(h.cuda(), graph, "test", JUDGED, DistContext.alone("cuda"))
    assert on_gpu.metrics == pytest.approx(on_cpu.metrics, abs=1e-14)
    assert on_gpu.strata.keys() == on_cpu.strata.keys()
    for name, values in on_cpu.per_user.items():
        np.testing.assert_allclose(on_gpu.per_user[name], values, atol=1e-14)
    indptr, seen = seen_items(graph, "test", 0, 60)
    ids = [rank_items(x[:60], x[60:], 20, indptr, seen)[0].tolist() for x in (h, h.cuda())]
    assert ids[0] == ids[1]


def test_the_benchmark_of_a_device_measures_ranking_and_whole_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(0)
    cells = drawn.permutation(40 * 90)[:600]
    pairs = np.stack(np.divmod(cells, 90), 1)
    found = Interactions("toy", 40, 90, pairs[:400], pairs[400:], tmp_path)
    graph = graph_of(found, tmp_path)
    assert (graph.num_edges, graph.held_out("test").num_edges) == (400, 200)
    monkeypatch.setattr(evaluate, "graph_of", lambda pairs: graph)
    report = evaluate.on_device(Report("cuda-evaluate", quick=True), found, torch.device("cpu"))
    whole = report.publish(tmp_path / "results")
    assert set(whole["figures"]) == {"users_per_s", "ranking_users_per_s", "fraction_of_limit"}
    assert all(figure > 0 for figure in whole["figures"].values())
