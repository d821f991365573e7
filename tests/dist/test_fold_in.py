"""A run's results by both protocols are the same on any number of ranks and in both placements, and
its recommender ranks for a history.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recmind_dist.cli import main
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.experiments.comparison import compare, spread
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.graph import Graph, prepare_rows
from recmind_dist.inference.fold_in import reads_histories
from recmind_dist.pipeline.audit import PENALTIES
from recmind_dist.recommend.recommender import Recommender, load
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed_json
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.evaluate import evaluate_popularity_run, evaluate_run, evaluate_text_run
from recmind_dist.training.finished_run import load_best
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor
from tests.processes import run_ranks
from tests.report_pages import Page
from tests.training_runs import config_of, make_inputs, train_rank

ITEMS = 45
RECMIND = {
    "kind": "recmind",
    "embedding_dim": 8,
    "text_layers": 2,
    "views": "all",
    "recent_decay": 0.5,
    "gate": {"heldout_share": 0.5},
}
FULL = {"propagation": "full", "num_neighbors": [-1, -1], "hide_batch_edges": False}


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation makes."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [x.nbytes for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.nbytes = max(self.nbytes, *found, 0)
        return out


def evaluate_rank(config: RunConfig, inputs: RunStores) -> tuple[np.ndarray, np.ndarray, int]:
    """Evaluates on this rank, for `run_ranks`. Returns its nodes, their vectors with validation
    items, and bytes of the largest tensor that ranking by these took.
    """
    context = DistContext.join_group(
        torch.device("cpu"), shared_memory=config.scaling.shared_memory
    )
    run = RunDirectory(config.run_dir)
    evaluate_run(config, inputs, run, context)
    model, _ = load_best(config, inputs, run, context)
    with Largest() as largest:
        found = model.final_embeddings()
        nodes, h = found.nodes, found.final
        if reads_histories(model.model):
            h = model.fold_in().with_validation_items(h)
        settings, graph, rows = config.evaluation, model.graph, model.rows
        evaluate_embeddings(h, graph, "test", settings, context, 0.0, rows, nodes)
    return nodes, h.numpy(), largest.nbytes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folded")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    """Every user has a validation item, and 50 a test item."""
    found = make_inputs(home, num_items=ITEMS, num_pairs=600, num_tested=50)
    prepare_rows(found.graph)
    return found


def trained(home: Path, inputs: RunStores, name: str, **changes: Any) -> RunConfig:
    config = config_of(home, name, **changes, train={"batch_size": 96, "epochs": 2})
    run_ranks(train_rank, 1, config, inputs, "attempt1")
    return config


@pytest.fixture(scope="module")
def recmind(home: Path, inputs: RunStores) -> RunConfig:
    return trained(home, inputs, "recmind", model=RECMIND, sampler=FULL, alignment={"weight": 0})


@pytest.fixture(scope="module")
def model(recmind: RunConfig, inputs: RunStores) -> ModelShard:
    return load_best(recmind, inputs, RunDirectory(recmind.run_dir), DistContext.alone())[0]


@pytest.fixture(scope="module")
def recommender(home: Path, model: ModelShard) -> Recommender:
    write_bundle(model, Cursor(), {}, b"{}", home / "bundle")
    return load(home / "bundle")


def evaluated(
    config: RunConfig, inputs: RunStores, world: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Final vectors in node order and the results. No rank of several holds half of the vectors."""
    shares = run_ranks(evaluate_rank, world, config, inputs)
    nodes, h = (np.concatenate([share[k] for share in shares]) for k in (0, 1))
    assert sorted(nodes) == list(range(len(nodes)))
    largest = max(share[2] for share in shares)
    if world == 1:
        assert largest >= h.nbytes
        assert nodes.tolist() == list(range(len(nodes)))
    elif world == 4:
        assert largest < h.nbytes / 2
    return h[np.argsort(nodes)], RunDirectory(config.run_dir).read_results()


