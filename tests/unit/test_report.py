"""Metrics log, progress lines, tables and the run directory."""

import errno
import io
import json
import logging
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from recmind_dist.errors import LockedError, StoreError
from recmind_dist.report import (
    MetricsLog,
    Progress,
    RunDirectory,
    comparison_table,
    folded_results,
    print_table,
    read_metrics,
    strata_table,
)
from recmind_dist.report.quiet import QUIET_VARIABLE
from recmind_dist.report.run_directory import SCHEMA
from recmind_dist.report.tables import Evidence, group_tables, lists_table

RESULTS: dict[str, Any] = {
    "dataset": "ml-100k",
    "variant": "recmind",
    "seed": 1,
    "commit": None,
    "split": "test",
    "metrics": {"recall@20": 0.25, "ndcg@20": 0.125},
    "strata": {
        "0": {"users": 0, "recall@20": None},
        "1-3": {"users": 2, "recall@20": 0.5},
        "cold": {"users": 2, "recall@20": 0.5},
    },
    "gate": [
        {
            "layer": 0,
            "side": "user",
            "degree_bin": "0",
            "mean": 0.5,
            "median": 0.5,
            "p10": 0.4,
            "p90": 0.6,
            "count": 3,
        },
        {"layer": 0, "side": "user", "spearman": None, "count": 3},
    ],
}


def test_every_line_is_one_object_and_is_there_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "logs" / "metrics.jsonl", clock=lambda: 12.3456)
    log.log(
        "step",
        loss=float("nan"),
        rate=np.float32(0.5),
        by_k={20: np.array([1.0, np.inf])},
        text="a\nb",
    )
    line = log.path.read_text()
    written = json.loads(line)
    assert (
        written.pop("crc32")
        == f"{zlib.crc32(json.dumps(written, ensure_ascii=False).encode()):08x}"
    )
    assert written == {
        "time": 12.346,
        "kind": "step",
        "loss": None,
        "rate": 0.5,
        "by_k": {"20": [1.0, None]},
        "text": "a\nb",
    }
    assert line.count("\n") == 1
    log.log("epoch", epoch=1)
    log.close()
    assert [record["kind"] for record in read_metrics(log.path)] == ["step", "epoch"]
    assert [record["epoch"] for record in read_metrics(log.path, kind="epoch")] == [1]


def test_a_torn_line_is_skipped_named_and_does_not_swallow_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log("a")
    path.write_bytes(path.read_bytes() + b'{"kind": "b", "lo')
    assert [record["kind"] for record in read_metrics(path)] == ["a"]
    assert "metrics.jsonl:2" in caplog.text
    with MetricsLog(path) as log:  # the run that goes on after the kill
        log.log("c")
        log.log("d")
    assert [record["kind"] for record in read_metrics(path)] == ["a", "c", "d"]


