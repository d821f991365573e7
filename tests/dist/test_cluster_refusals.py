"""A real cluster with a node that is not fit: named before any worker starts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.cluster_utils

from tests.shop import environment, make_shop, ray_processes

pytestmark = pytest.mark.dist_slow

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


def refusal(home: Path, cluster: ray.cluster_utils.Cluster, *more: str, code: int = 2) -> str:
    """What `recmind train` on the cluster says as it ends with that exit code."""
    words = ["train", "shop.yaml", "variant=lightgcn", *more]
    done = subprocess.run(
        [sys.executable, "-m", "recmind_dist.cli", *words],
        cwd=home,
        env=environment(Path(os.environ["RAY_TMPDIR"]), RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not (home / "runs" / "shop" / "metrics.jsonl").exists(), "nothing was to be trained"
    return line


@pytest.mark.timeout(280)
def test_a_node_with_another_version_is_named(
    shop: Path, cluster: ray.cluster_utils.Cluster, tmp_path: Path
) -> None:
    metadata = tmp_path / "deepspeed-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    line = refusal(shop, cluster)
    assert line.startswith("error: node ")
    assert " has deepspeed 0.1, the driver deepspeed 0." in line
    assert line.endswith(": install the same versions on every node")
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.timeout(280)
def test_a_node_that_cannot_reach_the_storage_is_named(
    shop: Path, cluster: ray.cluster_utils.Cluster, tmp_path: Path
) -> None:
    """The storage is a directory; the node's own process group sees another one in its place."""
    storage = tmp_path / "storage"
    storage.mkdir()
    namespace = ["unshare", "--mount", "--propagation", "private", "true"]
    if subprocess.run(namespace, capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    ray = Path(sys.executable).parent / "ray"
    command = f"mount -t tmpfs none {storage} && exec {ray} start --block --num-cpus=1"
    command += f" --address={cluster.address} --disable-usage-stats"
    before = len(ray_nodes(cluster))
    node = subprocess.Popen(
        [*namespace[:-1], "sh", "-c", command], env={**os.environ}, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(ray_nodes(cluster)) == before:
            assert time.monotonic() < deadline, "the node did not join"
            time.sleep(0.5)
        line = refusal(shop, cluster, f"storage_uri={storage}")
        assert line.startswith("error: node ")
        assert f" cannot read and write storage_uri {storage} (" in line
        assert line.endswith(": give it the credentials and the network to reach it")
        assert not list(storage.rglob("node-check-*")), "the question was to be taken away again"
    finally:
        node.terminate()
        node.wait(60)
    deadline = time.monotonic() + 60
    while len(ray_nodes(cluster)) > before:
        assert time.monotonic() < deadline, "the node did not leave"
        time.sleep(0.5)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("workers", ["2", "[2, 4]"])
def test_a_cluster_that_stays_too_small_is_no_endless_wait(
    shop: Path, cluster: ray.cluster_utils.Cluster, workers: str
) -> None:
    wait = "scaling.start_timeout_s=0.4"
    line = refusal(shop, cluster, f"scaling.num_workers={workers}", wait, code=3)
    assert line == (
        "error: no room for 2 workers after 4 s (10 × scaling.start_timeout_s): the cluster's "
        "nodes have 1 CPUs: "
        "add nodes, or lower scaling.num_workers"
    )


def ray_nodes(cluster: ray.cluster_utils.Cluster) -> list[object]:
    return [node for node in cluster.global_state.node_table() if node["Alive"]]