def test_both_protocols_are_stored_and_the_same_on_any_number_of_ranks(
    recmind: RunConfig, inputs: RunStores
) -> None:
    run = RunDirectory(recmind.run_dir)
    h, results = evaluated(recmind, inputs, 1)
    users = pl.read_parquet(run.per_user)
    assert results["folded"]["metrics"] != results["metrics"]
    assert users.get_column("user").to_list() == list(range(50))
    for name, mean in results["folded"]["metrics"].items():
        assert users.get_column(f"folded_{name}").mean() == pytest.approx(mean)
    for world in (2, 4):
        other_h, other = evaluated(recmind, inputs, world)
        np.testing.assert_allclose(other_h, h, rtol=1e-4, atol=1e-5)
        assert other["metrics"] == pytest.approx(results["metrics"])
        assert other["folded"]["metrics"] == pytest.approx(results["folded"]["metrics"])
        assert_frame_equal(pl.read_parquet(run.per_user), users)
        means = [
            [row["mean"] for row in found["gate"] if "mean" in row] for found in (other, results)
        ]
        assert means[0] == pytest.approx(means[1])
        assert len(means[0]) > 2

    mean = results["folded"]["metrics"]["recall@5"]
    assert spread([run], "folded_recall@5") == (mean, None)
    judged = compare([run], [run], "folded_recall@5")
    assert judged is not None
    assert judged.a == pytest.approx(mean)


