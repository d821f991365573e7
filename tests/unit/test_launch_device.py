"""The device of the ranks: which one `auto` takes and says, and that DeepSpeed and all of a rank
follow it.

No GPU is needed: that torch sees one is simulated, in child processes too.
"""

import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.settings import ScalingSettings
from recmind_dist.errors import ConfigError
from recmind_dist.launch import ray_train as runner
from recmind_dist.launch.device import choose_device, choose_device_here
from recmind_dist.launch.node_check import NodeRequirements, versions
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json
from recmind_dist.training.run_stores import RunStores

ROOT = Path(__file__).parents[2]
SEES_ONE_GPU = """
import torch; torch.cuda.device_count = lambda: 1; torch.cuda.is_available = lambda: True
# an optimizer of a build with CUDA asks it, from torch 2.14 on
torch.accelerator.current_stream = lambda *_: type("", (), {"is_capturing": lambda _: False})()
"""


def scaling(**changes: Any) -> ScalingSettings:
    return ScalingSettings.model_validate(changes)


@pytest.mark.parametrize(
    ("num_workers", "num_gpus", "built", "device", "reason"),
    [
        (2, 0, True, "cpu", "auto takes the CPU: no GPU was found"),
        (
            2,
            1,
            True,
            "cpu",
            (
                "there is 1 GPU for 2 workers, and each needs one of its own: set "
                "scaling.num_workers=1"
            ),
        ),
        (
            2,
            2,
            False,
            "cpu",
            "is built without CUDA, although there is 2 GPUs: install a build with it",
        ),
        (2, 2, True, "cuda", "auto takes cuda: 2 GPUs for 2 workers"),
        (1, 8, True, "cuda", "auto takes cuda: 8 GPUs for 1 worker"),
    ],
)
def test_auto_says_what_it_takes_and_is_loud_about_the_cpu(
    num_workers: int,
    num_gpus: int,
    built: bool,
    device: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    choice = choose_device(scaling(), num_workers, num_gpus, built)
    assert choice.device == device
    assert reason in choice.reason
    said: list[str] = []
    with caplog.at_level(logging.WARNING):
        choice.tell(said.append)
    warned = [record.getMessage() for record in caplog.records]
    assert (said, warned) == (([], [choice.reason]) if device == "cpu" else ([choice.reason], []))


def test_a_device_that_is_named_is_taken_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    for device, num_gpus in (("cpu", 8), ("cuda", 0)):  # GPUs may come to a cluster later
        choice = choose_device(scaling(device=device), 2, num_gpus, built=True)
        choice.tell(pytest.fail)
        assert choice.device == device
    assert not caplog.records
    with pytest.raises(
        ConfigError, match=r"scaling\.device: cuda: torch \S+ is built without CUDA"
    ):
        choose_device(scaling(device="cuda"), 1, 1, built=False)


def test_in_this_process_auto_takes_the_gpu_that_torch_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device_here(scaling()).device == "cpu"
    with pytest.raises(ConfigError, match="torch finds no GPU on this machine"):
        choose_device_here(scaling(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    # one rank, whatever the config says of workers
    assert choose_device_here(scaling(num_workers=2)).device == "cuda"
    assert choose_device_here(scaling(device="cpu")).device == "cpu"


@pytest.mark.parametrize(
    ("gpus", "device", "kind"), [(0, "cpu", "CPU"), (1, "cpu", "CPU"), (2, "cuda", "GPU")]
)
def test_a_run_of_two_workers_finds_a_device_on_a_cluster_with_no_gpu_one_and_two(
    gpus: int, device: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [f"run_dir={tmp_path}", "scaling.num_workers=2"]
    config = load_run_config(ROOT / "configs" / "quickstart.yaml", words)
    requirements = NodeRequirements(versions(), "", "")
    rooms: list[tuple[int, str]] = []
    trainers: list[dict[str, Any]] = []

    class Pipeline:
        def __init__(self, function: Any, **values: Any) -> None:
            trainers.append(values)

        def fit(self) -> None:
            """Trains nothing."""

    monkeypatch.setattr(
        runner.ray,
        "cluster_resources",
        lambda: {"CPU": 2.0} | ({"GPU": float(gpus)} if gpus else {}),
    )
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(runner, "start_ray", lambda config: None)
    monkeypatch.setattr(
        runner, "wait_for_room", lambda config, num_workers, kind: rooms.append((num_workers, kind))
    )
    monkeypatch.setattr(runner, "publish_requirements", lambda *_: nullcontext(requirements))
    monkeypatch.setattr(runner, "check_nodes", lambda requirements: None)
    monkeypatch.setattr(runner, "TorchTrainer", Pipeline)
    runner.train(config, RunStores(tmp_path / "graph"), ("joint",), say=lambda line: None)
    [values] = trainers
    environment = values["run_config"].worker_runtime_env["env_vars"]
    assert rooms == [(2, kind)]
    assert values["scaling_config"].use_gpu == (device == "cuda")
    assert values["torch_config"].backend == ("nccl" if device == "cuda" else "gloo")
    assert environment["DS_ACCELERATOR"] == device
    assert environment.get("CUDA_VISIBLE_DEVICES") == ("" if device == "cpu" else None)
    assert values["train_loop_config"]["device"] == device


@pytest.fixture
def order(tmp_path: Path) -> dict[str, Any]:
    """What the driver gives a worker on the CPU."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "token").write_text("word")
    config = RunConfig.model_validate(
        {"dataset": {"name": "toy", "interactions": "a.tsv"}, "model": {"kind": "lightgcn"}}
    )
    return {
        "config": config.absolute().model_dump(mode="json"),
        "inputs": RunStores(tmp_path).to_json(),
        "device": "cpu",
        "refusal": str(tmp_path / "logs" / "refused-1.json"),
        "run_dir": str(tmp_path),
        "requirements": NodeRequirements(
            versions(), str(tmp_path / "logs" / "token"), "word"
        ).to_json(),
    }


def test_a_rank_takes_the_device_that_the_driver_chose_whatever_it_sees(
    order: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "get_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(
        runner.DistContext, "join_group", lambda device, *_: DistContext.alone(device.type)
    )
    with runner._worker_context(order) as (_, _, context, _):
        assert context is not None
        assert context.device == torch.device("cpu")


def test_the_first_cause_of_a_worker_reaches_the_user(
    order: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray passes on the outermost exception without its causes, and both ends of a traceback."""
    monkeypatch.setattr(runner.DistContext, "join_group", lambda *_: DistContext.alone())
    cuda = (
        "CUDA error: invalid device ordinal\nGPU device may be out of range\n"
        "Compile with `TORCH_USE_CUDA_DSA`.\n"
    )
    outer = ValueError("the engine could not be made\nsee above")
    outer.__cause__ = RuntimeError(cuda)
    with pytest.raises(ValueError), runner._worker_context(order):
        raise outer
    refusal = Path(order["refusal"])
    assert not refusal.exists()
    from ray.train.v2.api.exceptions import WorkerGroupError

    group = WorkerGroupError(
        "[Rank 0 Error Snippet]:\n...", {0: ValueError("the engine could not be made\nsee above")}
    )
    assert str(runner._worker_error(refusal, group)) == (
        "workers failed: rank 0 of 1: RuntimeError: CUDA error: invalid device ordinal, which led "
        "to ValueError: the engine "
        "could not be made: see the logs, then run the same command again"
    )
    # of an attempt that wrote nothing
    other = WorkerGroupError("[Rank 0 Error Snippet]:\n...", {0: RuntimeError(cuda)})
    assert "failed: RuntimeError: CUDA error: invalid device ordinal: see" in str(
        runner._worker_error(refusal, other)
    )
    assert read_json(refusal.with_name("failed-1.json"))["cause"].startswith(
        "rank 0 of 1: RuntimeError"
    )


# Two processes for all that a process does with DeepSpeed: importing everything takes seconds.
# Here DeepSpeed is imported by a rank on the CPU, last of all.
RANK_FIRST = """
import importlib, os, pkgutil, sys
import recmind_dist

for module in pkgutil.walk_packages(recmind_dist.__path__, "recmind_dist."):
    # Triton comes with torch's CUDA builds
    if not module.name.endswith(("__main__", ".triton_ops", ".triton_adam", ".triton_padded")):
        importlib.import_module(module.name)
print("after all modules:", "deepspeed" in sys.modules)

from torch import nn
from recmind_dist.distributed.accelerator import import_deepspeed
from recmind_dist.distributed.settings import ZeroSettings
from recmind_dist.distributed.zero_engine import DenseEngine
from recmind_dist.errors import ConfigError
from recmind_dist.launch.in_process import join_group_of_one
from tests.training_runs import config_of
from pathlib import Path

config, cpu, cuda = config_of(Path("."), "run"), torch.device("cpu"), torch.device("cuda")
before = os.environ.get("DS_ACCELERATOR")
deepspeed = import_deepspeed(cpu)
print("accelerator:", deepspeed.accelerator.get_accelerator().device_name())
print("environment:", before, os.environ.get("DS_ACCELERATOR"))
device = join_group_of_one(config, "cpu").device
try: join_group_of_one(config, "cuda")
except ConfigError as error: print("group:", error)
DenseEngine(nn.Linear(2, 2), ZeroSettings(), 4, device).close()
try: DenseEngine(nn.Linear(2, 2), ZeroSettings(), 4, cuda)
except ConfigError as error: print("engine:", error)
"""
# Here a library imports DeepSpeed first, and it takes the GPU.
LIBRARY_FIRST = """
import sys
from pathlib import Path
import deepspeed
from recmind_dist.distributed.accelerator import import_deepspeed
from recmind_dist.launch.in_process import join_group_of_one, train_phases
from tests.training_runs import config_of, make_inputs

print("before:", deepspeed.accelerator.get_accelerator().device_name())
import_deepspeed(torch.device("cpu"))
print("accelerator:", deepspeed.accelerator.get_accelerator().device_name())
home = Path(sys.argv[1])
inputs = make_inputs(home)
config = config_of(home, "run", train={"epochs": 1}, scaling={"device": "cpu"})
ranks = join_group_of_one(config, "cpu")
train_phases(config, inputs, ("warmup", "joint"), ranks, "never", False, lambda _: None)
print("trained on:", ranks.device)
"""


def said_beside_a_gpu(code: str, *words: str) -> dict[str, str]:
    """Runs a program where torch sees a GPU and nothing is imported yet. Returns what it printed,
    `name: value` a line.
    """
    environment = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    done = subprocess.run(
        [sys.executable, "-c", SEES_ONE_GPU + code, *words],
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return {name: value for name, _, value in lines}


@pytest.fixture(scope="module")
def rank_first() -> dict[str, str]:
    return said_beside_a_gpu(RANK_FIRST)


@pytest.fixture(scope="module")
def library_first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return said_beside_a_gpu(LIBRARY_FIRST, str(tmp_path_factory.mktemp("trained")))


def test_no_module_of_the_package_imports_deepspeed_by_itself(rank_first: dict[str, str]) -> None:
    """It has to be imported for the device of the rank, which is not known before."""
    assert rank_first["after all modules"] == "False"


def test_deepspeed_follows_the_rank_beside_a_gpu_and_leaves_the_environment_to_children(
    rank_first: dict[str, str],
) -> None:
    assert rank_first["accelerator"] == "cpu"
    assert rank_first["environment"] == "None None"


def test_deepspeed_that_a_library_imported_first_follows_the_rank_all_the_same(
    library_first: dict[str, str],
) -> None:
    assert library_first["before"] == "cuda"
    assert library_first["accelerator"] == "cpu"


def test_deepspeed_that_works_on_another_device_is_refused_in_a_sentence(
    rank_first: dict[str, str],
) -> None:
    assert rank_first["engine"] == (
        "scaling.device: DeepSpeed works on cpu in this process, and the run is on cuda: start it "
        "in another process"
    )


def test_a_run_in_this_process_trains_on_the_cpu_beside_a_gpu(
    library_first: dict[str, str],
) -> None:
    """Whole steps with a dense part: the engine would move it to the GPU that torch sees."""
    assert library_first["trained on"] == "cpu"


def test_a_process_that_has_trained_on_one_device_is_refused_another(
    rank_first: dict[str, str],
) -> None:
    assert rank_first["group"] == (
        "scaling.device: the run is on cuda, and this process has trained by gloo, on another "
        "device: start it in another process"
    )
