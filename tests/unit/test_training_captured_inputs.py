"""Inputs in buffers that take turns, as far as it goes without a GPU: test_training_on_gpu.py."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.sampling.padded_loader import PaddedLoader
from recmind_dist.training.cuda import side_stream
from recmind_dist.training.cuda.captured_inputs import NUM_BUFFERS, CapturedInputs
from recmind_dist.training.cuda.side_stream import SideStream
from recmind_dist.training.finite_checks import batch_ids
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.phase import Phase
from recmind_dist.training.step_input import StepInput
from recmind_dist.training.trainer import Trainer
from tests.training_runs import config_of, make_inputs


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelShard, "batches_on_device", True)
    monkeypatch.setattr("recmind_dist.training.step.TrainingStep.model_can_be_captured", True)
    monkeypatch.setattr("recmind_dist.training.step.CapturedGradients", lambda run: run)
    monkeypatch.setattr("recmind_dist.training.phase.can_pad", lambda *_: True)


def phase_of(home: Path, **changes: Any) -> Phase:
    values: dict[str, Any] = {
        "model": {"kind": "lightgcn"},
        "loss": {"kind": "bpr"},
        "sampler": {"propagation": "sampled", "num_neighbors": [3, 2]},
        "train": {"batch_of": "pairs", "batch_size": 48, "epochs": 2},
    }
    merged = {room: {**values.get(room, {}), **changes.get(room, {})} for room in values | changes}
    config = config_of(home, "run", **merged)
    inputs, context = make_inputs(home), join_group_of_one(config, "cpu")
    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, inputs, context, run, "attempt0", lambda _: None, "never")
    worker.shard.initialise()
    return Phase(worker.config, worker.shard, worker.exchange, "joint", 0)


OTHERS: list[dict[str, Any]] = [
    {"loss": {"kind": "ssm"}},
    {"train": {"batch_of": "users"}, "sampler": {"hide_batch_edges": False}},
    {"table": {"optimizer": "adagrad"}},
    {"sampler": {"propagation": "full"}},
]


@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: next(iter(changes)))
def test_only_plain_pairs_have_fixed_shapes(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain, other = phase_of(tmp_path / "a"), phase_of(tmp_path / "b", **changes)
    assert isinstance(plain._loader, PaddedLoader)
    assert not isinstance(other._loader, PaddedLoader)
    assert other.num_buffers == 0


Run = Callable[[Sequence[Tensor]], StepInput]


def graphs(fails_at: int | None = None) -> Callable[[str, Run, Sequence[Tensor]], Run | None]:
    """Stands for `capture`: what runs again is the function itself."""
    captured: list[Run] = []

    def capture(what: str, run: Run, inputs: Sequence[Tensor]) -> Run | None:
        captured.append(run)
        return None if len(captured) == fails_at else run

    return capture


def replayed(phase: Phase, monkeypatch: pytest.MonkeyPatch, fails_at: int | None) -> CapturedInputs:
    monkeypatch.setattr("recmind_dist.training.cuda.captured_inputs.capture", graphs(fails_at))
    inputs = phase.captured_inputs
    assert inputs is not None
    assert not inputs.replays  # on a CPU
    inputs.replays = True
    return inputs


def test_buffers_take_turns_and_a_smaller_batch_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = phase_of(tmp_path)
    inputs = replayed(phase, monkeypatch, None)
    assert phase.num_buffers == NUM_BUFFERS
    assert phase.batches_ahead > 0  # on a CPU; on a GPU the training thread makes them
    steps = [step for epoch in range(2) for step in phase.step_inputs(epoch, 0)]
    assert [step.step for step in steps] == list(range(2 * phase.steps_per_epoch))
    full = [len(step.main.src_index) == 48 for step in steps]
    assert full.count(False) == 2
    buffers = [step.buffer for step in steps]
    assert buffers[:3] == [None] * 3
    assert all(
        step.buffer is None for step, is_full in zip(steps, full, strict=True) if not is_full
    )
    turns = [step.buffer for step, is_full in zip(steps, full, strict=True) if is_full][3:]
    assert turns == [(k + 1) % NUM_BUFFERS for k in range(len(turns))]
    assert inputs.replays
    last = next(step for step in reversed(steps) if step.buffer is not None)
    kept = batch_ids(last)["main"]
    assert kept["pairs"].data_ptr() != last.main.pairs.data_ptr()
    assert torch.equal(kept["pairs"], last.main.pairs)
    assert "n_id" not in kept


@pytest.mark.parametrize("fails_at", [1, 2])
def test_nothing_is_kept_of_a_capture_that_fails(
    tmp_path: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = phase_of(tmp_path)
    inputs = replayed(phase, monkeypatch, fails_at)
    steps = list(phase.step_inputs(0, 0))
    assert len(steps) == phase.steps_per_epoch
    assert all(step.buffer is None for step in steps)
    assert inputs._captured == []
    assert phase.num_buffers == 0  # so from the next epoch on a thread makes them ahead


class Stream:
    """Notes what it is told."""

    device = "cuda"

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., str]:
        def note(*given: Any) -> str:
            self.told.append((name, *given))
            return f"{name} {len(self.told)}"

        return note


class Event:
    def __init__(self, number: int) -> None:
        self.number = number

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: "Event") -> float:
        return 0.0


def test_a_buffer_is_filled_after_its_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, consumer, events = Stream(), Stream(), list[Event]()

    def event_on(stream: Any) -> Event:
        events.append(Event(len(events)))
        return events[-1]

    monkeypatch.setattr(side_stream, "_event_on", event_on)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: consumer)
    beside: SideStream[int] = SideStream(maker, NUM_BUFFERS)  # type: ignore[arg-type]
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(6):
            made.append(k)
            yield k

    assert list(beside.take(beside.make(items()))) == made == list(range(6))
    waits = [given[0].number for name, *given in maker.told if name == "wait_event"]
    # of each item a start and an end are noted: item k waits for the end of item k - 2; so does the
    # one that is asked for and does not come
    assert waits == [2 * k + 1 for k in range(5)]
