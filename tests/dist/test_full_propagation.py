"""Full propagation is sampled propagation with all neighbours, on one rank and on two."""

import math
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.distributed.context import DistContext
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.phase import Phase
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.trainer import Trainer
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

EVERY = [-1, -1]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> RunStores:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def curve(
    home: Path, inputs: RunStores, name: str, context: int, **changes: Any
) -> list[dict[str, float]]:
    """Loss terms of every step of a run."""
    config = config_of(home, name, **changes)
    run_ranks(train_rank, context, config, inputs, "attempt0")
    return [
        {k: v for k, v in step.items() if isinstance(v, float) and k != "time"}
        for step in curve_of(config.run_dir)
    ]


def assert_same(
    first: list[dict[str, float]], second: list[dict[str, float]], rel: float = 2e-4
) -> None:
    assert len(first) == len(second) > 0
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a == pytest.approx(b, rel=rel, abs=1e-6), step


@pytest.mark.parametrize("loss", ["ssm", "bpr"])
def test_full_and_all_neighbours_give_the_same_losses(
    tmp_path: Path, inputs: RunStores, loss: str
) -> None:
    """With gates on held-out edges, masked batch edges, alignment and queue, in both phases."""
    runs = []
    for name, context, kind in (
        ("sampled", 1, "sampled"),
        ("full", 1, "full"),
        ("full2", 2, "full"),
    ):
        sampler = {"num_neighbors": EVERY, "negatives": {"num_shared": 12}, "propagation": kind}
        runs.append(
            curve(tmp_path, inputs, f"{name}-{loss}", context, sampler=sampler, loss={"kind": loss})
        )
    assert_same(runs[0][:3], runs[1][:3], 1e-5)
    assert_same(runs[1], runs[2])
    # steps differ in which rows the optimizer touches: those of zero gradient
    assert_same(runs[0], runs[1], 2e-3)


def test_a_batch_of_users_and_recmind_agree_on_one_and_two_ranks(
    tmp_path: Path, inputs: RunStores
) -> None:
    """Users with all their items, withheld items, views mixed by gates that learn on held-out
    edges, alignment.
    """
    runs = []
    for context in (1, 2):
        sampler = {
            "num_neighbors": EVERY,
            "negatives": {"num_shared": 12},
            "propagation": "full",
            "hide_batch_edges": False,
        }
        model = {
            "kind": "recmind",
            "text_layers": 2,
            "gate": {"withheld_items": 0.2, "heldout_share": 0.3},
        }
        runs.append(
            curve(
                tmp_path,
                inputs,
                f"mix{context}",
                context,
                sampler=sampler,
                model=model,
                train={"batch_of": "users", "batch_size": 16, "epochs": 3},
                loss={"kind": "ssm"},
            )
        )
    assert {"rank", "rank_text", "gate", "align_user", "align_item"} <= runs[0][-4].keys() | runs[
        0
    ][0].keys() | runs[0][8].keys()
    assert_same(*runs)


@pytest.mark.parametrize(("contrast", "worlds"), [({}, (2, 3)), ({"max_nodes": 9}, (2,))])
def test_nodes_are_contrasted_with_those_of_the_global_batch(
    tmp_path: Path, inputs: RunStores, contrast: dict[str, Any], worlds: tuple[int, ...]
) -> None:
    """Whoever holds them: the term, and what follows from its gradient, are those of one rank."""
    sampler = {
        "num_neighbors": EVERY,
        "negatives": {"num_shared": 12},
        "propagation": "full",
        "hide_batch_edges": False,
    }
    runs = [
        curve(
            tmp_path,
            inputs,
            f"contrast{context}",
            context,
            sampler=sampler,
            model={"kind": "xsimgcl", "contrast": {**contrast, "weight": 1.0}},
            alignment={"weight": 0.0},
            train={"batch_of": "users", "batch_size": 16, "warmup_epochs": 0, "epochs": 2},
            loss={"kind": "ssm"},
        )
        for context in (1, *worlds)
    ]
    assert all(step["contrast"] > 0.1 for step in runs[0])
    for other in runs[1:]:
        assert_same(runs[0], other)


