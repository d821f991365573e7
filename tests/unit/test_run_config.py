"""A run's own config.yaml: read back as it was, and refused where another version of the program
wrote it.
"""

from pathlib import Path

import pytest

from recmind_dist.errors import ConfigError
from recmind_dist.report import RunDirectory
from recmind_dist.report.run_directory import SCHEMA
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.finished_run import read_run

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create()
    made.write_config(config_of(made).model_dump(mode="json"))
    return made


def config_of(run: RunDirectory) -> RunConfig:
    return load_run_config(QUICKSTART, [f"run_dir={run.path}"])


def test_it_is_the_config_of_the_run_and_may_be_run_again(run: RunDirectory) -> None:
    assert read_run(run.path)[1] == load_run_config(run.config) == config_of(run)


@pytest.mark.parametrize(
    ("line", "version"), [("", 1), ("schema: 2\n", 2), ("schema: 99\n", 99), ("schema: x\n", "x")]
)
def test_another_version_is_refused_in_a_sentence_that_names_both(
    run: RunDirectory, line: str, version: int | str
) -> None:
    (run.path / "SHA256SUMS").unlink()
    run.config.write_text(run.config.read_text().replace(f"schema: {SCHEMA}\n", line))
    remedy = "use the version that wrote the run, or run its config anew"
    sentence = f"schema version {version}, this program reads {SCHEMA}: {remedy}"
    with pytest.raises(ConfigError) as refusal:
        read_run(run.path)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_gates_rest_where_rows_are_carried_and_learn_where_rows_start_anew() -> None:
    of, gate = "update.of=runs/before", "model.gate.batch_size=64"
    scratch, update, transfer = (
        load_run_config(QUICKSTART, [gate, *words])
        for words in ([], [of], [of, "update.rows=anew"])
    )
    found = [(c.starts_from_run, c.updates, c.heldout_gates) for c in (scratch, update, transfer)]
    assert found == [(False, False, True), (True, True, False), (True, False, True)]
    assert [c.gate_batch_size for c in (scratch, update, transfer)] == [64, 0, 64]
    identities = [c.identity() for c in (scratch, update, transfer)]
    assert all(a != b for k, a in enumerate(identities) for b in identities[:k])
