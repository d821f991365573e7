"""Fault 1: SIGKILL of a worker in mid-epoch. The run ends by itself, with the very bits of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from recmind_dist.checkpoint import find_checkpoint
from recmind_dist.report import read_metrics
from tests.tiny_language_model import make_bert

CONFIG = """
run_dir: {run}
cache_dir: cache
dataset: {{name: tiny, interactions: data/interactions.parquet, items: data/items.parquet}}
text: {{model: bert, shard_rows: 512, chunk_rows: 512, max_user_items: 3, num_actors: 1}}
sampler: {{num_neighbors: [4, 4], negatives: {{num_shared: 64}}}}
model: {{embedding_dim: 16, num_layers: 2}}
loss: {{kind: ssm}}
alignment: {{anchors: 64, queue_size: 256}}
zero: {{stage: 2}}
scaling: {{num_workers: 2, max_failures: 2}}
train: {{batch_size: 256, warmup_epochs: 1, epochs: 6, log_every_steps: 1}}
checkpoint: {{every_steps: 7}}
evaluation: {{every_epochs: 3}}
"""


def recmind(*words: str, cwd: Path) -> "subprocess.Popen[str]":
    """The real command, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recmind_dist.cli", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def joint_steps(metrics: Path) -> list[int]:
    """Joint steps that the log shows, torn last line and all."""
    if not metrics.exists():
        return []
    return [int(entry["step"]) for entry in read_metrics(metrics, "step") if entry["phase"] == "joint"]


def kill_one_worker(driver: int) -> int:
    """SIGKILLs one Ray Train worker below the driver; returns its pid."""
    for process in psutil.Process(driver).children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return process.pid
    raise AssertionError("no worker is running")


def test_a_run_whose_worker_is_killed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    make_bert(tmp_path / "bert")
    made = recmind("synth", "data", "num_users=300", "num_items=150", "num_edges=5000", cwd=tmp_path)
    assert made.wait(120) == 0
    for run in ("calm", "killed"):
        (tmp_path / f"{run}.yaml").write_text(CONFIG.format(run=run))
    calm = recmind("run", "calm.yaml", cwd=tmp_path)
    said, _ = calm.communicate(timeout=280)
    assert calm.returncode == 0, said

    killed = recmind("run", "killed.yaml", cwd=tmp_path)
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 120
    while max(joint_steps(metrics), default=0) < 10:
        assert time.monotonic() < deadline, "training did not begin"
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    kill_one_worker(killed.pid)
    said, _ = killed.communicate(timeout=280)
    assert killed.returncode == 0, said

    starts = list(read_metrics(metrics, "start"))
    assert len(starts) == 2, "the workers were to be restarted once"
    assert starts[1]["steps_done"] > 0, "the restart was to go on from a checkpoint"
    before, after = (find_checkpoint(tmp_path / run / "checkpoints") for run in ("calm", "killed"))
    assert before is not None
    assert after is not None
    assert after.step == before.step
    for one, other in ((before.dense(), after.dense()), (before.rows(0, 450), after.rows(0, 450))):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