def test_the_contrast_of_few_drawn_nodes_is_that_of_all_where_they_are_no_more(
    tmp_path: Path, inputs: RunStores
) -> None:
    """InfoNCE among n nodes is about log n less what the views agree on: fewer nodes, a smaller
    term.
    """
    sampler = {
        "num_neighbors": EVERY,
        "negatives": {"num_shared": 12},
        "propagation": "full",
        "hide_batch_edges": False,
    }
    terms = []
    for most in (0, 10_000, 4):
        model = {"kind": "xsimgcl", "contrast": {"weight": 1.0, "max_nodes": most}}
        steps = curve(
            tmp_path,
            inputs,
            f"drawn{most}",
            1,
            sampler=sampler,
            model=model,
            alignment={"weight": 0.0},
            train={"batch_of": "users", "batch_size": 16, "epochs": 1},
            loss={"kind": "ssm"},
        )
        terms.append([step["contrast"] for step in steps if "contrast" in step])
    everybody, no_more, few = terms
    assert everybody == no_more
    assert 0 < few[0] < 2 * math.log(4) + 0.01 < everybody[0]


@pytest.mark.parametrize(("ranks", "shared_memory"), [(2, True), (3, False)])
def test_a_rank_without_a_hidden_edge_takes_part(
    tmp_path: Path, ranks: int, shared_memory: bool
) -> None:
    """The last batch has so few pairs that their edges are of other ranks' rows, while held-out
    pairs teach the gates.
    """
    inputs = make_inputs(tmp_path, num_users=14, num_items=9, num_pairs=33)
    model = {"kind": "recmind", "gate": {"heldout_share": 0.5}}
    runs = [
        curve(
            tmp_path,
            inputs,
            f"few{world}",
            world,
            sampler={"num_neighbors": EVERY, "propagation": "full"},
            model=model,
            train={"batch_size": 4, "warmup_epochs": 0, "epochs": 2},
            alignment={"weight": 0.0},
            scaling={"shared_memory": shared_memory},
        )
        for world in (1, ranks)
    ]
    assert "gate" in runs[0][0]
    assert_same(*runs)


def steps_prepared(config: RunConfig, inputs: RunStores) -> list[tuple[int, bool]]:
    """Of the first epoch's steps: how many hidden edges, and whether edges were found ahead."""
    worker = Trainer(
        config,
        inputs,
        DistContext.alone(),
        RunDirectory(config.run_dir),
        "attempt0",
        lambda _: None,
        "never",
    )
    steps = list(
        Phase(
            worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done
        ).step_inputs(0, 0)
    )
    worker.checkpointer.close()
    return [
        (0 if step.hidden is None else len(step.hidden), step.edges is not None) for step in steps
    ]


@pytest.mark.parametrize("hides", [True, False])
def test_edges_are_found_ahead_only_where_no_step_hides_any(tmp_path: Path, hides: bool) -> None:
    """Training hides edges in place while the sampler's thread makes the next step, which may have
    none to hide.
    """
    inputs = make_inputs(tmp_path, num_users=14, num_items=9, num_pairs=33)
    config = config_of(
        tmp_path,
        "ahead",
        sampler={
            "propagation": "full",
            "hide_batch_edges": hides,
            "negatives": {"num_shared": 1},
        },
        alignment={"weight": 0.0},
        model={"kind": "recmind", "gate": {"heldout_share": 1.0}},
        train={"batch_size": 1, "warmup_epochs": 0, "epochs": 1},
    )
    [steps] = run_ranks(steps_prepared, 1, config, inputs)
    assert any(hidden for hidden, _ in steps) == hides
    assert any(not hidden for hidden, _ in steps)
    assert any(ahead for _, ahead in steps) != hides


@pytest.mark.parametrize("learn_on", ["heldout", "train"])
def test_content_view_and_recent_means_agree_on_one_and_two_ranks(
    tmp_path: Path, inputs: RunStores, learn_on: str
) -> None:
    sampler = {"negatives": {"num_shared": 12}, "propagation": "full", "hide_batch_edges": False}
    gate = {"heldout_share": 0.3, "learn_on": learn_on}
    model = {
        "kind": "recmind",
        "text_layers": 2,
        "views": "all",
        "recent_decay": 0.5,
    }
    runs = [
        curve(
            tmp_path,
            inputs,
            f"beside{context}",
            context,
            sampler=sampler,
            model={**model, "gate": gate},
            train={"batch_of": "users", "batch_size": 16, "epochs": 3},
            alignment={"weight": 0.0},
        )
        for context in (1, 2)
    ]
    assert "gate" in runs[0][0]
    assert_same(*runs)
