"""Defaults alone: ranks from NDCG, runs stored by history, the best baseline and p corrected."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.accuracy_store import AccuracyStore
from benchmarks.controls import still
from benchmarks.defaults import config_of, store_run
from benchmarks.defaults_compare import (
    LIGHTGCN,
    compare_all,
    figures_of_defaults,
    holm,
    write_comparisons,
)
from benchmarks.defaults_page import defaults_section
from benchmarks.effects import effects_section, write_effects
from benchmarks.rank_store import RankStore, ranks_of, users_metric
from recmind_dist.errors import ConfigError
from recmind_dist.model.node_embeddings import NodeEmbeddings
from recmind_dist.report import RunDirectory
from recmind_dist.training import alignment
from recmind_dist.training.evaluate import write_per_user

USERS = np.arange(200)


def put(store: RankStore, model: str, history: str, share: float, seeds: int = 1) -> None:
    """A model that ranks the held-out item of a share of the users second."""
    for seed in range(seeds):
        ranks = np.where(np.random.default_rng(seed).random(len(USERS)) < share, 2, 0)
        row = {"dataset": "beauty", "model": model, "history": history, "seed": seed}
        row |= {"users": len(USERS), "epoch": 1, "seconds": 1.0, "device": "cpu", "commit": "c"}
        row |= {m: users_metric(ranks, m).mean() for m in ("recall@20", "ndcg@20")}
        store.put(row | {"recall@40": share, "ndcg@40": share}, USERS, ranks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ours, theirs = RankStore(tmp_path, "defaults"), RankStore(tmp_path)
    for history, share in (("train", 0.5), ("train+valid", 0.6)):
        put(ours, "recmind", history, share, seeds=3)
        put(ours, "lightgcn", history, 0.2, seeds=3)
        put(theirs, "ease", history, 0.4)
        put(theirs, "popularity", history, 0.1)
    return tmp_path


def test_ranks_follow_from_ndcg() -> None:
    rank = np.arange(41)
    ndcg = users_metric(rank, "ndcg@40").astype(np.float32)
    assert ranks_of(ndcg).tolist() == rank.tolist()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_config_of_defaults_names_data_seed_and_variant_alone() -> None:
    config = config_of("gowalla", "lightgcn", 2, "cpu", Path("runs"))
    assert (config.variant, config.train.seed, config.dataset.items) == ("lightgcn", 2, None)
    defaults = type(config.train)(seed=2)
    assert config.train == defaults
    with pytest.raises(ConfigError, match="models has no 'bert'"):
        config_of("beauty", "bert", 0, "cpu", Path("runs"))


def test_a_run_is_stored_with_both_histories(tmp_path: Path) -> None:
    run, store = RunDirectory(tmp_path / "run"), RankStore(tmp_path, "defaults")
    run.create()
    before, after = np.array([0, 3, 41]), np.array([1, 2, 40])
    names = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
    plain, folded = ({m: users_metric(r, m) for m in names} for r in (before, after))
    users = {"user": [0, 1, 2], "degree": [1, 1, 1], **plain}
    write_per_user(pl.DataFrame(users | {f"folded_{m}": v for m, v in folded.items()}), run)
    means = [{m: float(v.mean()) for m, v in found.items()} for found in (plain, folded)]
    results = {"dataset": "d", "variant": "recmind", "seed": 0, "commit": "c", "split": "test"}
    results |= {"epoch": 4, "norm_exponent": 0.0, "metrics": means[0], "gate": []}
    strata = {name: {"users": 3, "recall@20": 0.1} for name in ("0", "1-3", "cold")}
    folded_results = {"folded": {"metrics": means[1], "strata": strata}}
    run.write_results(results | {"strata": strata} | folded_results)
    run.metrics.write_text("")
    store_run(run, {"dataset": "d", "model": "recmind", "seed": 0}, store)
    assert store.ranks("d", "recmind", "train")[1].tolist() == [[0, 3, 0]]
    assert store.ranks("d", "recmind", "train+valid")[1].tolist() == [[1, 2, 40]]
    assert [row["recall@40"] for row in store.rows()] == pytest.approx([1 / 3, 1.0], abs=1e-4)


def test_the_best_baseline_and_lightgcn_are_compared(folder: Path) -> None:
    write_comparisons(folder)
    figures = figures_of_defaults(folder)
    assert figures["default_beauty_best_baseline"] == "ease"
    assert figures["default_beauty_gain_recall@20"] == pytest.approx(0.5, abs=0.2)
    gains = [figures[f"default_beauty{h}_gain_recall@20"] for h in ("", "_edge")]
    assert gains[0] > gains[1]
    assert figures["default_beauty_over_lightgcn_recall@20"] > gains[0]
    assert 0 < figures["default_beauty_p_value"] < 0.05
    assert figures["beauty_recmind_recall@40"] == pytest.approx(0.5)
    assert figures["whole_shape_over_exact"] is None
    page = "".join(defaults_section(folder))
    assert "| beauty | recmind | train | 3 | 0." in page
    assert "for all 8 comparisons" in page


def test_the_whole_shape_is_compared_with_the_exact_model_of_its_seeds(folder: Path) -> None:
    store = RankStore(folder, "defaults")
    exact = {
        row["seed"]: row["recall@20"]
        for row in store.rows()
        if (row["model"], row["history"]) == ("recmind", "train+valid")
    }
    for seed in (0, 2):
        shape = {"dataset": "beauty", "model": "whole_shape", "history": "train+valid"}
        found = {"recall@20": 0.9 * exact[seed]}
        store.put(shape | {"seed": seed} | found, np.arange(1), None)
    assert figures_of_defaults(folder)["whole_shape_over_exact"] == pytest.approx(0.9, rel=1e-3)


class Tuned(AccuracyStore):
    """A graph model of accuracy.parquet that is better than all that have ranks."""

    def runs(self) -> list[dict]:
        run = {"bench": "beauty", "model": "gcn", "role": "graph"}
        return [run | {"metrics": {"recall@20": 0.9, "ndcg@20": 0.1}}]


def test_a_best_baseline_without_ranks_has_no_p_and_the_next_one_is_compared(folder: Path) -> None:
    found = compare_all(RankStore(folder, "defaults"), RankStore(folder), Tuned(folder), 50)
    of = {(r["history"], r["metric"], r["rival"]): r for r in found}
    best = of["train", "recall@20", "gcn, tuned"]
    assert best["best"]
    assert "p" not in best
    assert best["gain"] < 0
    next_one = of["train", "recall@20", "ease"]
    assert not next_one["best"]
    assert next_one["p_corrected"] >= next_one["p"]
    assert ("train+valid", "recall@20", "gcn, tuned") not in of
    assert of["train", "ndcg@20", "ease"]["best"]
    assert of["train", "ndcg@20", LIGHTGCN]["seeds"] == 3


def test_an_effect_is_compared_with_the_defaults_and_with_the_model_it_names(
    tmp_path: Path,
) -> None:
    store = RankStore(tmp_path, "effects")
    for model, share in (("recmind", 0.5), ("aligned", 0.3), ("aligned_queue", 0.4)):
        put(store, model, "train", share, seeds=3)
    write_effects(tmp_path)
    page = "".join(effects_section(tmp_path))
    assert "| beauty | alignment on, .02, negatives of the batch | defaults | 3 | 0." in page
    over = [line for line in page.splitlines() if "momentum queue" in line]
    assert [line.split(" | ")[2] for line in over] == [
        "alignment on, .02, negatives of the batch",
        "defaults",
    ]
    assert "**+" in over[0]
    assert "**-" in over[1]


def test_an_effect_is_the_defaults_but_for_its_own_change() -> None:
    default, plain, off = (
        config_of("beauty", model, 0, "cpu", Path("runs"), kind)
        for model, kind in (
            ("recmind", "models"),
            ("recmind", "effects"),
            ("no_newest_items", "effects"),
        )
    )
    assert plain.model == default.model
    assert plain.model.recent_decay == -1.0
    assert off.model == plain.model.model_copy(update={"recent_decay": 0.0})
    assert off.train == plain.train


@pytest.mark.parametrize(("view", "moved"), [("graph", "text"), ("text", "graph")])
def test_a_view_that_stands_still_takes_no_gradient_of_alignment(view: str, moved: str) -> None:
    graph, text = (torch.ones(4, 2, requires_grad=True) for _ in range(2))
    one, two = torch.tensor([0, 1]), torch.tensor([2, 3])
    with still(view):
        views = alignment._views(NodeEmbeddings(graph, graph, text), one, two)
    sum(x.sum() for x in views.values()).backward()
    by_view = {"graph": graph, "text": text}
    assert by_view[view].grad is None
    assert by_view[moved].grad is not None
    after = alignment._views(NodeEmbeddings(graph, graph, text), one, two)
    assert all(x.requires_grad for x in after.values())
