"""Steps that a CUDA graph replays, as far as it goes without one; see test_training_on_gpu.py."""

import dataclasses
from pathlib import Path

import pytest
import torch

from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.training.cuda.captured_step import (
    CapturedGradients,
    can_be_captured,
    tensors_of,
    with_tensors,
)
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.phase import Phase
from recmind_dist.training.step_input import StepInput
from recmind_dist.training.trainer import Trainer
from tests.training_runs import config_of, make_inputs


def phase_of(home: Path, propagation: str) -> Phase:
    """Plain LightGCN by BPR; the last batch of an epoch is smaller than the others."""
    config = config_of(
        home,
        "run",
        model={"kind": "lightgcn"},
        loss={"kind": "bpr"},
        sampler={"propagation": propagation, "hide_batch_edges": True},
        train={"batch_size": 64, "epochs": 4, "schedule": "cosine"},
    )
    inputs, context = make_inputs(home), join_group_of_one(config, "cpu")
    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, inputs, context, run, "attempt0", lambda _: None, "never")
    worker.shard.initialise()
    return Phase(worker.config, worker.shard, worker.exchange, "joint", 0)


def step_of(phase: Phase) -> StepInput:
    return next(phase.step_inputs(0, 0))


def test_a_step_over_all_rows_can_be_replayed_and_others_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not can_be_captured(step_of(phase_of(tmp_path / "a", "full")))
    assert not can_be_captured(step_of(phase_of(tmp_path / "b", "sampled")))
    monkeypatch.setattr(ModelShard, "batches_on_device", True)
    assert not can_be_captured(step_of(phase_of(tmp_path / "c", "sampled")))
    phase = phase_of(tmp_path / "d", "full")
    step = step_of(phase)
    assert can_be_captured(step)
    assert not can_be_captured(dataclasses.replace(step, gate=step.main))

    # nothing else than these tensors differs: with those of another step it is that step
    other = list(phase.step_inputs(0, 0))[1]
    assert tensors_of(step).keys() == {"src_index", "dst_pos_index", "dst_neg_index", "hidden"}
    own = phase.step.run_gradients(other)
    put_in = phase.step.run_gradients(with_tensors(step, tensors_of(other)))
    assert torch.equal(own.rows, put_in.rows)
    assert torch.equal(own.sums, put_in.sums)


def test_steps_of_other_shapes_and_the_first_ones_are_run_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelShard, "batches_on_device", True)
    phase = phase_of(tmp_path, "full")
    replayed = CapturedGradients(phase.step.run_gradients)
    captured: list[StepInput] = []
    monkeypatch.setattr(replayed, "_capture", captured.append)
    epochs = [step for epoch in range(4) for step in phase.step_inputs(epoch, 0)]
    found = [replayed(step) for step in epochs]
    assert torch.equal(found[-1].rows, phase.step.run_gradients(epochs[-1]).rows)
    assert captured
    assert all(len(step.main.src_index) == 64 for step in captured)
