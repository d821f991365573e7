"""Fault 4 as a cluster has it: a head and two nodes, each with an address, a host name, processes
and shared memory of its own. A node loses power in mid-run, and another takes its place.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.committed import assert_loaded_what_was_committed, records
from tests.machines import Machine, Network, why_not
from tests.shop import environment
from tests.tiny_language_model import make_bert

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
CONFIG = """
run_dir: run
cache_dir: cache
dataset: {name: tiny, interactions: data/interactions.parquet, items: data/items.parquet}
text: {model: bert}
scaling: {num_workers: 2, collective_timeout_s: 60}
train: {log_every_steps: 1, epochs: 60, patience: 0}
checkpoint: {every_steps: 10, keep_last: 999}
"""

REASON = why_not()
pytestmark = [
    pytest.mark.chaos_slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


class Cluster:
    """A head without room for workers, nodes with room for one each, and a directory that all of
    them have at the same place.
    """

    def __init__(self, network: Network, home: Path, shared: Path) -> None:
        self._network, self._log, self.shared = network, home / "job.log", shared
        self.head = self._start("head", "head", "--num-cpus=0", "--include-dashboard=true")
        self.token = self.head.home / ".ray" / "auth_token"
        self._log.touch()
        wait_until(self.answers, self)

    def add_node(self, name: str) -> Machine:
        """A machine that has joined, or soon will have."""
        return self._start(name, "node", "--num-cpus=1")

    def answers(self) -> bool:
        """Whether the job API does."""
        return self.ray("job", "list").returncode == 0

    def ray(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`ray …` on the head, with the token."""
        command = [str(Path(PYTHON).parent / "ray"), *words, "--address", self._jobs]
        return subprocess.run(
            self.head.command(command),
            cwd=self.shared,
            env=self._environment(self.head),
            capture_output=True,
            text=True,
            check=False,
        )

    def submit(self, config: str) -> "subprocess.Popen[bytes]":
        """`ray job submit`, over HTTP: ends with the job's fate; its log is in `said`."""
        command = [str(Path(PYTHON).parent / "ray"), "job", "submit", "--address", self._jobs, "--"]
        train = f"cd {self.shared} && {PYTHON} {ROOT}/launchers/train.py --config {config}"
        with self._log.open("w") as log:
            return subprocess.Popen(
                self.head.command([*command, "sh", "-c", train]),
                cwd=self.shared,
                env=self._environment(self.head),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """The job's log so far."""
        return self._log.read_text()

    @property
    def _jobs(self) -> str:
        return f"http://{self.head.address}:8265"

    def _start(self, name: str, role: str, *words: str) -> Machine:
        machine = self._network.switch_on(name)
        at = ["--dashboard-host", machine.address]
        if role == "node":
            at = ["--address", f"{self.head.address}:6379"]
            (machine.home / ".ray").mkdir(mode=0o700)
            shutil.copy(self.token, machine.home / ".ray")
        launcher = [PYTHON, str(ROOT / "launchers" / "cluster.py"), role, *at]
        launcher += ["--node-ip-address", machine.address, "--", "--block", *words]
        with (machine.home / "log").open("w") as log:
            subprocess.Popen(
                machine.command(launcher),
                env=self._environment(machine),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return machine

    def _environment(self, machine: Machine) -> dict[str, str]:
        return environment(machine.own, HOME=str(machine.home), RAY_AUTH_MODE="token")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="r"))
    shared = home / "shared"
    shared.mkdir()
    try:
        with Network(home, ["head", "first", "second", "third"]) as network:
            yield Cluster(network, home, shared)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def wait_until(true: Callable[[], bool], cluster: Cluster, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, cluster.said
        time.sleep(0.5)


def test_row_04_a_machine_loses_power_and_another_takes_its_place(cluster: Cluster) -> None:
    shared = cluster.shared
    make_bert(shared / "bert")
    words = ["synth", "data", "num_users=300", "num_items=150", "num_edges=5000"]
    subprocess.run([PYTHON, "-m", "recmind_dist.cli", *words], cwd=shared, check=True, timeout=120)
    (shared / "tiny.yaml").write_text(CONFIG)
    cluster.add_node("first")
    second = cluster.add_node("second")
    run = shared / "run"
    job = cluster.submit("tiny.yaml")
    try:
        wait_until(lambda: job.poll() is not None or len(records(run, "step")) >= 40, cluster)
        assert job.poll() is None, cluster.said
        second.cut_power()
        cluster.add_node("third")
        wait_until(lambda: job.poll() is not None, cluster, timeout_s=600)
    finally:
        job.kill()
    assert job.returncode == 0, cluster.said
    assert [start["world_size"] for start in records(run, "start")] == [2, 2]
    assert assert_loaded_what_was_committed(run) == [2]
    joint = {step["step"] for step in records(run, "step") if step["phase"] == "joint"}
    assert joint == set(range(1, max(joint) + 1))
    assert (run / "results.json").exists()
