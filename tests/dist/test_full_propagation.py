"""Full propagation is sampled propagation with all neighbours, on one rank and on two; K batches are one large one."""

import math
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.training.rank_model import Inputs
from tests.processes import run_ranks
from tests.training_runs import all_fit, config_of, curve_of, make_inputs

EVERY = [-1, -1]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def curve(home: Path, inputs: Inputs, name: str, ranks: int, **changes: Any) -> list[dict[str, float]]:
    """Loss terms of every step of a run."""
    config = config_of(home, name, **changes)
    run_ranks(all_fit, ranks, config, inputs, "attempt0")
    return [
        {k: v for k, v in step.items() if isinstance(v, float) and k != "time"} for step in curve_of(config.run_dir)
    ]


def assert_same(first: list[dict[str, float]], second: list[dict[str, float]], rel: float = 2e-4) -> None:
    assert len(first) == len(second) > 0
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a == pytest.approx(b, rel=rel, abs=1e-6), step


@pytest.mark.parametrize("loss", ["ssm", "bpr"])
def test_full_and_all_neighbours_give_the_same_losses(tmp_path: Path, inputs: Inputs, loss: str) -> None:
    """With gates on held-out edges, hidden batch edges, alignment, queue, fallback, in both phases."""
    runs = []
    for name, ranks, kind in (("sampled", 1, "sampled"), ("full", 1, "full"), ("full2", 2, "full")):
        sampler = {"num_neighbors": EVERY, "negatives": {"num_shared": 12}, "propagation": kind}
        runs.append(curve(tmp_path, inputs, f"{name}-{loss}", ranks, sampler=sampler, loss={"kind": loss}))
    assert_same(runs[0][:3], runs[1][:3], 1e-5)
    assert_same(runs[1], runs[2])
    assert_same(runs[0], runs[1], 2e-3)  # steps differ in which rows the optimizer touches: those of zero gradient


def test_k_batches_a_propagation_are_one_batch_of_k_times_the_size(tmp_path: Path, inputs: Inputs) -> None:
    runs = []
    for name, size, k in (("large", 96, 1), ("k", 24, 4)):
        sampler = {"num_neighbors": EVERY, "propagation": "full", "batches_per_propagation": k}
        train = {"batch_size": size, "epochs": 2}
        model = {"gate": {"batch_size": 24}}
        runs.append(curve(tmp_path, inputs, name, 1, sampler=sampler, train=train, model=model, loss={"kind": "bpr"}))
    assert runs[0] == runs[1]


def test_a_batch_of_users_and_the_mixing_readout_agree_on_one_and_two_ranks(tmp_path: Path, inputs: Inputs) -> None:
    """Users with all their items, withheld items, noise of XSimGCL, views mixed by gates that learn on held-out edges."""
    runs = []
    for ranks in (1, 2):
        sampler = {
            "num_neighbors": EVERY,
            "negatives": {"num_shared": 12},
            "propagation": "full",
            "hide_batch_edges": False,
        }
        model = {
            "readout": "mix",
            "text_layers": 2,
            "users_have_text": False,
            "gate": {"withheld_items": 0.2, "heldout_share": 0.3},
        }
        runs.append(curve(
            tmp_path, inputs, f"mix{ranks}", ranks, sampler=sampler, model=model,
            train={"batch_of": "users", "batch_size": 16, "epochs": 3},
            loss={"kind": "ssm", "contrast": {"kind": "xsimgcl", "noise": 0.0, "weight": 0.0}},
        ))  # fmt: skip
    assert {"rank", "rank_text", "gate", "contrast"} <= runs[0][-4].keys() | runs[0][0].keys() | runs[0][8].keys()
    assert_same(*runs)


def test_the_contrast_of_few_drawn_nodes_is_that_of_all_where_they_are_no_more(tmp_path: Path, inputs: Inputs) -> None:
    """InfoNCE among n nodes is about log n less what the views agree on: fewer nodes, a smaller term."""
    sampler = {"num_neighbors": EVERY, "negatives": {"num_shared": 12}, "propagation": "full", "hide_batch_edges": False}
    terms = []
    for most in (0, 10_000, 4):
        contrast = {"kind": "xsimgcl", "weight": 1.0, "max_nodes": most}
        steps = curve(
            tmp_path, inputs, f"drawn{most}", 1, sampler=sampler, variant="xsimgcl",
            train={"batch_of": "users", "batch_size": 16, "epochs": 1}, loss={"kind": "ssm", "contrast": contrast},
        )  # fmt: skip
        terms.append([step["contrast"] for step in steps if "contrast" in step])
    everybody, no_more, few = terms
    assert everybody == no_more
    assert 0 < few[0] < 2 * math.log(4) + 0.01 < everybody[0]


@pytest.mark.parametrize("learn_on", ["heldout", "train"])
def test_content_view_and_recent_means_agree_on_one_and_two_ranks(tmp_path: Path, inputs: Inputs, learn_on: str) -> None:
    sampler = {"negatives": {"num_shared": 12}, "propagation": "full", "hide_batch_edges": False}
    gate = {"enabled": False, "heldout_share": 0.3, "learn_on": learn_on}
    model = {"readout": "mix", "text_layers": 2, "users_have_text": False, "content_view": True, "recent_decay": 0.5}
    runs = [
        curve(
            tmp_path, inputs, f"beside{ranks}", ranks, sampler=sampler, model={**model, "gate": gate},
            train={"batch_of": "users", "batch_size": 16, "epochs": 3}, alignment={"weight": 0.0},
        )
        for ranks in (1, 2)
    ]  # fmt: skip
    assert "gate" in runs[0][0]
    assert_same(*runs)
