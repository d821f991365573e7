"""Trainings on a GPU: `python -m tests.gpu_training HOME KIND MODE` writes HOME/table.safetensors.

In a process of its own, because torch's and DeepSpeed's settings hold for a process. KIND: see
`KINDS`; MODE: "as-it-is", "replayed", "deterministic", or "resumed", which is deterministic and
stops half-way once.
"""

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.training.cuda.captured_inputs import NUM_BUFFERS
from recmind_dist.training.cuda.captured_step import CapturedGradients
from recmind_dist.training.phase import Phase
from recmind_dist.training.trainer import Trainer
from tests.training_runs import config_of, make_inputs

RECMIND: dict[str, Any] = {
    "model": {
        "kind": "recmind",
        "text_layers": 2,
        "views": "all",
        "recent_decay": 0.6,
        "gate": {"withheld_items": 0.2, "heldout_share": 0.4},
    },
    "train": {"batch_of": "users", "batch_size": 30},
}
KINDS: dict[str, dict[str, Any]] = {
    "lightgcn": {
        "model": {"kind": "lightgcn"},
        "loss": {"kind": "bpr"},
        "sampler": {"propagation": "full", "hide_batch_edges": True},
        "train": {"batch_of": "pairs", "batch_size": 64},
    },
    "lightgcn-sampled": {
        "model": {"kind": "lightgcn"},
        "loss": {"kind": "bpr"},
        "sampler": {
            "propagation": "sampled",
            "num_neighbors": [5, 3],
            "hide_batch_edges": True,
        },
        "train": {"batch_of": "pairs", "batch_size": 32},
    },
    "recmind": {**RECMIND, "sampler": {"propagation": "full", "hide_batch_edges": False}},
    "recmind-sampled": {
        **RECMIND,
        "sampler": {"propagation": "sampled", "num_neighbors": [5, 5], "hide_batch_edges": False},
    },
}


def train(home: Path, kind: str, mode: str) -> None:
    inputs = make_inputs(home)
    epochs = (2, 4) if mode == "resumed" else (4,)
    for last in epochs:
        changes = dict(KINDS[kind])
        deterministic = mode in ("deterministic", "resumed")
        rates = {"epochs": last, "schedule": "constant", "deterministic": deterministic}
        changes["train"] = {**changes["train"], **rates, "patience": 0}
        config = config_of(home, "run", **changes, scaling={"device": "cuda"})
        run = RunDirectory(config.run_dir)
        run.create()
        context = join_group_of_one(config, "cuda")
        given = config, inputs, context, run, f"attempt{last}", lambda _: None
        worker = Trainer(*given, "never" if last == epochs[0] else "must")
        if mode in ("as-it-is", "replayed"):
            _step_by_step(worker, mode)
        else:
            worker.train(("warmup", "joint"))
    save_file({"table": worker.shard.table.weight.cpu()}, home / "table.safetensors")


def _step_by_step(worker: Trainer, mode: str) -> None:
    worker.shard.initialise()
    phase = Phase(worker.config, worker.shard, worker.exchange, "joint", 0)
    graph = phase.step.find_gradients
    assert isinstance(graph, CapturedGradients)
    if mode == "as-it-is":
        phase.step.find_gradients = phase.step.run_gradients
    inputs = phase.captured_inputs
    assert (inputs is not None) == (worker.config.sampler.propagation == "sampled")
    if inputs is not None:
        inputs.replays = mode == "replayed"
    for epoch in range(4):
        for step in phase.step_inputs(epoch, 0):
            phase.step.run(step)
    graphs = 1 if inputs is None else NUM_BUFFERS
    assert len(graph._captured) == (graphs if mode == "replayed" else 0)
    assert inputs is None or len(inputs._captured) == (graphs if mode == "replayed" else 0)


if __name__ == "__main__":
    home = Path(sys.argv[1])
    home.mkdir(parents=True, exist_ok=True)
    train(home, *sys.argv[2:])
