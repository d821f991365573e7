"""Gauges of Ray follow metrics.jsonl; without Ray, or where it refuses, a run loses nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util.metrics

from recmind_dist.report import MetricsLog, read_metrics
from recmind_dist.report.ray_gauges import GAUGES, TAGS, show_in_ray


class Board:
    """Takes the place of Ray's gauges: what stands on them, by name and tags."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, ...], float] = {}
        self.refuses = False

    def make(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert description
        board = self

        class Gauge:
            def set(self, value: float, tags: Mapping[str, str]) -> None:
                if board.refuses:
                    raise RuntimeError("the agent is gone")
                assert tags.keys() == set(tag_keys), "Ray refuses gauges that lack a tag"
                board.shown[(name, *(tags[key] for key in tag_keys))] = value

        return Gauge()


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    found = Board()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util.metrics, "Gauge", found.make)
    return found


def step(log: MetricsLog, number: int, loss: float, phase: str = "joint") -> None:
    log.log("step", phase=phase, step=number, total=40, epoch=0, epochs=2, loss=loss)


def test_gauges_have_the_newest_values_with_run_phase_and_metric(
    board: Board, tmp_path: Path
) -> None:
    seconds = iter([100.0, 104.0, 106.0, 106.5, 107.0, 110.0])
    with MetricsLog(tmp_path / "metrics.jsonl", clock=lambda: next(seconds)) as log:
        show_in_ray(log, tmp_path, "ndcg@20")
        step(log, 10, 3.0, "warmup")
        step(log, 10, 2.0)  # each phase counts from 1
        assert not [key for key in board.shown if key[0] == "recmind_steps_per_second"]
        step(log, 30, 1.5)
        log.log("heartbeat", phase="joint", steps_done=30)
        log.log("epoch", phase="joint", epoch=0, seconds=9.0, sampler_stall_percent=4.0)
        log.log("validation", epoch=1, **{"ndcg@20": 0.25, "recall@20": 0.5})
    run = str(tmp_path)
    assert board.shown == {
        ("recmind_loss", run, "warmup", ""): 3.0,
        ("recmind_loss", run, "joint", ""): 1.5,
        ("recmind_steps_per_second", run, "joint", ""): 20 / 2.0,
        ("recmind_sampler_stall_percent", run, "joint", ""): 4.0,
        ("recmind_validation", run, "", "ndcg@20"): 0.25,
    }
    assert {name for name, *_ in board.shown} == GAUGES.keys()


def test_a_loss_that_is_not_finite_leaves_the_gauge_as_it_was(board: Board, tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        show_in_ray(log, tmp_path, "ndcg@20")
        step(log, 1, 2.0)
        step(log, 2, float("nan"))
    assert board.shown["recmind_loss", str(tmp_path), "joint", ""] == 2.0


def test_a_ray_that_refuses_costs_one_warning_and_no_line(
    board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board.refuses = True
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        show_in_ray(log, tmp_path, "ndcg@20")
        for number in (1, 2, 3):
            step(log, number, 1.0)
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 3]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Ray takes no metrics (the agent is gone): metrics.jsonl has them"]


def test_without_ray_nothing_observes(tmp_path: Path) -> None:
    assert not ray.is_initialized()
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        show_in_ray(log, tmp_path, "ndcg@20")
        assert log.observers == []
        step(log, 1, 1.0)


def test_ray_takes_the_names_and_tags() -> None:
    for name, about in GAUGES.items():
        gauge = ray.util.metrics.Gauge(name, about, TAGS)
        assert (gauge.info["name"], gauge.info["tag_keys"]) == (name, TAGS)
