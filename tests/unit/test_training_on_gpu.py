"""What needs a GPU: steps that a CUDA graph replays, and the same bits run for run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.gpu_training import KINDS
from tests.unit.test_launch_device import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def tables(home: Path, kind: str, *modes: str) -> list[Tensor]:
    """The trained tables of runs side by side."""
    homes = [home / f"{number}-{mode}" for number, mode in enumerate(modes)]
    words = [sys.executable, "-m", "tests.gpu_training"]
    started = [
        subprocess.Popen([*words, str(at), kind, mode], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for at, mode in zip(homes, modes, strict=True)
    ]
    for process in started:
        _, said = process.communicate(timeout=250)
        assert process.returncode == 0, said
    return [load_file(at / "table.safetensors")["table"] for at in homes]


@pytest.mark.parametrize("kind", ["lightgcn", "lightgcn-sampled"])
def test_replayed_steps_train_the_same_rows(kind: str, tmp_path: Path) -> None:
    replayed, as_it_is = tables(tmp_path, kind, "replayed", "as-it-is")
    torch.testing.assert_close(replayed, as_it_is, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_trainings_and_resumed_ones_have_the_same_bits(
    kind: str, tmp_path: Path
) -> None:
    first, second, resumed = tables(tmp_path, kind, "deterministic", "deterministic", "resumed")
    assert torch.equal(first, second)
    assert torch.equal(first, resumed)
