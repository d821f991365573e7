"""Replicas of hot rows: exact ones change no loss, and what a rank sends is counted by kind."""

from pathlib import Path
from typing import Any

import pytest

from recmind_dist.parallel.traffic import KINDS
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.training.rank_model import Inputs
from tests.processes import run_ranks
from tests.training_runs import all_fit, config_of, curve_of, make_inputs

PLAIN: dict[str, Any] = {
    "model": {
        "embedding_dim": 8,
        "use_text": False,
        "init": "normal",
        "readout": "graph",
        "gate": {"enabled": False},
    },
    "alignment": {"weight": 0},
    "train": {"batch_size": 64, "epochs": 3},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hot")


@pytest.fixture(scope="module")
def inputs(home: Path) -> Inputs:
    return Inputs(make_inputs(home).graph)


def trained(home: Path, inputs: Inputs, world: int, **table: Any) -> tuple[list[float], list[dict[str, Any]]]:
    """Losses of all steps, and the traffic of all epochs."""
    config = config_of(home, f"run{len(list(home.iterdir()))}", **PLAIN, table=table, scaling={"num_workers": world})
    run_ranks(all_fit, world, config, inputs, "attempt0")
    traffic = list(read_metrics(RunDirectory(config.run_dir).metrics, "traffic"))
    return [record["loss"] for record in curve_of(config.run_dir)], traffic


@pytest.mark.parametrize("world", [2, 3])
def test_exact_replicas_change_no_loss_and_stale_ones_send_less(home: Path, inputs: Inputs, world: int) -> None:
    without, plain_traffic = trained(home, inputs, world)
    exact, exact_traffic = trained(home, inputs, world, hot_rows=30)
    stale, stale_traffic = trained(home, inputs, world, hot_rows=30, hot_every_steps=6)
    assert exact == pytest.approx(without, rel=1e-6)
    assert stale != pytest.approx(without, rel=1e-6)
    assert stale == pytest.approx(without, rel=0.2)
    for plain, same, old in zip(plain_traffic, exact_traffic, stale_traffic, strict=True):
        assert plain["gradients_bytes"] == plain["rows_bytes"] == same["gradients_bytes"] == old["gradients_bytes"]
        assert old["rows_bytes"] < 0.9 * plain["rows_bytes"]
        assert plain["ids_bytes"] == same["ids_bytes"] > 0


def test_every_row_may_be_hot_and_one_rank_sends_nothing(home: Path, inputs: Inputs) -> None:
    without, traffic = trained(home, inputs, 1)
    everything, _ = trained(home, inputs, 2, hot_rows=10_000)
    assert everything == pytest.approx(without, rel=1e-5)
    assert {v for record in traffic for k, v in record.items() if k.endswith("_bytes")} == {0}


def test_kinds_are_told_apart(home: Path) -> None:
    inputs = make_inputs(home / "all")
    config = config_of(home / "all", "run", scaling={"num_workers": 2})
    run_ranks(all_fit, 2, config, inputs, "attempt0")
    for record in read_metrics(RunDirectory(config.run_dir).metrics, "traffic"):
        kinds = {k: v for k, v in record.items() if k.endswith("_bytes")}
        assert set(kinds) == {f"{kind}_bytes" for kind in (*KINDS, "most")}
        assert all(value > 0 for value in kinds.values())


def test_copies_beside_text_views_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table\.hot_rows needs .*without text views"):
        config_of(tmp_path, "run", table={"hot_rows": 5})


def test_a_short_epoch_ends_validates_and_goes_on_with_other_pairs(home: Path, inputs: Inputs) -> None:
    plain = {**PLAIN, "train": {"batch_size": 64, "epochs": 4, "steps_per_epoch": 2}}
    config = config_of(home, "short", **plain)
    [share] = run_ranks(all_fit, 1, config, inputs, "attempt0")
    curve = curve_of(config.run_dir)
    assert [record["step"] for record in curve] == list(range(1, 9))
    assert len(list(read_metrics(RunDirectory(config.run_dir).metrics, "validation"))) == 4
    assert share["cursor"]["steps_done"] == 8
