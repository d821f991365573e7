"""What a rank sends is counted by kind, and written down for each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.distributed.traffic import KINDS
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

PLAIN: dict[str, Any] = {
    "model": {
        "kind": "lightgcn",
        "embedding_dim": 8,
    },
    "alignment": {"weight": 0},
    "train": {"batch_size": 64, "epochs": 2},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traffic")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return RunStores(make_inputs(home).graph)


def trained(home: Path, inputs: RunStores, world: int) -> tuple[list[float], list[dict[str, Any]]]:
    """Losses of all steps, and the traffic of all epochs."""
    config = config_of(
        home, f"run{len(list(home.iterdir()))}", **PLAIN, scaling={"num_workers": world}
    )
    run_ranks(train_rank, world, config, inputs, "attempt0")
    traffic = list(read_metrics(RunDirectory(config.run_dir).metrics, "traffic"))
    return [record["loss"] for record in curve_of(config.run_dir)], traffic


def test_one_rank_sends_nothing_and_two_send_rows_back_as_gradients(
    home: Path, inputs: RunStores
) -> None:
    without, silent = trained(home, inputs, 1)
    losses, traffic = trained(home, inputs, 2)
    assert losses == pytest.approx(without, rel=1e-5)
    assert {v for record in silent for k, v in record.items() if k.endswith("_bytes")} == {0}
    for record in traffic:
        assert record["gradients_bytes"] == record["rows_bytes"] > 0
        assert record["ids_bytes"] > 0


def test_kinds_are_told_apart(home: Path) -> None:
    inputs = make_inputs(home / "all")
    changes = {"scaling": {"num_workers": 2}, "train": {"epochs": 1}}
    config = config_of(home / "all", "run", **changes)
    run_ranks(train_rank, 2, config, inputs, "attempt0")
    records = list(read_metrics(RunDirectory(config.run_dir).metrics, "traffic"))
    assert len(records) > 0
    for record in records:
        kinds = {k: v for k, v in record.items() if k.endswith("_bytes")}
        assert set(kinds) == {f"{kind}_bytes" for kind in (*KINDS, "most")}
        assert all(value > 0 for value in kinds.values())


def test_a_short_epoch_ends_validates_and_goes_on_with_other_pairs(
    home: Path, inputs: RunStores
) -> None:
    plain = {**PLAIN, "train": {"batch_size": 64, "epochs": 4, "steps_per_epoch": 2}}
    config = config_of(home, "short", **plain)
    [share] = run_ranks(train_rank, 1, config, inputs, "attempt0")
    curve = curve_of(config.run_dir)
    assert [record["step"] for record in curve] == list(range(1, 9))
    assert len(list(read_metrics(RunDirectory(config.run_dir).metrics, "validation"))) == 4
    assert share["cursor"]["steps_done"] == 8


def test_a_run_says_how_its_ranks_exchange_and_either_way_has_the_same_bits(
    home: Path, inputs: RunStores
) -> None:
    kinds, curves, tables = [], [], []
    for shared_memory in (True, False):
        scaling = {"num_workers": 2, "shared_memory": shared_memory}
        config = config_of(home, f"exchange-{shared_memory}", **PLAIN, scaling=scaling)
        shares = run_ranks(train_rank, 2, config, inputs, "attempt0")
        tables.append([share["rows"]["weight"] for share in shares])
        curves.append([record["loss"] for record in curve_of(config.run_dir)])
        [start] = read_metrics(RunDirectory(config.run_dir).metrics, "start")
        kinds.append(start["exchange"])
    assert kinds == ["shared memory", "process group"]
    assert curves[0] == curves[1]
    assert all(np.array_equal(*pair) for pair in zip(*tables, strict=True))
