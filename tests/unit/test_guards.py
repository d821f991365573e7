"""Guards of a run, and the fault points that tests of them use."""

import errno
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recmind_dist import faults
from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.errors import ConfigError, WorkerLostError
from recmind_dist.report import MetricsLog, read_metrics
from recmind_dist.report.metrics_log import Heartbeat
from recmind_dist.sampling import prefetch
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.training.finite_checks import (
    NotFiniteError,
    check_finite_state,
    losses_of,
    sum_losses,
)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(None)


def test_nothing_fails_where_nothing_is_armed() -> None:
    tensor = torch.ones(2)
    faults.check("step", 0, 5, tensor)
    assert torch.equal(tensor, torch.ones(2))


def test_a_fault_acts_at_its_point_rank_and_first_step_and_once(tmp_path: Path) -> None:
    once = {
        "point": "step",
        "rank": 1,
        "step": 3,
        "action": "exception",
        "once": str(tmp_path / "done"),
    }
    (tmp_path / "faults.json").write_text(
        json.dumps([once, {"point": "shard", "action": "enospc"}])
    )
    faults.arm(str(tmp_path / "faults.json"))
    for point, rank, step in (("step", 0, 3), ("step", 1, 2), ("gradient", 1, 3)):
        faults.check(point, rank, step)
    with pytest.raises(RuntimeError, match="fault exception at step, rank 1, step 4"):
        faults.check("step", 1, 4)
    faults.check("step", 1, 4)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as refused:
            faults.check("shard", 7)
        assert refused.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "text", ["[{", '[{"point": "x", "action": "explode"}]', '[{"pint": "x"}]', "/no/such/file"]
)
def test_faults_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RECMIND_FAULTS"):
        faults.arm(text)


def test_a_thread_that_makes_nothing_is_an_error_that_names_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.2)
    first_is_ready, go_on = threading.Event(), threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        first_is_ready.set()
        go_on.wait(60)

    items = iter(Prefetcher(stuck(), 1, timeout_s=0.1))
    assert first_is_ready.wait(60)
    assert next(items) == 1
    with pytest.raises(
        WorkerLostError, match=r"made no batch for .* it stands at .*threading\.py:\d+ \(wait\)"
    ):
        next(items)
    go_on.set()


class Mute(Prefetcher[int]):
    """As where memory ran out in the very report of the thread's error."""

    def _put(self, entry: object) -> bool:
        return False


def test_a_thread_that_died_without_a_word_is_an_error() -> None:
    with pytest.raises(WorkerLostError, match="died and left no error"):
        next(iter(Mute(range(3), 1)))


def test_a_heart_beats_while_it_lasts(tmp_path: Path) -> None:
    state = {"steps_done": 0}
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        with Heartbeat(log, 0.01, lambda: dict(state)):
            deadline = time.monotonic() + 60
            while state["steps_done"] < 3 and time.monotonic() < deadline:
                state["steps_done"] = 1 + len(list(read_metrics(log.path, "heartbeat")))
        beats = [entry["steps_done"] for entry in read_metrics(log.path, "heartbeat")]
        assert len(beats) >= 2
        assert beats == sorted(beats)
        time.sleep(0.1)
        assert len(list(read_metrics(log.path, "heartbeat"))) == len(beats), (
            "it was to end with the block"
        )
    with Heartbeat(None, 0.01, lambda: {}):
        pass


def test_only_what_a_lost_peer_causes_is_named_as_such() -> None:
    with (
        pytest.raises(
            WorkerLostError, match=r"rank 0 of 1: the test failed after .*Connection closed by peer"
        ),
        collective("the test"),
    ):
        raise RuntimeError(
            "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"
        )
    with pytest.raises(RuntimeError, match="mat1 and mat2"), collective("the test"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("loss", "row", "dense", "named"),
    [
        (float("inf"), 0.0, 0, "loss"),
        (1.0, float("nan"), 0, "its rows"),
        (1.0, 0.0, 2, "the dense part"),
    ],
)
def test_what_is_not_finite_is_named(loss: float, row: float, dense: int, named: str) -> None:
    context, good = DistContext.alone(), torch.ones(2, 3)
    terms = {"rank": torch.tensor(2.0), "gate": torch.tensor(0.5)}
    found = losses_of(list(terms), sum_losses(terms, good, torch.tensor(0.0), context), 7)
    assert found == {"rank": 2.0, "gate": 0.5, "loss": 2.5}
    bad = {**terms, "gate": torch.tensor(loss)}
    with pytest.raises(
        NotFiniteError, match=rf"step 7: not finite \(rank 0: .*{named}\); nothing was updated"
    ):
        losses_of(list(bad), sum_losses(bad, good + row, torch.tensor(float(dense)), context), 7)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_rank_whose_rows_nobody_touches_has_a_say(device: str) -> None:
    terms, none = {"rank": torch.tensor(2.0, device=device)}, torch.zeros(0, 3, device=device)
    values = sum_losses(terms, none, torch.zeros((), device=device), DistContext.alone(device))
    assert values.shape == (1, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nothing_that_overflowed_is_saved(value: float) -> None:
    rows = {"weight": torch.ones(3, 2), "steps": torch.ones(3, dtype=torch.int32)}
    dense = {"param": torch.ones(2)}
    check_finite_state(rows, dense, DistContext.alone(), 5)
    broken = {**rows, "weight": torch.tensor([[1.0, value]])}
    with pytest.raises(
        NotFiniteError,
        match="step 5: a row of the table or of its optimizer is not finite, nothing sav",
    ):
        check_finite_state(broken, dense, DistContext.alone(), 5)
    with pytest.raises(NotFiniteError, match="step 5: param is not finite, nothing saved"):
        check_finite_state(rows, {"param": torch.tensor([value])}, DistContext.alone(), 5)
