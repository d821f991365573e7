"""A run saved on some ranks goes on on others: the same bits and the same course."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, resave, train_rank, train_until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reshard")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return make_inputs(home)


def content(config: RunConfig, name: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, rows whole."""
    found = find_checkpoint(config.run_dir / "checkpoints", name)
    assert found is not None
    return {f"rows.{n}": t for n, t in found.rows(0, found.num_rows).items()} | found.dense()


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_tables_optimizers_and_queues_are_bit_equal_over_2_1_3_and_2_ranks(
    home: Path, inputs: RunStores, optimizer: str
) -> None:
    config = config_of(
        home,
        optimizer,
        table={"optimizer": optimizer},
        zero={"stage": 2},
        checkpoint={"keep_last": 9},
        train={"epochs": 1},
    )
    run_ranks(train_rank, 2, config, inputs, "attempt0", ("warmup",))
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    first = content(config, found.name)
    assert first["adam_step"] > 0
    assert first["queue.user_text.ids"].max() >= 0
    for attempt, world in enumerate((1, 3, 2), start=1):
        names = run_ranks(resave, world, config, inputs, f"attempt{attempt}")
        again = content(config, names[0])
        assert again.keys() == first.keys()
        for name, value in first.items():
            assert torch.equal(again[name], value), (world, name)


def stop_and_resume(
    home: Path, inputs: RunStores, world: int, then: int, stage: int = 1
) -> tuple[list, list, int]:  # type: ignore[type-arg]
    """Answers of an undisturbed run and of one cut in mid-epoch and resumed on `then` ranks; and
    compares their curves.
    """
    answers = []
    # 6 steps an epoch: step 8 is saved in mid-epoch, and the run dies at step 12, before that is
    # saved
    for name in ("whole", "cut"):
        config = config_of(
            home,
            f"{name}-{world}-{then}-{stage}",
            checkpoint={"every_steps": 4},
            zero={"stage": stage},
            alignment={"queue_size": 40},
            train={
                "batch_size": 96,
                "warmup_epochs": 1,
                "epochs": 2,
                "log_every_steps": 1,
                "seed": 3,
            },
        )
        if name == "cut":
            assert run_ranks(train_until, world, config, inputs, "attempt0", 10) == [12] * world
            last = find_checkpoint(config.run_dir / "checkpoints")
            assert last is not None
            assert (last.info["cursor"]["phase"], last.info["cursor"]["step_in_epoch"]) == (
                "joint",
                2,
            )
        ranks = then if name == "cut" else world
        answers.append(
            run_ranks(train_rank, ranks, config, inputs, "attempt1", ("warmup", "joint"), "auto")
        )
    return answers[0], answers[1], len(curve_of(config.run_dir))


@pytest.mark.parametrize(("world", "stage"), [(1, 1), (2, 2)])
def test_resuming_in_mid_epoch_is_the_undisturbed_run_bit_for_bit(
    home: Path, inputs: RunStores, world: int, stage: int
) -> None:
    whole, cut, _ = stop_and_resume(home, inputs, world, world, stage)
    for ours, theirs in zip(whole, cut, strict=True):
        for name in ours["rows"]:
            np.testing.assert_array_equal(theirs["rows"][name], ours["rows"][name], err_msg=name)
        assert theirs["cursor"] == ours["cursor"]
    curves = [curve_of(home / f"{name}-{world}-{world}-{stage}") for name in ("whole", "cut")]
    tails = [[{k: v for k, v in r.items() if k != "time"} for r in curve[-10:]] for curve in curves]
    assert tails[0] == tails[1]
    epochs = read_metrics(home / f"cut-{world}-{world}-{stage}" / "metrics.jsonl", "epoch")
    # of six: what was timed after the restart is of the last four
    assert [epoch["steps"] for epoch in epochs][-2:] == [4, 6]


def test_resuming_in_mid_epoch_on_another_number_of_ranks_keeps_the_course(
    home: Path, inputs: RunStores
) -> None:
    whole, cut, _ = stop_and_resume(home, inputs, 2, 3)
    curves = [curve_of(home / f"{name}-2-3-1") for name in ("whole", "cut")]
    losses = [[record["loss"] for record in curve[-10:]] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert cut[0]["cursor"]["metrics"] == pytest.approx(whole[0]["cursor"]["metrics"], abs=1e-9)


def test_an_epoch_that_a_larger_batch_leaves_no_step_is_over(home: Path, inputs: RunStores) -> None:
    """Cut after 8 of many steps of the first epoch; an epoch of larger batches has two."""
    small = config_of(
        home,
        "mismatch",
        checkpoint={"every_steps": 4},
        alignment={"weight": 0},
        model={"kind": "lightgcn"},
        train={"batch_size": 32, "warmup_epochs": 0, "epochs": 2},
    )
    inputs = RunStores(inputs.graph)
    run_ranks(train_until, 1, small, inputs, "attempt0", 6)
    large = small.model_copy(update={"train": small.train.model_copy(update={"batch_size": 500})})
    [found] = run_ranks(train_rank, 1, large, inputs, "attempt1", ("joint",), "must", True)
    assert found["cursor"]["phase"] == "done"
    first, second = list(read_metrics(RunDirectory(large.run_dir).metrics, "epoch"))[-2:]
    assert (first["epoch"], first["loss"]) == (0, None)
    assert (second["epoch"], second["loss"] is None) == (1, False)
    assert (first["steps"], second["steps"]) == (0, 2)
