"""What `sampler.propagation: auto` chooses from given costs, and that a real measurement ends in a choice that a run can take."""

from pathlib import Path
from typing import Any

import pytest

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.errors import CheckpointError, ConfigError
from recmind_dist.parallel import Ranks
from recmind_dist.report import read_metrics
from recmind_dist.training.plan import Costs, Plan, all_plan, choose
from recmind_dist.training.rank_model import RankModel
from recmind_dist.training.run_config import RunConfig
from tests.processes import run_ranks
from tests.training_runs import all_fit, config_of, curve_of, make_inputs

COSTS = Costs(
    batch_s=1e-3, sampled_batch_s=5e-3, sampled_hops_s=40e-3, sampled_rows=50_000, loss_s=2e-3, edge_s=10e-9, row_s=60e-9,
    sent_row_s=0.0,
)  # fmt: skip


def auto(home: Path, name: str = "auto", most: int = 1, **sampler: Any) -> RunConfig:
    sampler = {"propagation": "auto", "num_neighbors": [-1, -1], "batches_per_propagation": most} | sampler
    return config_of(home, name, sampler=sampler)


def test_small_graphs_are_propagated_whole_and_large_ones_sampled(tmp_path: Path) -> None:
    config = auto(tmp_path)
    assert choose(COSTS, config, 2_000, 50_000, 1, fits=True).propagation == "full"
    assert choose(COSTS, config, 2_000_000, 50_000_000, 1, fits=True).propagation == "sampled"
    assert choose(COSTS, config, 2_000, 50_000, 1, fits=False).propagation == "sampled"


def test_the_least_k_that_comes_near_the_cheapest(tmp_path: Path) -> None:
    few = choose(COSTS, auto(tmp_path, most=64), 2_000, 50_000, 1, fits=True)
    many = choose(COSTS, auto(tmp_path, most=64), 70_000, 1_000_000, 1, fits=True)
    assert 1 < few.batches_per_propagation < many.batches_per_propagation <= 64
    cheapest = min(v for k, v in many.seconds.items())
    assert many.seconds[f"full, K={many.batches_per_propagation}"] <= 1.05 * cheapest


def test_a_plan_comes_back_from_a_checkpoint_and_nothing_else_does() -> None:
    plan = Plan("full", 4, "because", {"sampled": 1.0})
    assert Plan.from_info(plan.to_info()) == plan
    for wrong in (None, {}, plan.to_info() | {"more": 1}, plan.to_info() | {"propagation": "auto"}):
        with pytest.raises(CheckpointError):
            Plan.from_info(wrong)


def test_what_only_full_propagation_can_do_is_refused_beside_auto(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="withheld_items needs"):
        config_of(tmp_path, "x", sampler={"propagation": "auto"}, model={"gate": {"withheld_items": 0.1}})


def test_other_devices_are_refused(tmp_path: Path) -> None:
    config, inputs = auto(tmp_path), make_inputs(tmp_path)
    parts = RankModel(config, inputs, Ranks.alone())
    with pytest.raises(ConfigError, match="CPU alone"):
        all_plan(config, parts, Ranks.alone("meta"))


def test_two_ranks_choose_alike_and_a_resumed_run_keeps_its_choice(tmp_path: Path) -> None:
    """The losses are those of the fixed choice; the second half of the run goes on under the first half's plan."""
    inputs = make_inputs(tmp_path)
    config = auto(tmp_path, most=2)
    run_ranks(all_fit, 2, config, inputs, "attempt0", ("warmup",))
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    kept = Plan.from_info(found.info["plan"])
    run_ranks(all_fit, 2, config, inputs, "attempt1", ("warmup", "joint"), "must")
    plans = list(read_metrics(config.run_dir / "metrics.jsonl", "plan"))
    assert [plan["propagation"] for plan in plans] == [kept.propagation]
    fixed = config_of(tmp_path, "fixed", sampler=kept.applied(config).sampler.model_dump())
    run_ranks(all_fit, 2, fixed, inputs, "attempt0")
    ours, theirs = ([r["loss"] for r in curve_of(c.run_dir)] for c in (config, fixed))
    assert ours == theirs
