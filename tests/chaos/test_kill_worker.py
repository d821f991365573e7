"""Faults 1, 5 and 6 on Ray: a worker killed, the driver killed, a rank that hangs. The run ends
with the undisturbed bits.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recmind_dist.report import read_metrics
from tests.chaos.group import assert_same
from tests.tiny_language_model import make_bert

CONFIG = """
run_dir: {run}
cache_dir: cache
dataset: {{name: tiny, interactions: data/interactions.parquet, items: data/items.parquet}}
text: {{model: bert, num_actors: 1}}
sampler: {{num_neighbors: [4, 4], negatives: {{num_shared: 64}}}}
model: {{embedding_dim: 16, num_layers: 2}}
loss: {{kind: ssm}}
alignment: {{queue_size: 256}}
zero: {{stage: 2}}
scaling: {{num_workers: 2, max_failures: 2, collective_timeout_s: {timeout_s}}}
train: {{batch_size: 256, warmup_epochs: 1, epochs: 6, log_every_steps: 1}}
checkpoint: {{every_steps: 7}}
evaluation: {{every_epochs: 3}}
"""


pytestmark = [pytest.mark.chaos_slow, pytest.mark.timeout(600)]


def recmind(*words: str, cwd: Path, faults: str = "") -> "subprocess.Popen[str]":
    """The real command, with faults armed in it and in all that it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RECMIND_FAULTS": faults}
    command = [sys.executable, "-m", "recmind_dist.cli", *words]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def joint_steps(metrics: Path) -> list[int]:
    """Joint steps that the log shows, torn last line and all."""
    if not metrics.exists():
        return []
    return [
        int(entry["step"]) for entry in read_metrics(metrics, "step") if entry["phase"] == "joint"
    ]


def kill_one_worker(driver: int) -> int:
    """SIGKILLs one Ray Train worker below the driver; returns its pid."""
    for process in psutil.Process(driver).children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return process.pid
    raise AssertionError("no worker is running")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data, a language model, and an undisturbed run in `calm`."""
    home = tmp_path_factory.mktemp("ray-runs")
    make_bert(home / "bert")
    assert (
        recmind("synth", "data", "num_users=300", "num_items=150", "num_edges=5000", cwd=home).wait(
            120
        )
        == 0
    )
    finished(start(home, "calm"))
    return home


def start(home: Path, run: str, faults: str = "", timeout_s: int = 60) -> "subprocess.Popen[str]":
    """`recmind run` of a config of its own, whose run directory is `run`."""
    (home / f"{run}.yaml").write_text(CONFIG.format(run=run, timeout_s=timeout_s))
    return recmind("run", f"{run}.yaml", cwd=home, faults=faults)


def finished(command: "subprocess.Popen[str]") -> str:
    """Waits for a good end; returns what was said."""
    said, _ = command.communicate(timeout=400)
    assert command.returncode == 0, said
    return said


def wait_for_step(command: "subprocess.Popen[str]", metrics: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while max(joint_steps(metrics), default=0) < step:
        assert time.monotonic() < deadline, "training did not begin"
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.02)


def resumed_at(run: Path) -> list[int]:
    return [entry["steps_done"] for entry in read_metrics(run / "metrics.jsonl", "start")]


def test_row_01_a_run_whose_worker_is_killed_ends_by_itself_as_if_nothing_had_happened(
    home: Path,
) -> None:
    command = start(home, "killed")
    wait_for_step(command, home / "killed" / "metrics.jsonl", 10)
    kill_one_worker(command.pid)
    finished(command)
    starts = resumed_at(home / "killed")
    assert len(starts) == 2, "the workers were to be restarted once"
    assert starts[1] > 0, "the restart was to go on from a checkpoint"
    assert_same(home / "killed", home / "calm")


def test_row_05_when_the_driver_dies_the_same_command_resumes_the_run(home: Path) -> None:
    command = start(home, "driver")
    wait_for_step(command, home / "driver" / "metrics.jsonl", 10)
    others = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.communicate()
    # Ray's agents look for their dead head for a minute first
    _, alive = psutil.wait_procs(others, timeout=180)
    assert not [process.cmdline() for process in alive], (
        "what the driver had started was to end with it"
    )
    finished(start(home, "driver"))
    starts = resumed_at(home / "driver")
    assert len(starts) == 2
    assert starts[1] > 0
    assert_same(home / "driver", home / "calm")


def test_row_06_a_rank_that_hangs_is_named_in_time_and_the_workers_start_again(home: Path) -> None:
    fault = {
        "point": "gradient",
        "rank": 1,
        "step": 30,
        "action": "hang",
        "once": str(home / "hung"),
    }
    finished(start(home, "hangs", json.dumps([fault]), timeout_s=25))
    assert (home / "hung").exists()
    warnings = [
        entry["message"] for entry in read_metrics(home / "hangs" / "metrics.jsonl", "warning")
    ]
    assert any(
        message.startswith("rank 0 of 2: the sum over ranks failed after ") for message in warnings
    ), warnings
    starts = resumed_at(home / "hangs")
    assert len(starts) == 2
    assert starts[1] > 0
    assert_same(home / "hangs", home / "calm")
