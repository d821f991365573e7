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
from recmind_dist.training.inputs import Inputs

ROOT = Path(__file__).parents[2]
SEES_ONE_GPU = (
    "import torch; torch.cuda.device_count = lambda: 1; torch.cuda.is_available = lambda: True\n"
)


def scaling(**changes: Any) -> ScalingSettings:
    return ScalingSettings.model_validate(changes)


def child(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs a program in a process that has nothing imported yet."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=found,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


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
    runner.train(config, Inputs(tmp_path / "graph"), ("joint",), say=lambda line: None)
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
        "inputs": Inputs(tmp_path).to_json(),
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


def test_no_module_of_the_package_imports_deepspeed_by_itself() -> None:
    """It has to be imported for the device of the rank, which is not known before."""
    done = child(
        "import pkgutil, sys, importlib, recmind_dist\n"
        "for module in pkgutil.walk_packages(recmind_dist.__path__, 'recmind_dist.'):\n"
        "    # Triton comes with torch's CUDA builds\n"
        "    if not module.name.endswith(('__main__', '.triton_ops')):\n"
        "        importlib.import_module(module.name)\n"
        "assert 'deepspeed' not in sys.modules, 'imported'\n"
    )
    assert done.returncode == 0, done.stderr


def test_deepspeed_follows_the_rank_beside_a_gpu_and_leaves_the_environment_to_children() -> None:
    done = child(
        SEES_ONE_GPU + "import os\n"
        "from recmind_dist.distributed.accelerator import import_deepspeed\n"
        "deepspeed = import_deepspeed(torch.device('cpu'))\n"
        "print(deepspeed.accelerator.get_accelerator().device_name(), "
        "os.environ.get('DS_ACCELERATOR'))\n"
    )
    assert done.stdout.splitlines()[-1:] == ["cpu None"], done.stderr


def test_deepspeed_that_a_library_imported_first_follows_the_rank_all_the_same() -> None:
    done = child(
        SEES_ONE_GPU + "import deepspeed\n"
        "from recmind_dist.distributed.accelerator import import_deepspeed\n"
        "before = deepspeed.accelerator.get_accelerator().device_name()\n"
        "import_deepspeed(torch.device('cpu'))\n"
        "print(before, deepspeed.accelerator.get_accelerator().device_name())\n"
    )
    assert done.stdout.splitlines()[-1:] == ["cuda cpu"], done.stderr


def test_deepspeed_that_works_on_another_device_is_refused_in_a_sentence() -> None:
    done = child(
        "import torch\n"
        "from torch import nn\n"
        "from pathlib import Path\n"
        "from tests.training_runs import config_of\n"
        "from recmind_dist.errors import ConfigError\n"
        "from recmind_dist.distributed.settings import ZeroSettings\n"
        "from recmind_dist.distributed.zero_engine import DenseEngine\n"
        "from recmind_dist.launch.in_process import join_group_of_one\n"
        "device = join_group_of_one(config_of(Path('.'), 'run'), 'cpu').device\n"
        "DenseEngine(nn.Linear(2, 2), ZeroSettings(), 4, device).close()\n"
        "try: DenseEngine(nn.Linear(2, 2), ZeroSettings(), 4, torch.device('cuda'))\n"
        "except ConfigError as error: print(error)\n"
    )
    assert done.stdout.splitlines()[-1:] == [
        "scaling.device: DeepSpeed works on cpu in this process, and the run is on cuda: start it "
        "in another process"
    ], done.stderr


def test_a_run_in_this_process_trains_on_the_cpu_beside_a_gpu(tmp_path: Path) -> None:
    """Whole steps with a dense part: the engine would move it to the GPU that torch sees."""
    done = child(
        SEES_ONE_GPU + "import deepspeed\n"
        "from pathlib import Path\n"
        "from tests.training_runs import config_of, make_inputs\n"
        "from recmind_dist.launch.in_process import join_group_of_one, train_phases\n"
        f"home = Path({str(tmp_path)!r})\n"
        "inputs = make_inputs(home)\n"
        "config = config_of(home, 'run', train={'epochs': 1}, scaling={'device': 'cpu'})\n"
        "ranks = join_group_of_one(config, 'cpu')\n"
        "train_phases(config, inputs, ('warmup', 'joint'), ranks, 'never', False, lambda _: "
        "None)\n"
        "print('trained on', ranks.device)\n"
    )
    assert done.stdout.splitlines()[-1:] == ["trained on cpu"], done.stderr


def test_a_process_that_has_trained_on_one_device_is_refused_another() -> None:
    done = child(
        "from tests.training_runs import config_of\n"
        "from pathlib import Path\n"
        "from recmind_dist.launch.in_process import join_group_of_one\n"
        "from recmind_dist.errors import ConfigError\n"
        "config = config_of(Path('.'), 'run')\n"
        "join_group_of_one(config, 'cpu')\n"
        "try: join_group_of_one(config, 'cuda')\n"
        "except ConfigError as error: print(error)\n"
    )
    assert done.stdout.splitlines()[-1:] == [
        "scaling.device: the run is on cuda, and this process has trained by gloo, on another "
        "device: start it in another "
        "process"
    ], done.stderr
