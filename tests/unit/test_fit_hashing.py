"""How often the driver, alone, hashes a run's checkpoint while workers wait to start."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, reader
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.graph import Graph
from recmind_dist.pipeline.train import Prepared, fit
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores, run_identity
from recmind_dist.training.state import Cursor
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of


def save(config: RunConfig, inputs: RunStores, phase: str, step: int) -> None:
    """A checkpoint of this run, of a few rows."""
    key = Graph.open(inputs.graph).key
    identity = run_identity(config, key, "")
    info = {"cursor": Cursor(phase=phase, steps_done=step).to_info(), "identity": identity}
    run = RunDirectory(config.run_dir)
    with Checkpointer(run.checkpoints, 0, 1, (0, 3), 3, CheckpointSettings()) as saver:
        saver.save(attempt_name(step, "abcdefgh"), {"weight": torch.ones(3, 2)}, {}, info)


def test_the_driver_hashes_the_checkpoint_once_before_the_start_and_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph(tmp_path, random_pairs(20, 10, 80), 20, 10)
    plain = {"kind": "lightgcn", "embedding_dim": 8}
    config = config_of(tmp_path, "run", model=plain, alignment={"weight": 0}).absolute()
    events = list[str]()
    save(config, RunStores(graph.path), "joint", 1)
    verify_files = reader.Manifest.verify_files

    def hashing(*args: Any) -> None:
        events.append("hash")
        verify_files(*args)

    def train(config: RunConfig, inputs: RunStores, *_: Any) -> None:
        events.append("train")
        save(config, inputs, "done", 2)

    monkeypatch.setattr(reader.Manifest, "verify_files", hashing)
    for expected in (["hash", "train", "hash"], ["hash"]):
        events.clear()
        fit(config, Prepared(graph.path, None), lambda line: None, train=train)
        assert events == expected
