"""`recmind log`: what arrives is what metrics.jsonl says. TensorBoard's files are read back; the
others are tried where they are installed, Weights & Biases by its calls alone.
"""

import json
import math
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recmind_dist.cli import main
from recmind_dist.report import MetricsLog, RunDirectory, read_metrics
from recmind_dist.report.log_sinks import scalars_of, send_log
from tests.reported_runs import make_reported_run


def sent_to_tensorboard(folder: Path) -> Iterator[tuple[str, int, float, float]]:
    """(name, step, value, unix seconds) of all scalars of event files."""
    from tensorboardX.proto.event_pb2 import Event

    for path in folder.glob("events*"):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + size])  # between two checksums
            data = data[16 + size :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield value.tag, event.step, value.simple_value, event.wall_time


def test_tensorboard_gets_every_value_at_its_step(tmp_path: Path) -> None:
    run = make_reported_run(tmp_path)
    main(["log", str(run), "--to", "tensorboard"])
    sent = {
        (name, step): value for name, step, value, _ in sent_to_tensorboard(run / "tensorboard")
    }
    for record in read_metrics(run / "metrics.jsonl", "step"):
        name, step = f"{record['phase']}/step/loss", record["step"]
        at = step if record["phase"] == "warmup" else step + 2
        assert math.isclose(sent[name, at], record["loss"], rel_tol=1e-6)
    assert math.isclose(sent["validation/recall_at_20", 22], 0.3, rel_tol=1e-6)
    assert sent["joint/epoch/seconds", 32] == 4.0
    results = json.loads((run / "results.json").read_text())["metrics"]
    assert math.isclose(sent["test/recall_at_20", 32], results["recall@20"], rel_tol=1e-6)
    assert {unix_s for *_, unix_s in sent_to_tensorboard(run / "tensorboard")} == {1.7e9}


class Recorder:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, float], int]] = []
        self.came = threading.Event()

    def send(self, values: Any, step: int, unix_s: float) -> None:
        self.sent.append((dict(values), step))
        self.came.set()

    def close(self) -> None:
        pass


def test_following_sends_lines_as_they_come_and_ends_with_the_evaluation(tmp_path: Path) -> None:
    run = RunDirectory(make_reported_run(tmp_path, evaluated=False))
    already = sum(1 for record in read_metrics(run.metrics) if scalars_of(record))
    sink, found = Recorder(), list[int]()
    thread = threading.Thread(
        target=lambda: found.append(send_log(run, sink, follow=True, every_s=0.01))
    )
    thread.start()
    assert sink.came.wait(30)
    with run.metrics.open("ab") as file:
        file.write(b'{"time": 1, "torn')
    with MetricsLog(run.metrics) as log:  # ends the torn line
        log.log("step", phase="joint", step=15, total=30, epoch=1, epochs=3, loss=0.25)
    results = RunDirectory(make_reported_run(tmp_path / "other")).read_results()
    run.write_results(results)
    thread.join(30)
    assert found == [already + 1]
    assert sink.sent[-2] == ({"joint/step/loss": 0.25}, 17)
    assert sink.sent[-1][0]["test/ndcg@20"] == results["metrics"]["ndcg@20"]


def test_steps_of_the_joint_phase_come_after_those_of_the_warm_up(tmp_path: Path) -> None:
    run, sink = RunDirectory(tmp_path), Recorder()
    with MetricsLog(run.metrics) as log:
        for phase, steps in (("warmup", (1, 2)), ("joint", (1, 2, 3))):
            for step in steps:
                log.log("step", phase=phase, step=step, loss=1.0)
        log.log("step", phase="joint", step=3, loss=0.5)  # done again after a restart
        log.log("validation", epoch=1, **{"recall@20": 0.5})
    assert send_log(run, sink, follow=False) == 7
    assert [step for _, step in sink.sent] == [1, 2, 3, 4, 5, 5, 5]


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_weights_and_biases_and_trackio_are_called_as_they_want(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = make_reported_run(tmp_path), list[tuple[str, Any]]()
    module = ModuleType(kind)
    vars(module).update(
        init=lambda **given: calls.append(("init", given)),
        log=lambda values, step: calls.append(("log", (values, step))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, kind, module)
    main(["log", str(run), "--to", kind])
    assert calls[0][0] == "init"
    assert calls[0][1]["project"] == "toy"
    assert calls[0][1]["config"]["train"]["seed"] == 5
    steps = [given[1] for name, given in calls if name == "log"]
    assert steps == sorted(steps)  # Weights & Biases drops earlier steps
    assert calls[-1] == ("finish", None)


def test_mlflow_gets_names_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="no mlflow: pip install mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = make_reported_run(tmp_path)
    main(["log", str(run), "--to", "mlflow"])
    [found] = mlflow.search_runs(experiment_names=["toy"], output_format="list")
    results = json.loads((run / "results.json").read_text())["metrics"]
    assert found.data.metrics["test/recall_at_20"] == pytest.approx(results["recall@20"])


def test_a_package_that_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no API key\nsee our page")

    module = ModuleType("wandb")
    vars(module).update(init=init)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(SystemExit) as stop:
        main(["log", str(make_reported_run(tmp_path, evaluated=False)), "--to", "wandb"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --to wandb: wandb says: no API key\n"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("excel", "error: --to excel: choose tensorboard, mlflow, wandb, trackio"),
        ("wandb", "error: --to wandb: needs the package wandb: pip install wandb"),
        ("tensorboard", "metrics.jsonl: missing: give a run that trains, or --follow"),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(
    kind: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = make_reported_run(tmp_path, evaluated=False)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["log", str(run), "--to", kind])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(sentence)
