"""Runs mirrored to an S3-compatible server (moto) and to a path: what is committed comes back on a
new machine, bit for bit.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow import fs

from recmind_dist.checkpoint.layout import COMMIT, attempt_directories, rows_file
from recmind_dist.checkpoint.mirror import CHECKPOINTS, TEXT, Mirror
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.errors import CheckpointError, ConfigError
from recmind_dist.pipeline.train import sync_with_storage
from recmind_dist.report import read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.remote import Remote
from recmind_dist.storage.tree import FILES, INDEX, Tree
from recmind_dist.training.run_stores import RunStores
from tests.chaos.group import Group, assert_same
from tests.shop import SIZE, make_shop, recmind
from tests.tiny_language_model import make_bert
from tests.training_runs import config_of, make_inputs

PLACES = ("s3", "path")


@dataclass
class Server:
    """A moto server with one bucket."""

    port: int
    process: "subprocess.Popen[bytes]"

    def uri(self, prefix: str) -> str:
        return f"s3://bucket/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        made = start_server()
        yield made
        made.process.kill()
        made.process.wait()


def start_server() -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
    s3 = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True
    )
    s3.create_dir("bucket")
    return Server(port, process)


@pytest.fixture(params=PLACES)
def uri(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> str:
    """An empty place of either kind."""
    return server.uri(tmp_path.name) if request.param == "s3" else str(tmp_path / "storage")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mirrored")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return make_inputs(home)


@pytest.fixture(scope="module")
def calm(home: Path, inputs: RunStores) -> Path:
    """The directory of an undisturbed run without shared storage."""
    config = mirrored(home, "calm", None)
    assert Group(config, inputs).wait()
    return config.run_dir


@pytest.fixture(scope="module")
def finished(home: Path, inputs: RunStores) -> Path:
    """The storage of a run that has ended."""
    config = mirrored(home, "finished", str(home / "storage"))
    assert Group(config, inputs).wait()
    return home / "storage"


@pytest.fixture
def finished_uri(finished: Path, uri: str) -> str:
    """The same in a place of either kind, to be damaged."""
    remote = Remote(uri)
    for path in finished.rglob("*"):
        if path.is_file():
            remote.upload(path, str(path.relative_to(finished)))
    return uri


def mirrored(home: Path, run: str, uri: str | None) -> RunConfig:
    return config_of(home, run, storage_uri=uri, checkpoint={"every_steps": 4})


def names(uri: str) -> set[str]:
    return Remote(uri).names(CHECKPOINTS)


def committed(uri: str) -> list[str]:
    return sorted(name.partition("/")[0] for name in names(uri) if name.endswith(f"/{COMMIT}"))


def test_files_of_a_place(uri: str, tmp_path: Path) -> None:
    remote = Remote(uri)
    assert remote.names("a") == set()
    remote.write("a/b/one", b"1")
    remote.write("a/b/one", b"one")
    (tmp_path / "two").write_bytes(b"x" * 5000)
    remote.upload(tmp_path / "two", "a/two", 3000)
    assert remote.names("a") == {"b/one", "two"}
    assert remote.read("a/b/one", 10) == b"one"
    remote.download("a/two", tmp_path / "new" / "two")
    assert (tmp_path / "new" / "two").read_bytes() == b"x" * 3000
    with pytest.raises(FileNotFoundError):
        remote.download("a/three", tmp_path / "three")
    assert not list(tmp_path.glob("*three*"))
    remote.delete("a/two")
    remote.delete("a/two")
    remote.delete_folder("a")
    remote.delete_folder("a")
    assert remote.names("a") == set()


def test_a_tree_sends_what_has_changed_and_comes_back_whole(uri: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "c" / "0").mkdir(parents=True)
    for name in ("meta.json", "c/0/0", "c/0/1"):
        (here / name).write_text(name)
    remote = Remote(uri)

    def push() -> set[str]:
        before = remote.names(f"text/{FILES}")
        Tree(remote, "text", here).push(path for path in here.rglob("*") if path.is_file())
        return remote.names(f"text/{FILES}") - before

    assert len(push()) == 3
    assert push() == set()
    (here / "c/0/1").write_text("other")
    (here / "meta.json").unlink()
    assert len(push()) == 1
    assert len(remote.names(f"text/{FILES}")) == 2, "what the index no longer names goes"
    Tree(remote, "text", there).pull()
    found = {
        str(path.relative_to(there)): path.read_text()
        for path in there.rglob("*")
        if path.is_file()
    }
    assert found == {"c/0/0": "c/0/0", "c/0/1": "other"}
    assert (there / "c/0/1").stat().st_mtime_ns == (here / "c/0/1").stat().st_mtime_ns
    Tree(remote, "text", here).clear()
    with pytest.raises(FileNotFoundError):
        Tree(remote, "text", tmp_path / "none").pull()


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("s4://bucket/x", "give an absolute path, s3://… or gs://…"),
        ("s3://", "names no folder"),
        ("s3://key:secret@bucket/x", "holds a password or key"),
    ],
)
def test_a_uri_that_is_none(bad: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match="storage_uri") as refused:
        Remote(bad)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_run_comes_back_on_a_new_machine_and_ends_as_if_it_had_never_left(
    home: Path, inputs: RunStores, calm: Path, uri: str, tmp_path: Path
) -> None:
    config = mirrored(tmp_path, "here", uri)
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text("the run's own\n")
    fault = {"point": "step", "rank": 1, "step": 14, "action": "kill"}
    assert not Group(config, inputs, faults=[fault]).wait()
    assert committed(uri)[-1].startswith("step-00000012.")
    shutil.rmtree(config.run_dir)

    moved = mirrored(tmp_path, "there", uri)
    mirror = Mirror.of(uri, moved.run_dir)
    assert mirror is not None
    (moved.run_dir / "checkpoints").mkdir(parents=True)
    assert mirror.pull()[0].startswith("step-00000012.")
    assert (moved.run_dir / "config.yaml").read_text() == "the run's own\n"
    assert list(read_metrics(moved.run_dir / "metrics.jsonl", "step"))
    assert mirror.pull() == []
    assert Group(moved, inputs, resume="must").wait()
    assert_same(moved.run_dir, calm)
    starts = [
        start["steps_done"] for start in read_metrics(moved.run_dir / "metrics.jsonl", "start")
    ]
    assert starts == [0, 12]
    # both sides keep the same checkpoints, and nothing else
    local = [
        path.name
        for path in attempt_directories(moved.run_dir / "checkpoints")
        if (path / COMMIT).exists()
    ]
    assert committed(uri) == local
    assert {name.partition("/")[0] for name in names(uri)} == set(local)


@pytest.mark.parametrize(("point", "rank"), [("share", 1), ("commit", 0), ("mirror", 0)])
def test_a_kill_in_the_midst_of_an_upload_leaves_the_checkpoint_before(
    home: Path, inputs: RunStores, calm: Path, server: Server, tmp_path: Path, point: str, rank: int
) -> None:
    uri = server.uri(tmp_path.name)
    config = mirrored(tmp_path, "killed", uri)
    fault = {"point": point, "rank": rank, "step": 12, "action": "kill"}
    first = Group(config, inputs, faults=[fault])
    assert not first.wait()
    assert first.exit_codes[rank] == -signal.SIGKILL
    half = {name for name in names(uri) if "00000012" in name}
    assert any(name.endswith(rows_file(rank)) for name in half), "its upload had begun"
    assert not any(name.endswith(COMMIT) for name in half)
    shutil.rmtree(config.run_dir)
    (config.run_dir / "checkpoints").mkdir(parents=True)
    mirror = Mirror.of(uri, config.run_dir)
    assert mirror is not None
    assert mirror.pull()[0].startswith("step-00000008.")
    assert Group(config, inputs, resume="must").wait()
    assert_same(config.run_dir, calm)
    assert not half & names(uri), "the dead attempt was to go with a later commit"


def test_damage_on_the_storage_is_named_and_the_checkpoint_before_used(
    finished_uri: str, tmp_path: Path
) -> None:
    good, newest = committed(finished_uri)[-2:]
    remote = Remote(finished_uri)
    name = f"{CHECKPOINTS}/{newest}/{rows_file(1)}"
    data = bytearray(remote.read(name, 1 << 20))
    data[-1] ^= 1
    remote.write(name, bytes(data))
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints").mkdir(parents=True)
    mirror = Mirror(remote, fresh)
    assert mirror.pull()[0] == good
    assert [path.name for path in attempt_directories(fresh / "checkpoints")][-1] != newest
    for left in committed(finished_uri):
        remote.write(f"{CHECKPOINTS}/{left}/{COMMIT}", b"0" * 64)
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\(s\), none is good: .*COMMIT: does not match"
    ):
        Mirror(remote, empty).pull()
    assert not list((empty / "checkpoints").iterdir())


def test_files_that_a_run_needs_are_there_before_its_checkpoint_or_nothing_comes_back(
    finished_uri: str, tmp_path: Path
) -> None:
    remote = Remote(finished_uri)
    index = json.loads(remote.read(INDEX, 1 << 20))
    assert set(index) >= {"metrics.jsonl"}
    assert remote.names(FILES) == {entry["sha256"] for entry in index.values()}
    remote.delete(f"{FILES}/{index['metrics.jsonl']['sha256']}")
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is missing"):
        Mirror(remote, fresh).pull()
    assert find_checkpoint(fresh / "checkpoints") is None
    for evil in ("../evil", "/evil", "a/../../evil", "a//b", ".lock", ""):
        remote.write(INDEX, json.dumps({evil: index["metrics.jsonl"]}).encode())
        with pytest.raises(CheckpointError, match=r"names files outside the directory: refused"):
            Mirror(remote, fresh).pull()
    assert not (tmp_path / "evil").exists()


def test_storage_that_fails_costs_no_checkpoint_here_and_ends_the_run_loudly(
    inputs: RunStores, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, os.environ.get(name, "us-east-1"))
    server = start_server()
    uri = server.uri("failing")
    config = mirrored(tmp_path, "failing", uri)
    group = Group(config, inputs)
    assert not group.wait(
        until=lambda: (config.run_dir / "checkpoints").exists() and len(committed(uri)) > 0
    )
    server.process.kill()
    server.process.wait()
    assert not group.wait()
    assert "3 checkpoints in a row could not be saved" in group.error(0)
    assert f"could not upload it to {uri}" in group.error(0)
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    # the storage is another one now, and empty: what is here goes there in one go
    again = mirrored(tmp_path, "failing", str(tmp_path / "storage"))
    sync_with_storage(again)
    assert found.name in committed(str(tmp_path / "storage"))
    assert Group(again, inputs, resume="must").wait()
    assert_same(again.run_dir, calm)


@pytest.mark.dist_slow
@pytest.mark.timeout(500)
def test_the_same_command_on_a_machine_without_the_run_gives_the_same_results(
    server: Server, tmp_path: Path, ray_home: Path
) -> None:
    """Warm-up with adapters, joint phase, results; then no run directory or cache is left."""
    assert recmind(["synth", "synth", *SIZE], tmp_path, ray_home).returncode == 0
    make_shop(tmp_path)
    make_bert(tmp_path / "bert")
    command = ["run", "shop.yaml", f'storage_uri="{server.uri("shop")}"', "train.epochs=1"]
    refused = recmind([*command, "--resume", "must"], tmp_path, ray_home)
    assert refused.returncode == 2
    assert "nothing to resume" in refused.stderr
    first = recmind(command, tmp_path, ray_home)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "shop"
    results, log = (
        json.loads((run / "results.json").read_text()),
        (run / "metrics.jsonl").read_bytes(),
    )
    kept = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "cache")

    again = recmind([*command, "--resume", "must"], tmp_path, ray_home)
    assert again.returncode == 0, again.stderr
    assert f"{server.uri('shop')}: brought step-" in again.stdout
    assert (
        len([line for line in again.stdout.splitlines() if ": brought the vectors of " in line])
        == 2
    )
    assert [
        line.split()[1] for line in again.stdout.splitlines() if line.startswith("embedded ")
    ] == ["0", "0"]
    assert len({name.partition("/")[0] for name in Remote(server.uri("shop")).names(TEXT)}) == 2
    assert json.loads((run / "results.json").read_text())["metrics"] == pytest.approx(
        results["metrics"]
    )
    assert (run / "metrics.jsonl").read_bytes() == log, "nothing was to be trained"
    assert {path.name: path.read_bytes() for path in (run / "adapter").iterdir()} == kept
