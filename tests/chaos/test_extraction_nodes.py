"""Fault 12 on a real Ray cluster: nodes join and leave while texts are embedded, or there is no
room at all.
"""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.cluster_utils

from recmind_dist.errors import TextError
from recmind_dist.text import Texts, TextSettings, TextStore, embed_texts
from tests.shop import ray_processes
from tests.tiny_language_model import make_bert

pytestmark = [pytest.mark.chaos_slow, pytest.mark.timeout(600)]
TEXTS = Texts([f"space war {i}" for i in range(64)], [])
NUM_SHARDS = 4


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Made when a worker has encoded a shard, which it then holds for ever."""
    return tmp_path / "begun"


@pytest.fixture
def cluster(begun: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ray.cluster_utils.Cluster]:
    """A head that takes no workers. The first shard that a worker encodes stays in its hands."""
    directory = Path(tempfile.mkdtemp(prefix="r"))
    fault = {
        "point": "embedded",
        "action": "pause",
        "once": str(begun),
        "until": str(begun.with_name("never")),
    }
    monkeypatch.setenv("RAY_TMPDIR", str(directory))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RECMIND_FAULTS", json.dumps([fault]))
    made = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        for node in list(made.worker_nodes):
            made.remove_node(node, allow_graceful=False)
        made.remove_node(made.head_node, allow_graceful=False)
        for process in ray_processes(directory):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmind_dist.text.store.MIN_SHARD_ROWS", 16)


def settings_for(home: Path, **changes: object) -> TextSettings:
    values = {
        "model": str(make_bert(home / "bert")),
        "dtype": "fp32",
        **changes,
    }
    return TextSettings.model_validate(values)


def test_row_12_a_node_that_joins_is_used_and_one_that_leaves_is_not_held_against_the_batch(
    cluster: ray.cluster_utils.Cluster,
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker of the first node never lets go of its shard, so all that is done is done by the
    second node.
    """
    monkeypatch.setattr("recmind_dist.text.pool.MAX_RETRIES", 0)
    first = cluster.add_node(num_cpus=1)
    done: list[int] = []

    def join() -> None:
        while not begun.exists():
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)

    def on_progress(count: int, total: int) -> None:
        done.append(count)
        if len(done) == NUM_SHARDS - 1:
            cluster.remove_node(first, allow_graceful=False)

    threading.Thread(target=join, daemon=True).start()
    report = embed_texts(TEXTS, settings_for(tmp_path), tmp_path, on_progress=on_progress)
    assert report.embedded == 64
    assert len(done) == NUM_SHARDS
    TextStore.open(report.path).verify()


@pytest.mark.usefixtures("cluster")
def test_row_12_without_room_for_a_worker_extraction_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmind_dist.text.pool.START_S", 3.0)
    with pytest.raises(
        TextError,
        match=r"shard 0 of items: no worker has started within 3 s: the cluster has no free "
        r"CPU: free one or add nodes",
    ):
        embed_texts(TEXTS, settings_for(tmp_path), tmp_path)