def test_a_flipped_bit_in_a_line_is_never_read_as_another_figure(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log("validation", recall=0.25)
    whole = path.read_bytes()
    assert [record["recall"] for record in read_metrics(path)] == [0.25]
    for bit in range(8 * (len(whole) - 1)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert list(read_metrics(path)) == [], data


def test_a_full_disk_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(log, "_file", Full())
        log.log("lost")
        log.log("lost")
    log.log("kept")
    log.close()
    assert caplog.text.count("No space left on device") == 1
    assert "2 lines were lost" in caplog.text
    assert [record["kind"] for record in read_metrics(log.path)] == ["kept"]


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        list(read_metrics(tmp_path / "metrics.jsonl"))


def test_plain_progress_speaks_at_most_every_few_seconds_and_at_the_end() -> None:
    now, out = [0.0], io.StringIO()
    with Progress("train", 980, done=100, stream=out, clock=lambda: now[0]) as progress:
        for _ in range(20):
            now[0] += 0.6
            progress.update(stage="epoch 3/20", loss=0.41234)
    assert out.getvalue().splitlines() == [
        "train  epoch 3/20  step 109/980  1.667 steps/s  ETA 8 min 43 s  loss 0.4123",
        "train  epoch 3/20  step 118/980  1.667 steps/s  ETA 8 min 37 s  loss 0.4123",
        "train  epoch 3/20  step 120/980  1.667 steps/s  ETA 8 min 36 s  loss 0.4123",
    ]


def test_the_last_line_of_progress_stands_once_and_without_a_rate_that_nobody_measured() -> None:
    now, out = [0.0], io.StringIO()
    with Progress("train", 40, stream=out, clock=lambda: now[0]) as progress:
        for _ in range(4):
            now[0] += 6.0
            progress.update(10, loss=0.5)
        progress.update(0, recall=0.25)
    assert [line.split("  ")[1] for line in out.getvalue().splitlines()] == [
        *("step 10/40", "step 20/40", "step 30/40", "step 40/40")
    ]
    assert out.getvalue().endswith("loss 0.5  recall 0.25\n")
    stopped = io.StringIO()
    with Progress("train", 40, stream=stopped, clock=lambda: now[0]) as progress:
        now[0] += 6.0
        progress.update(10)
    assert len(stopped.getvalue().splitlines()) == 1
    resumed = io.StringIO()
    with Progress("train", 40, done=40, stream=resumed, clock=lambda: now[0]):
        now[0] += 1.0
    assert resumed.getvalue() == "train  step 40/40\n"


def test_quiet_progress_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUIET_VARIABLE, "1")
    out = io.StringIO()
    with Progress("train", 2, stream=out) as progress:
        progress.update(2)
    assert out.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_draws_a_bar() -> None:
    out = Terminal()
    with Progress("embed [x]", 2, unit="text", stream=out) as progress:
        progress.update(2)
    assert "embed [x]" in out.getvalue()
    assert "text 2/2" in out.getvalue()
    assert "━" in out.getvalue()


def printed(table: Table) -> list[list[str]]:
    """The cells of the rows with numbers."""
    out = io.StringIO()
    print_table(table, out)
    return [line.split() for line in out.getvalue().splitlines() if "." in line]


def test_tables_print_intervals_and_mark_what_evidence_says_is_best() -> None:
    weaker = {**RESULTS, "metrics": {"recall@20": 0.2, "ndcg@20": 0.13}}
    results = {"RecMind [full]": RESULTS, "LightGCN": weaker}
    metrics = ("recall@20", "ndcg@20")
    assert printed(comparison_table(results, metrics)) == [
        ["RecMind", "[full]", "0.2500", "0.1250", "0.5000", "–"],
        ["LightGCN", "0.2000", "0.1300", "0.5000", "–"],
    ]
    half = {"recall@20": 0.02, "cold recall@20": 0.3}
    evidence = {"RecMind [full]": Evidence(half, frozenset(["recall@20"]))}
    assert printed(comparison_table(results, metrics, evidence=evidence)) == [
        ["RecMind", "[full]", "0.2500*", "0.1250", "0.5000", "–"],
        ["±0.0200", "±0.3000"],
        ["LightGCN", "0.2000", "0.1300", "0.5000", "–"],
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_figure_is_clipped_on_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"{kind}@{k}" for k in (20, 40) for kind in ("recall", "ndcg")]
    half = dict.fromkeys((*names, *(f"cold {name}" for name in names)), 0.02)
    values = {name: 0.1 + 0.01 * place for place, name in enumerate(names)}
    strata = {"cold": {"users": 9, **values}}
    out = Terminal()
    results = {model: {"metrics": values, "strata": strata} for model in ("recmind", "lightgcn")}
    table = comparison_table(results, evidence={"recmind": Evidence(half)})
    print_table(table, out)
    text = out.getvalue()
    assert "…" not in text
    assert text.count("±0.0200") == 8
    assert text.count("0.1300") == 4
    if columns == 80:
        assert max(map(len, re.sub(r"\x1b.*?m", "", text).splitlines())) <= 80


def test_strata_groups_and_lists_have_tables() -> None:
    women = {"users": 30, "metrics": {"recall@20": {"mean": 0.25, "low": 0.2, "high": 0.3}}}
    grouped = {
        **RESULTS,
        "groups": {"users": {"gender": {"F": women}}, "items": {}},
        "lists": {"novelty@20": 3.25, "gini@20": 0.75},
    }
    results = {"RecMind": grouped, "popularity": RESULTS}
    assert [printed(table) for table in group_tables(results)] == [
        [["F", "30", "0.2500", "±0.0500", "–"]]
    ]
    assert printed(lists_table(results)) == [["RecMind", "3.25", "0.75"]]
    out = io.StringIO()
    print_table(strata_table({"RecMind": RESULTS}), out)
    header = next(line for line in out.getvalue().splitlines() if "cold" in line)
    assert header.split() == ["0", "1-3", "cold"]
    assert "(2 users)" in out.getvalue()


def test_strata_and_lists_print_the_intervals_that_are_known() -> None:
    listed = {"RecMind": {**RESULTS, "lists": {"novelty@20": 3.25, "gini@20": 0.75}}}
    assert printed(strata_table(listed, {"RecMind": {"1-3": 0.125, "4-7": 9.0}})) == [
        ["RecMind", "–", "0.5000", "0.5000"],
        ["±0.1250"],
    ]
    assert printed(lists_table(listed, {"RecMind": {"novelty@20": 0.0625}})) == [
        ["RecMind", "3.25", "0.75"],
        ["±0.062"],
    ]


def test_the_run_directory_keeps_results_of_the_agreed_shape(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.write_results({**RESULTS, "metrics": {"recall@20": np.float64(0.25)}, "seconds": 3.5})
    assert run.read_results()["metrics"] == {"recall@20": 0.25}
    assert run.read_results()["seconds"] == 3.5


def test_models_with_a_validation_item_to_fold_in_have_a_table_of_their_own(tmp_path: Path) -> None:
    folded = {"metrics": {"recall@20": 0.5}, "strata": RESULTS["strata"]}
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.write_results({**RESULTS, "folded": folded})
    read = run.read_results()
    assert read["metrics"] == RESULTS["metrics"]
    assert folded_results({"RecMind": read, "without": RESULTS}) == {"RecMind": folded}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"metrics": {"recall": 0.5}}, "no metric"),
        ({"metrics": {"recall@20": 1.5}}, "outside"),
        ({"metrics": {"recall@20": float("nan")}}, "metrics.recall@20"),
        ({"strata": {"0": {"users": 0}}}, "no stratum '1-3'"),
        ({"gate": [{"layer": 0, "side": "left", "count": 1}]}, "gate.0.side"),
        ({"split": "train"}, "split"),
        (
            {"folded": {"metrics": {"recall@20": 1.5}, "strata": RESULTS["strata"]}},
            "folded.metrics",
        ),
        ({"folded": {"metrics": {}}}, "folded.strata"),
        ({"seed": None}, "seed"),
    ],
)
def test_results_of_another_shape_are_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(StoreError, match=sentence):
        run.write_results({**RESULTS, **change})
    assert not run.results.exists()


def test_one_run_a_directory(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with (
        run.lock(),
        pytest.raises(LockedError, match="in use by process"),
        RunDirectory(tmp_path / "run").lock(),
    ):
        pass
    with run.lock():
        assert run.checkpoints.is_dir()
        assert run.logs.is_dir()


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    from recmind_dist.config.yaml import load_yaml

    run = RunDirectory(tmp_path)
    values = {"model": {"dim": 64, "lr": 1e-3, "name": "1e-3", "flags": [True, None, "off"]}}
    run.write_config(values)
    assert load_yaml(run.config).values == {"schema": SCHEMA, **values}


def test_a_run_directory_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set another run directory"):
        RunDirectory(tmp_path / "file").create()


def test_the_log_is_read_while_it_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log, caplog.at_level(logging.WARNING):
        for step in range(3):
            log.log("step", step=step)
            assert [record["step"] for record in read_metrics(log.path)] == list(range(step + 1))
    assert not caplog.records
