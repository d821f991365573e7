"""What a save and a wait ask of shared storage: counted by operation, whatever the number of ranks
and of seconds.
"""

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, commit, shards
from recmind_dist.checkpoint.layout import COMMIT, done_file, rows_file
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError

CALLS: list[tuple[Any, str]] = [
    (os, name)
    for name in (
        "stat",
        "lstat",
        "listdir",
        "scandir",
        "open",
        "mkdir",
        "replace",
        "link",
        "unlink",
    )
]
CALLS += [(io, "open"), (builtins, "open"), (shards, "safe_open"), (shards, "save_file")]


@pytest.fixture
def operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls so far that name something below the test's directory, by kind."""
    count: Counter[str] = Counter()

    def counting(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(
                str(arg).startswith(str(tmp_path)) for arg in args if isinstance(arg, str | Path)
            ):
                count[kind] += 1
            return original(*args, **kwargs)

        return call

    for module, name in CALLS:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return count


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[tuple[float, float]] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append((self.now_s, seconds))
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr("recmind_dist.checkpoint.commit.time.monotonic", lambda: made.now_s)
    monkeypatch.setattr(commit.Closing, "sleep", lambda _, seconds: made.sleep(seconds))
    return made


def wait_in_vain(path: Path, names: list[str], wait_s: float) -> None:
    with pytest.raises(CheckpointError, match="nobody came"):
        commit.wait_for(path, names, wait_s, lambda _: "nobody came", commit.Closing())


@pytest.mark.parametrize("waiting_for", [COMMIT, "shares"])
def test_ten_minutes_of_waiting_are_a_few_looks(
    tmp_path: Path, operations: Counter[str], clock: Clock, waiting_for: str
) -> None:
    wait_in_vain(
        tmp_path,
        [COMMIT] if waiting_for == COMMIT else [done_file(rank) for rank in range(1000)],
        600,
    )
    assert clock.now_s >= 600
    assert all(pause >= 1 for at, pause in clock.pauses if at >= 1 and at + pause < 600)
    assert len(clock.pauses) < 100
    looks = len(clock.pauses) + 1
    assert sum(operations.values()) <= (3 if waiting_for == COMMIT else 1) * looks


def test_a_look_costs_the_same_for_any_number_of_ranks(
    tmp_path: Path, operations: Counter[str], clock: Clock
) -> None:
    found = []
    for world_size in (2, 50, 1000):
        operations.clear()
        clock.now_s = 0.0
        wait_in_vain(tmp_path, [done_file(rank) for rank in range(world_size)], 60)
        found.append(dict(operations))
    assert found[0] == found[1] == found[2]


def test_a_rank_saves_with_the_same_operations_among_few_and_many(
    tmp_path: Path, operations: Counter[str]
) -> None:
    found = []
    for world_size in (2, 64):
        path = tmp_path / str(world_size) / attempt_name(1, "abcdefgh")
        path.mkdir(parents=True)
        (path / COMMIT).touch()  # as rank 0 will have made it
        one = Checkpointer(path.parent, 1, world_size, (1, 2), world_size, CheckpointSettings())
        operations.clear()
        one.save(path.name, {"weight": torch.ones(1, 2)}, None, None)
        assert one.wait() == [path.name]
        found.append(dict(operations))
    assert found[0] == found[1]
    assert sum(found[0].values()) < 30


def test_rank_0_opens_one_small_file_more_of_each_other_rank(
    tmp_path: Path, operations: Counter[str]
) -> None:
    found, sizes = [], []
    for world_size in (2, 64):
        path = tmp_path / str(world_size) / attempt_name(1, "abcdefgh")
        path.mkdir(parents=True)
        for rank in range(1, world_size):  # as the others will have left them
            rows = {"weight": torch.ones(1, 2)}
            entry = shards.write_shard(path / rows_file(rank), rows)
            commit.write_done(path, rank, (rank, rank + 1), entry, {"weight": ["F32", [2]]})
            sizes.append((path / done_file(rank)).stat().st_size)
        first = Checkpointer(path.parent, 0, world_size, (0, 1), world_size, CheckpointSettings())
        operations.clear()
        first.save(path.name, {"weight": torch.ones(1, 2)}, {}, {})
        assert first.wait() == [path.name]
        found.append(dict(operations))
    few, many = found
    assert sum(few.values()) < 80
    assert many == {**few, "open": few["open"] + 62, "stat": few["stat"] + 62}
    assert max(sizes) < 1000
