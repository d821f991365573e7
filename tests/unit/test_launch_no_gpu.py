"""`scaling.device: cuda` where no GPU can come: every command that would start workers says so at
once, where Ray would wait for ten minutes. That torch is built with CUDA is simulated.
"""

import json
from pathlib import Path

import pytest
import torch

from recmind_dist.cli import main
from recmind_dist.errors import ConfigError
from recmind_dist.launch import ray_train
from recmind_dist.launch.device import refuse_cuda_alone
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores

NO_GPU = "scaling.device: cuda: torch finds no GPU on this machine: set cpu or auto"
ONE_GPU = (
    "scaling.device: cuda: 2 workers and 1 GPU on this machine: set evaluation.num_workers=1, or "
    "RAY_ADDRESS of a cluster"
)


def see(monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run that is to train and to evaluate on GPUs; its directory has a config.yaml alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    rows = [f"u{user},i{(3 * user + k) % 12},{k}" for user in range(9) for k in range(4)]
    Path("log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    settings = {
        "run_dir": "runs/x",
        "variant": "lightgcn",
        "dataset": {"name": "shop", "interactions": "log.csv"},
        "scaling": {"device": "cuda"},
        "evaluation": {"num_workers": 2},
    }
    Path("shop.yaml").write_text(json.dumps(settings))
    config = load_run_config(Path("shop.yaml"))
    run = RunDirectory(config.run_dir)
    run.create()
    run.write_config(config.model_dump(mode="json"))
    return config


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err
    assert stop.value.code == 2, said
    [sentence] = [line for line in said.splitlines() if line.startswith("error: ")]
    return sentence.removeprefix("error: ")


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "words",
    [
        ["run", "shop.yaml"],
        ["run", "shop.yaml", "evaluation.num_workers=1"],
        ["run", "shop.yaml", "variant=text_only"],
        ["train", "shop.yaml"],
        ["embed", "shop.yaml"],
        ["evaluate", "runs/x"],
        ["validate", "shop.yaml"],
    ],
    ids=" ".join,
)
def test_every_command_that_would_start_workers_refuses_at_once(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see(monkeypatch, 0)
    assert refusal(words, capsys) == NO_GPU
    assert not Path("cache").exists()


@pytest.mark.parametrize("words", [["run", "shop.yaml"], ["evaluate", "runs/x"]], ids=" ".join)
def test_workers_that_evaluate_are_counted_before_anything_is_trained(
    words: list[str],
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    see(monkeypatch, 1)
    refuse_cuda_alone(config.scaling)  # training has what it needs
    assert refusal(words, capsys) == ONE_GPU
    assert refusal(["validate", "shop.yaml"], capsys) == ONE_GPU
    assert not Path("cache").exists()


def test_whoever_starts_workers_by_hand_is_refused_too(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 0)
    inputs = RunStores(Path("graph"))
    with pytest.raises(ConfigError) as caught:
        ray_train.train(config, inputs, ("joint",))
    assert str(caught.value) == NO_GPU
    with pytest.raises(ConfigError) as caught:
        ray_train.evaluate_on_workers(config, inputs)
    assert str(caught.value) == NO_GPU
