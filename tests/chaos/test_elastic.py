"""Fault 4: nodes leave and join a real Ray cluster in mid-run. The group of workers changes its
size and goes on from COMMIT.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.cluster_utils

from recmind_dist.checkpoint.reader import find_checkpoint
from tests.chaos.committed import assert_loaded_what_was_committed, records
from tests.shop import environment, ray_processes
from tests.tiny_language_model import make_bert

CONFIG = """
run_dir: {run}
cache_dir: cache
dataset: {{name: tiny, interactions: data/interactions.parquet, items: data/items.parquet}}
text: {{model: bert, num_actors: 1}}
graph: {{placement: {placement}}}
sampler: {{num_neighbors: [4, 4], negatives: {{num_shared: 64}}}}
model: {{embedding_dim: 16, num_layers: 2}}
loss: {{kind: ssm}}
alignment: {{queue_size: 256}}
zero: {{stage: 2}}
scaling: {{num_workers: [1, 2], collective_timeout_s: 60, start_timeout_s: 15}}
train: {{batch_size: 256, warmup_epochs: 1, epochs: {epochs}, log_every_steps: 1}}
checkpoint: {{every_steps: 10, keep_last: 999}}
evaluation: {{every_epochs: {epochs}}}
"""

RECMIND = """
import sys
from recmind_dist.cli import main
from recmind_dist.launch import ray_train

ray_train.RESIZE_CHECK_S = 2.0
main(sys.argv[1:])
"""
"""The command, which looks for new nodes more often than once a minute."""

pytestmark = [pytest.mark.chaos_slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data and a language model."""
    home = tmp_path_factory.mktemp("elastic")
    make_bert(home / "bert")
    words = ["synth", "data", "num_users=300", "num_items=150", "num_edges=5000"]
    subprocess.run(
        [sys.executable, "-m", "recmind_dist.cli", *words], cwd=home, check=True, timeout=120
    )
    return home


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ray.cluster_utils.Cluster]:
    """A head that takes no workers, and two nodes with room for one each."""
    directory = Path(tempfile.mkdtemp(prefix="r"))
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        made.add_node(num_cpus=1)
        made.add_node(num_cpus=1)
        yield made
    finally:
        for node in list(made.worker_nodes):
            made.remove_node(node, allow_graceful=False)
        made.remove_node(made.head_node, allow_graceful=False)
        for process in ray_processes(directory):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


class Run:
    """`recmind run` on the cluster, watched through its metrics.jsonl."""

    def __init__(
        self,
        home: Path,
        name: str,
        cluster: ray.cluster_utils.Cluster,
        epochs: int,
        placement: str = "replicated",
    ) -> None:
        self.path = home / name
        (home / f"{name}.yaml").write_text(
            CONFIG.format(run=name, epochs=epochs, placement=placement)
        )
        command = [sys.executable, "-c", RECMIND, "run", f"{name}.yaml"]
        env = environment(Path(os.environ["RAY_TMPDIR"]), RAY_ADDRESS=cluster.address)
        self.process = subprocess.Popen(
            command, cwd=home, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def records(self, kind: str) -> list[dict[str, Any]]:
        return records(self.path, kind)

    def wait_for_steps_on(
        self, world_size: int, starts: int, steps: int = 15, timeout_s: float = 300
    ) -> None:
        """Until the start with that number has so many ranks and has done so many steps."""
        deadline = time.monotonic() + timeout_s
        while True:
            begun = self.records("start")
            if len(begun) == starts:
                assert begun[-1]["world_size"] == world_size
                if sum(step["time"] > begun[-1]["time"] for step in self.records("step")) >= steps:
                    return
            assert len(begun) <= starts, begun
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, f"no {steps} steps on {world_size} ranks: {begun}"
            time.sleep(0.2)

    def finish(self, timeout_s: float = 400) -> None:
        said, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, said

    def starts(self) -> list[int]:
        return [start["world_size"] for start in self.records("start")]

    def assert_loaded_what_was_committed(self) -> None:
        """By a restart with another number of ranks."""
        writers = assert_loaded_what_was_committed(self.path)
        resumed = [start for start in self.records("start") if start["steps_done"]]
        for start, world_size in zip(resumed, writers, strict=True):
            assert start["world_size"] != world_size


@pytest.mark.parametrize("placement", ["replicated", "partitioned"])
def test_row_04_a_node_is_lost_and_another_joins(
    home: Path, cluster: ray.cluster_utils.Cluster, placement: str
) -> None:
    run = Run(home, f"lost-and-joined-{placement}", cluster, epochs=120, placement=placement)
    run.wait_for_steps_on(2, starts=1, steps=40)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    run.wait_for_steps_on(1, starts=2)
    cluster.add_node(num_cpus=1)
    run.wait_for_steps_on(2, starts=3)
    run.finish()
    assert run.starts() == [2, 1, 2]
    run.assert_loaded_what_was_committed()
    steps = {(step["phase"], step["step"]) for step in run.records("step")}
    assert {step for phase, step in steps if phase == "joint"} == set(
        range(1, run.records("step")[-1]["total"] + 1)
    )
    assert (run.path / "results.json").exists()


def test_row_04_a_node_is_lost_and_stays_away(
    home: Path, cluster: ray.cluster_utils.Cluster
) -> None:
    run = Run(home, "lost", cluster, epochs=40)
    run.wait_for_steps_on(2, starts=1, steps=40)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    run.finish()
    assert run.starts() == [2, 1]
    run.assert_loaded_what_was_committed()
    last = find_checkpoint(run.path / "checkpoints")
    assert last is not None
    assert (last.info["cursor"]["phase"], last.manifest.world_size) == ("done", 1)