def test_an_audit_ranks_again_at_each_penalty_and_a_report_draws_price_against_gain(
    recmind: RunConfig,
    inputs: RunStores,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, alone = RunDirectory(recmind.run_dir), DistContext.alone()
    groups = GroupSettings(users=("age",), items=("genre",), min_users=5)
    evaluation = recmind.evaluation.model_copy(update={"groups": groups})
    config = recmind.model_copy(update={"evaluation": evaluation})
    run.write_config(config.model_dump(mode="json"))
    write_sealed_json(run.path / "inputs.json", inputs.to_json())
    results = evaluate_run(config, inputs, run, alone)

    main(["audit", str(run.path), "--curve"])
    assert "evaluation.popularity_penalty: what it costs" in capsys.readouterr().out
    curve = json.loads(run.audit.read_text())["curve"]
    assert [row["penalty"] for row in curve] == list(PENALTIES)
    assert curve[0]["ndcg"] == pytest.approx(results["metrics"]["ndcg@5"], abs=1e-6)
    assert curve[0]["tail"] == pytest.approx(results["lists"]["tail@5"], abs=1e-6)
    assert curve[0]["tail_change"] == {"gap": 0, "low": 0, "high": 0, "p": 1, "significant": False}
    for row in curve:
        for name in ("ndcg", "tail", "popularity"):
            change = row[f"{name}_change"]
            assert row[name] - curve[0][name] == pytest.approx(change["gap"], abs=1e-9)
            assert change["low"] <= change["gap"] <= change["high"]
    assert curve[-1]["popularity_change"]["high"] < 0

    main(["report", str(run.path), "--out", str(tmp_path / "report.html"), "--examples", "0"])
    source = (tmp_path / "report.html").read_text()
    header, *rows = Page(source).tables["Price against gain of a penalty, recmind"]
    assert header == ["penalty", "Long tail@5", "change of NDCG@5", "low", "high"]
    change = curve[-1]["ndcg_change"]
    shown = (1.0, curve[-1]["tail"], change["gap"], change["low"], change["high"])
    assert rows[-1] == [f"{value:.4f}" for value in shown]
    for title in ("Price against gain of a penalty, recmind", "Long tail@5 by penalty"):
        drawing = source.partition(f'aria-label="{title}')[2].partition("</svg>")[0]
        assert '<polygon class="band"' in drawing


@pytest.mark.parametrize(
    ("kind", "worlds"), [("recmind", (2, 4)), ("paper", (2,)), ("lightgcn", (1,))]
)
def test_a_partitioned_graph_folds_alike(
    home: Path, inputs: RunStores, kind: str, worlds: tuple[int, ...]
) -> None:
    model = RECMIND if kind == "recmind" else {"kind": kind, "embedding_dim": 8}
    config = trained(home, inputs, f"{kind}-sampled", model=model, alignment={"weight": 0})
    h, results = evaluated(config, inputs, 1)
    placed = config.model_copy(
        update={"graph": config.graph.model_copy(update={"placement": "partitioned"})}
    )
    for world in worlds:
        other_h, other = evaluated(placed, inputs, world)
        np.testing.assert_allclose(other_h, h, rtol=1e-4, atol=1e-5)
        assert other["folded"]["metrics"] == pytest.approx(results["folded"]["metrics"])


def test_a_model_of_rows_alone_ranks_alike_by_both_protocols_and_folds_nobody_in(
    home: Path, inputs: RunStores
) -> None:
    changes = {"model": {"kind": "mf", "embedding_dim": 8}, "alignment": {"weight": 0}}
    config = trained(home, inputs, "mf", **changes, sampler={"num_neighbors": []})
    _, results = evaluated(config, inputs, 1)
    assert results["folded"]["metrics"] == results["metrics"]


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_baselines_that_learn_nothing_have_both_protocols_too(
    home: Path, inputs: RunStores, decay: float
) -> None:
    model = {**RECMIND, "recent_decay": decay}
    config = config_of(home, f"text{decay}", model=model, sampler=FULL, alignment={"weight": 0})
    run, graph = RunDirectory(config.run_dir), Graph.open(inputs.graph)
    results = evaluate_popularity_run(config, inputs.graph, run)
    assert results["folded"] == {"metrics": results["metrics"], "strata": results["strata"]}

    assert inputs.text is not None
    results = evaluate_text_run(config, inputs.graph, inputs.text, run)
    store = TextStore.open(inputs.text)
    items = Whitening.fit(store).apply("items", store.read_all("items")).astype(np.float32)
    items /= np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    users, valid = np.zeros((graph.num_users, items.shape[1]), np.float32), graph.held_out("valid")
    for user in range(graph.num_users):
        mine = slice(graph.indptr[user], graph.indptr[user + 1])
        newest = valid.indices[valid.indptr[user] : valid.indptr[user + 1]]
        history = [*graph.indices[mine][np.argsort(graph.time_rank[mine])], *newest]
        if not history:
            continue
        weight = (decay or 1.0) ** np.arange(len(history))[::-1]
        users[user] = weight @ items[np.array(history) - graph.num_users] / weight.sum()
    h = torch.from_numpy(np.concatenate([users, items]))
    expected = evaluate_embeddings(
        h, graph, "test", config.evaluation, DistContext.alone(), 0.0
    ).metrics
    assert results["folded"]["metrics"] == pytest.approx(expected)
    assert results["metrics"] != results["folded"]["metrics"]


def test_a_users_history_as_it_stands_ranks_as_the_protocol_does(
    model: ModelShard, recommender: Recommender
) -> None:
    graph = model.graph
    valid = graph.held_out("valid")
    h = model.fold_in().with_validation_items(model.final_embeddings().final)
    for user in (0, 13):
        mine = slice(graph.indptr[user], graph.indptr[user + 1])
        oldest_first = graph.indices[mine][np.argsort(graph.time_rank[mine])]
        newest = valid.indices[valid.indptr[user] : valid.indptr[user + 1]]
        history = [str(i - graph.num_users) for i in (*oldest_first, *newest)]
        scores = h[user] @ h[graph.num_users :].T
        scores[[int(item) for item in history]] = -torch.inf
        expected = [str(int(i)) for i in scores.argsort(descending=True)[:6]]
        found = recommender.recommend_from(history, 6, user_id=str(user))
        assert [item.item_id for item in found] == expected
        assert found[0].score == pytest.approx(float(scores.max()), rel=1e-4)


def test_a_new_users_latest_item_counts(recommender: Recommender) -> None:
    one, other = (recommender.recommend_from(history, 44) for history in (["3", "9"], ["9", "3"]))
    assert {item.item_id for item in one} == {str(i) for i in range(ITEMS)} - {"3", "9"}
    assert [item.score for item in one] != [item.score for item in other]
    assert all(np.isfinite(item.score) for item in one)
    assert recommender.recommend_from([3, 9], 44) == one  # ids as numbers


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([], "the history is empty: give item ids, the oldest first"),
        (["3", "lamp"], "item 'lamp' of the history is not in toy.*leave it out, or train again"),
        (["3", "9", "3"], "item '3' stands twice in the history: give it once, at its newest"),
    ],
)
def test_a_bad_history_is_refused(
    recommender: Recommender, history: list[str], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        recommender.recommend_from(history)
    with pytest.raises(DataError, match="user 'nobody' is not in toy"):
        recommender.recommend_from(["3"], user_id="nobody")
