"""A real cluster with a node that is not fit: named before any worker starts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.cluster_utils

from tests.shop import environment, make_shop, ray_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray.cluster_utils.Cluster]:
    """A head with room for one worker; nodes are added by tests."""
    directory = Path(tempfile.mkdtemp(prefix="r"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(directory))
        patch.setenv("PYTHONPATH", str(ROOT))
        made = ray.cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            yield made
        finally:
            for node in [*made.worker_nodes, made.head_node]:
                made.remove_node(node, allow_graceful=False)
            for process in ray_processes(directory):
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shop")
    make_shop(home)
    return home


def refusal(home: Path, cluster: ray.cluster_utils.Cluster, *more: str) -> str:
    """What `recmind train` on the cluster says as it ends with exit code 2."""
    words = ["train", "shop.yaml", "variant=lightgcn", f"scaling.address={cluster.address}", *more]
    done = subprocess.run(
        [sys.executable, "-m", "recmind_dist.cli", *words],
        cwd=home, env=environment(Path(os.environ["RAY_TMPDIR"])), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not (home / "runs" / "shop" / "metrics.jsonl").exists(), "nothing was to be trained"
    return line


@pytest.mark.timeout(280)
def test_a_node_with_another_version_is_named(shop: Path, cluster: ray.cluster_utils.Cluster, tmp_path: Path) -> None:
    metadata = tmp_path / "deepspeed-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    line = refusal(shop, cluster)
    assert line.startswith("error: node ")
    assert " has deepspeed 0.1, the driver deepspeed 0." in line
    assert line.endswith(": install the same versions on every node")
    cluster.remove_node(node, allow_graceful=False)
