"""All that a rank keeps lies on the rank's device: table, optimizers, dense part, texts, gates,
queues, propagation.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.device_walk import at_rest, in_training
from tests.processes import run_ranks
from tests.unit.test_launch_device import ROOT

PARTS = {"table", "text rows", "dense", "momentum", "queues", "propagation"}
TRAINED = PARTS | {"final propagation", "objective", "step", "engine", "adam", "training step"}
ON_THE_HOST: set[str] = set()


def test_what_a_rank_builds_follows_its_device_and_not_the_default(tmp_path: Path) -> None:
    """On `meta`, whose tensors have a shape and no content: what was forgotten stays behind on the
    CPU.
    """
    devices = at_rest(tmp_path, "meta")
    assert {name.partition(".")[0] for name in devices} >= PARTS
    assert {
        name: device
        for name, device in devices.items()
        if device != "meta" and name not in ON_THE_HOST
    } == {}


def walked_on_the_cpu(home: Path) -> dict[str, str]:
    """In a child of the fork server, whose DeepSpeed is on the CPU."""
    devices: dict[str, str] = run_ranks(in_training, 1, home, "cpu")[0]
    return devices


def walked_on_a_gpu(home: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.device_walk", str(home), "cuda"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return devices


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_tensor_of_a_rank_in_training_lies_on_its_device(device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    devices = walked_on_a_gpu(tmp_path) if device == "cuda" else walked_on_the_cpu(tmp_path)
    assert {name.partition(".")[0] for name in devices} >= TRAINED
    expected = "cpu" if device == "cpu" else "cuda:0"
    assert {
        name: at for name, at in devices.items() if at != expected and name not in ON_THE_HOST
    } == {}
