"""A server whose bundle is exchanged under load, damaged, or which is killed."""

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.random_bundle import RandomBundle
from benchmarks.server_process import TOKEN, ServerProcess
from recmind_dist.cli import main
from recmind_dist.recommend.recommender import load

CLIENTS = 8
SIZES = {"first": 300, "second": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two bundles of the same users and other items, and a link to the first."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, (name, items) in enumerate(SIZES.items()):
        RandomBundle(40, items, dim=8, history=5, seed=seed).write(folder / name)
    (folder / "current").symlink_to("first")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(folder / "current", token=TOKEN) as server:
        yield server


class Clients:
    """Threads that ask without a pause until they are told to stop.

    Attributes:
        answers: (version, items of user u3) of every reply.
        failed: what else came.
    """

    def __init__(self, server: ServerProcess) -> None:
        self.answers: set[tuple[str, tuple[str, ...]]] = set()
        self.failed: list[str] = []
        self.count = 0
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, more: int) -> None:
        """Until so many further requests are answered."""
        until = self.count + more
        while self.count < until and not self.failed:
            self._stop.wait(0.01)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                status, reply = self._server.ask("/recommend", {"user": "u3", "k": 5})
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                return
            if status != 200:
                self.failed.append(json.dumps(reply))
                return
            items = tuple(item["item_id"] for item in reply["results"][0]["items"])
            self.answers.add((reply["bundle"]["version"], items))
            self.count += 1


def best_of(bundle: Path) -> tuple[str, ...]:
    return tuple(item.item_id for item in load(bundle).recommend("u3", 5))


def point_to(link: Path, target: str) -> None:
    new = link.with_name("new-link")
    new.symlink_to(target)
    new.replace(link)


def test_row_24_no_request_is_lost_while_bundles_change_places(
    server: ServerProcess, folder: Path
) -> None:
    with Clients(server) as clients:
        for name in ("second", "first", "second", "first"):
            clients.wait_for(20)
            status, reply = server.ask("/bundle", {"path": name})
            assert status == 200, reply
        clients.wait_for(20)
        point_to(folder / "current", "second")
        while server.ask("/about")[1]["num_items"] != SIZES["second"]:
            clients.wait_for(5)
        clients.wait_for(20)
    assert clients.failed == []
    replies = {items for _, items in clients.answers}
    assert replies == {best_of(folder / "first"), best_of(folder / "second")}
    assert len(clients.answers) == 2, "a version belongs to the items of its own bundle"
    _, text = server.ask("/metrics")
    assert "recmind_bundle_swaps 5.0" in text


def test_row_24_a_killed_server_starts_again_and_answers(folder: Path) -> None:
    first = ServerProcess(folder / "second").wait()
    port = int(first.url.rsplit(":", 1)[1])
    with Clients(first) as clients:
        clients.wait_for(20)
        first.kill()
    assert clients.failed, "the clients saw it go"
    with ServerProcess(folder / "second", port=port) as again:
        _, reply = again.ask("/recommend", {"user": "u3", "k": 5})
        assert tuple(i["item_id"] for i in reply["results"][0]["items"]) == best_of(
            folder / "second"
        )


@pytest.fixture(scope="module")
def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "first").iterdir())


def test_row_25_a_damaged_bundle_is_refused_and_the_one_before_is_served_on(
    server: ServerProcess, folder: Path, names: list[str]
) -> None:
    assert len(names) == 7
    version = server.ask("/about")[1]["bundle"]["version"]
    damaged = RandomBundle(20, 50, dim=4, history=3).write(folder / "damaged")
    for name in names:
        whole = (damaged / name).read_bytes()
        flip(damaged / name, len(whole) // 2)
        status, reply = server.ask("/bundle", {"path": "damaged"})
        assert (status, name in reply["error"]) == (422, True), reply
        _, found = server.ask("/recommend", {"user": "u3"})
        assert found["bundle"]["version"] == version
        (damaged / name).write_bytes(whole)
    for path in ("../elsewhere", "/etc", "absent"):
        assert server.ask("/bundle", {"path": path})[0] == 422
    assert server.ask("/bundle", {"path": "first"}, {"Authorization": "Bearer x"})[0] == 401


def test_row_25_a_damaged_bundle_is_not_started_with(tmp_path: Path) -> None:
    damaged = RandomBundle(20, 50, dim=4, history=3).write(tmp_path / "damaged")
    flip(damaged / "users.parquet", 200)
    started = ServerProcess(damaged)
    with pytest.raises(RuntimeError, match=r"users\.parquet: sha256 differs"):
        started.wait()
    assert started.process.returncode == 2


def test_row_25_damage_in_any_file_keeps_the_server_from_starting(
    tmp_path: Path,
    names: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)  # of this process
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # as the command would, for good
    for name in names:
        damaged = RandomBundle(20, 50, dim=4, history=3).write(tmp_path / name)
        flip(damaged / name, (damaged / name).stat().st_size // 2)
        with pytest.raises(SystemExit) as stop:  # before it listens, or it would not return
            main(["serve", str(damaged), "--port", "0"])
        assert stop.value.code == 2
        assert f"{damaged / name}: " in capfd.readouterr().err


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
