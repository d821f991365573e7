"""Edge rows of a run with `graph.placement: partitioned`: ranks map them unread, so whoever reads a
run verifies them first, and the doctor makes them again.
"""

from pathlib import Path

import pytest

from recmind_dist.cli import main
from recmind_dist.doctor.examine import examine
from recmind_dist.doctor.repair import repair
from recmind_dist.errors import StoreError
from recmind_dist.graph import prepare_rows
from recmind_dist.report import RunDirectory
from recmind_dist.storage import write_sealed_json
from recmind_dist.training.finished_run import read_inputs
from recmind_dist.training.run_stores import RunStores
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of

FILES = {
    "indices.npy",
    "indptr.npy",
    "manifest.json",
    "newest.npy",
    "node_of_row.npy",
    "time_rank.npy",
}


def make_run(home: Path, placement: str) -> RunDirectory:
    """A run directory with settings and inputs, as it is before the first step."""
    graph = make_graph(home, random_pairs(20, 10, 80), 20, 10)
    prepare_rows(graph.path)
    config = config_of(
        home,
        "run",
        model={"kind": "lightgcn", "embedding_dim": 8},
        alignment={"weight": 0},
        graph={"placement": placement},
    )
    run = RunDirectory(config.run_dir)
    run.create()
    run.write_config(config.model_dump(mode="json"))
    write_sealed_json(run.path / "inputs.json", RunStores(graph.path).to_json())
    return run


def rows_of(run: RunDirectory) -> Path:
    return next(run.path.parent.rglob("graph-*-rows"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, "partitioned")


def test_a_flipped_bit_in_any_file_is_found_refused_and_mended(run: RunDirectory) -> None:
    rows = rows_of(run)
    before = {path.name: path.read_bytes() for path in rows.iterdir()}
    assert set(before) == FILES
    found = examine(run.path)
    assert found.findings == []
    assert f"edge rows: {rows}" in found.sound
    read_inputs(run)
    for name in before:
        flip(rows / name)
        [finding] = examine(run.path).findings
        assert (finding.part, finding.path) == ("edge rows", rows)
        assert name in finding.fault
        with pytest.raises(StoreError, match=name):
            read_inputs(run)
        said: list[str] = []
        assert repair(run.path, said.append).findings == []
        assert said == [f"{rows}: made again from the graph"]
        assert {path.name: path.read_bytes() for path in rows.iterdir()} == before


def test_evaluate_refuses_them_with_the_file(
    run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    flip(rows_of(run) / "indices.npy")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(run.path)])
    assert stop.value.code == 2
    assert "-rows/indices.npy: sha256 differs" in capfd.readouterr().err


def test_lost_rows_are_found_and_made_again(run: RunDirectory) -> None:
    rows = rows_of(run)
    rows.rename(rows.with_name("elsewhere"))
    [finding] = examine(run.path).findings
    assert "are absent" in finding.fault
    assert repair(run.path, lambda line: None).findings == []
    assert rows.is_dir()


def test_a_replicated_run_needs_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, "replicated")
    flip(rows_of(run) / "indices.npy")
    assert examine(run.path).findings == []
    read_inputs(run)
