"""The same global batch gives the same loss on one, two and three ranks, in both phases and with
everything on.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.graph import Graph
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

TOLERANCE = 1e-5
TERMS = {"align_user", "align_item", "loss"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return make_inputs(home)


def table_of(found: list[dict[str, Any]]) -> np.ndarray:
    """The whole table in node order, whoever holds which row."""
    nodes = np.concatenate([share["nodes"] for share in found])
    return np.concatenate([share["rows"]["weight"] for share in found])[np.argsort(nodes)]


def assert_same_run(
    home: Path, inputs: RunStores, worlds: tuple[int, ...], **changes: Any
) -> list[dict[str, Any]]:
    """Trains on each number of ranks; all terms of all steps, table and validation agree."""
    curves, tables, scores = [], [], []
    name = f"run{len(list(home.iterdir()))}"
    for world in worlds:
        scaling = {"num_workers": world, **changes.get("scaling", {})}
        config = config_of(home, f"{name}-{world}", **{**changes, "scaling": scaling})
        found = run_ranks(train_rank, world, config, inputs, f"attempt{world}")
        curves.append(curve_of(config.run_dir))
        tables.append(table_of(found))
        scores.append(found[0]["cursor"]["metrics"])
    first = curves[0]
    assert len(first) >= 5
    for curve, table, score in zip(curves[1:], tables[1:], scores[1:], strict=True):
        for ours, theirs in zip(first, curve, strict=True):
            assert set(ours) == set(theirs)
            for term in set(ours) - {"time", "kind", "phase"}:
                assert theirs[term] == pytest.approx(ours[term], rel=TOLERANCE, abs=TOLERANCE), (
                    ours["step"],
                    term,
                )
        np.testing.assert_allclose(table, tables[0], atol=2e-4)
        assert score == pytest.approx(scores[0], abs=1e-9)
    return first


@pytest.mark.parametrize(("kind", "worlds"), [("ssm", (1, 2)), ("bpr", (1, 3))])
def test_alignment_queue_and_held_out_gates_agree_on_1_2_and_3_ranks(
    home: Path, inputs: RunStores, kind: str, worlds: tuple[int, ...]
) -> None:
    curve = assert_same_run(home, inputs, worlds, loss={"kind": kind, "user_exponent": 0.2})
    warm, joint = ([r for r in curve if r["phase"] == phase] for phase in ("warmup", "joint"))
    assert set(warm[0]) >= TERMS
    assert not set(warm[0]) & {"rank", "gate"}
    assert set(joint[0]) >= TERMS | {"rank", "gate", "regularization"}
    assert "gate" in joint[-1]  # they learn to the end
    assert joint[-1]["queue_staleness"] > 0


def test_the_papers_form_and_hard_negatives_agree_on_2_ranks(home: Path, inputs: RunStores) -> None:
    model = {"readout": "alpha", "init": "normal", "gate": {"learn_on": "train"}}
    negatives = {"kind": "in_batch", "num": 3}
    assert_same_run(
        home,
        inputs,
        (1, 2),
        model={"embedding_dim": 8, **model},
        loss={"kind": "bpr"},
        sampler={"num_neighbors": [4, 3], "negatives": negatives},
        table={"optimizer": "adagrad"},
        zero={"stage": 2},
    )


def test_plain_lightgcn_and_gates_without_a_queue_agree_on_2_ranks(
    home: Path, inputs: RunStores
) -> None:
    plain = {"embedding_dim": 8, "kind": "lightgcn"}
    curve = assert_same_run(
        home, RunStores(inputs.graph), (1, 2), model=plain, alignment={"weight": 0}
    )
    assert set(curve[0]) >= {"rank", "regularization"}
    assert curve[0]["phase"] == "joint"
    small = {"embedding_dim": 8, "gate": {"heldout_share": 0.5, "batch_size": 40}}
    assert_same_run(home, inputs, (1, 2), model=small, alignment={"queue_size": 0})


def test_weighted_pairs_agree_on_2_ranks_and_change_the_loss(home: Path, inputs: RunStores) -> None:
    weighted = home / "weighted"
    shutil.copytree(inputs.graph, weighted)
    num_edges = Graph.open(inputs.graph).num_edges
    weight = np.random.default_rng(3).gamma(1.0, size=num_edges).astype(np.float32)
    np.save(weighted / "edge_weight.npy", weight / weight.mean())
    plain = {"model": {"embedding_dim": 8, "kind": "lightgcn"}, "alignment": {"weight": 0}}
    curve = assert_same_run(home, RunStores(weighted), (1, 2), **plain)
    config = config_of(home, "unweighted", **plain)
    run_ranks(train_rank, 1, config, RunStores(inputs.graph), "attempt1")
    assert curve_of(config.run_dir)[0]["rank"] != pytest.approx(curve[0]["rank"], rel=1e-2)


def test_zero_3_trains_like_zero_1_on_2_ranks(home: Path, inputs: RunStores) -> None:
    curves = []
    for stage in (1, 3):
        config = config_of(home, f"zero{stage}", zero={"stage": stage}, scaling={"num_workers": 2})
        run_ranks(train_rank, 2, config, inputs, f"attempt{stage}")
        curves.append([record["loss"] for record in curve_of(config.run_dir)])
    assert curves[1] == pytest.approx(curves[0], rel=TOLERANCE)


def test_ranks_without_a_pair_and_without_a_row_take_part(tmp_path: Path) -> None:
    """The last batch has fewer pairs than ranks, and every user's newest edge is held out."""
    inputs = make_inputs(tmp_path, num_users=14, num_items=9, num_pairs=33)
    model = {"embedding_dim": 8, "gate": {"heldout_share": 1.0}}
    assert_same_run(
        tmp_path,
        inputs,
        (1, 3),
        model=model,
        train={"batch_size": 4, "warmup_epochs": 1, "epochs": 1},
    )
