"""What a rank sends is counted by kind, and written down for each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.distributed.traffic import KINDS
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.report_page.html import number
from recmind_dist.report_page.runs import read_runs
from recmind_dist.report_page.training import traffic_section
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.report_pages import Page
from tests.reported_runs import make_reported_run
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


@pytest.fixture(scope="module")
def both_phases(home: Path) -> RunDirectory:
    """A run with everything on, on two ranks."""
    inputs = make_inputs(home / "all")
    changes = {"scaling": {"num_workers": 2}, "train": {"epochs": 1}}
    config = config_of(home / "all", "run", **changes)
    run_ranks(train_rank, 2, config, inputs, "attempt0")
    run = RunDirectory(config.run_dir)
    run.write_config(config.model_dump(mode="json"))
    return run


def test_kinds_are_told_apart(both_phases: RunDirectory) -> None:
    records = list(read_metrics(both_phases.metrics, "traffic"))
    assert len(records) > 0
    for record in records:
        kinds = {k: v for k, v in record.items() if k.endswith("_bytes")}
        assert set(kinds) == {f"{kind}_bytes" for kind in (*KINDS, "most")}
        assert all(value > 0 for value in kinds.values())


def test_a_report_shows_what_ranks_sent_a_step(both_phases: RunDirectory) -> None:
    [run] = read_runs([both_phases.path])
    page = Page(traffic_section([run]))
    for phase, name in (("warmup", "warm-up"), ("joint", "joint phase")):
        [record] = [one for one in run.records["traffic"] if one["phase"] == phase]
        _, row = page.tables[f"Sent to other ranks in a step, {name}, kB"]
        sent = [record[f"{kind}_bytes"] for kind in KINDS]
        expected = [*sent, sum(sent), record["most_bytes"]]
        assert row == [run.label, *(number(bytes_a_step / 1000) for bytes_a_step in expected)]
        assert record["most_bytes"] >= sum(sent) - len(KINDS)  # each was rounded
        [epoch] = [one for one in run.records["epoch"] if one["phase"] == phase]
        assert (
            epoch["steps"]
            == record["steps"]
            == max(step["step"] for step in run.records["step"] if step["phase"] == phase)
        )


def test_the_runs_of_tests_of_reports_have_the_keys_that_a_trainer_writes(
    both_phases: RunDirectory, tmp_path: Path
) -> None:
    planted, written = (
        {record["kind"]: record.keys() for record in read_metrics(run.metrics)}
        for run in (RunDirectory(make_reported_run(tmp_path, evaluated=False)), both_phases)
    )
    for kind in ("start", "epoch", "traffic"):
        assert planted[kind] == written[kind]
    assert {"phase", "step", "total", "epoch", "epochs", "queue_staleness"} <= written["step"]


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
