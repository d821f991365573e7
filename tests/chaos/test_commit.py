"""Real processes, really killed, around the moment at which a checkpoint comes to be; and a full
disk.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name
from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, rows_file
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError

WORKER = """
import os, signal, sys, time
from pathlib import Path
import torch
from recmind_dist.checkpoint import CheckpointSettings, attempt_name, commit, saver

directory, attempt, fault = Path(sys.argv[1]), sys.argv[4], sys.argv[5]
rank, world_size = int(sys.argv[2]), int(sys.argv[3])
start, stop = 10 * rank // world_size, 10 * (rank + 1) // world_size


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def report(step, names):  # stands for ray.train.report
    if fault == "before report" and step == 2:
        die()
    print("reported", *names, flush=True)


def save(one, step):
    table = torch.arange(20.0).view(10, 2) * step
    name = attempt_name(step, attempt)
    dense, state = ({}, {"step": step}) if rank == 0 else (None, None)
    one.save(name, {"embedding": table[start:stop]}, dense, state)
    report(step, one.wait())


one = saver.Checkpointer(directory, rank, world_size, (start, stop), 10, CheckpointSettings())
save(one, 1)
if fault == "before commit":
    commit.write_commit = die
if fault == "after shard":
    saver.write_done = die
if fault == "in shard":
    saver.write_shard = lambda path, tensors: (path.write_bytes(b"half a sha"), die())
save(one, 2)
one.close()
"""


def start(
    directory: Path, rank: int, world_size: int, attempt: str, fault: str = "none"
) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(directory),
        str(rank),
        str(world_size),
        attempt,
        fault,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes of a test; those still alive at its end are killed one by one."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("fault", ["in shard", "after shard", "before commit"])
def test_a_kill_before_commit_leaves_the_former_checkpoint(tmp_path: Path, fault: str) -> None:
    (dead := start(tmp_path, 0, 1, "aaaaaaaa", fault)).communicate(timeout=150)
    assert dead.returncode == -signal.SIGKILL
    half = tmp_path / attempt_name(2, "aaaaaaaa")
    assert (half / rows_file(0)).exists()
    assert not (half / COMMIT).exists()
    assert (half / MANIFEST).exists() == (fault == "before commit")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(1, "aaaaaaaa")

    # the same run started again: the dead attempt is in nobody's way
    again = start(tmp_path, 0, 1, "bbbbbbbb")
    again.communicate(timeout=150)
    assert again.returncode == 0
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(2, "bbbbbbbb")
    assert not half.exists()


def test_a_kill_between_commit_and_report_leaves_the_new_checkpoint(tmp_path: Path) -> None:
    dead = start(tmp_path, 0, 1, "aaaaaaaa", "before report")
    said, _ = dead.communicate(timeout=150)
    assert dead.returncode == -signal.SIGKILL
    # nobody was told of the second
    assert said.split() == ["reported", attempt_name(1, "aaaaaaaa")]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 2
    assert torch.equal(found.rows(0, 10)["embedding"], torch.arange(20.0).view(10, 2) * 2)


@pytest.mark.parametrize("fault", ["after shard", "before commit"])
def test_when_a_rank_is_killed_the_others_shares_are_no_checkpoint(
    tmp_path: Path, started: list["subprocess.Popen[str]"], fault: str
) -> None:
    victim = 0 if fault == "before commit" else 1
    started += [
        start(tmp_path, rank, 2, "aaaaaaaa", fault if rank == victim else "none")
        for rank in range(2)
    ]
    assert started[victim].wait(timeout=150) == -signal.SIGKILL
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(1, "aaaaaaaa")
    started[1 - victim].kill()  # as Ray ends the group

    again = start(tmp_path, 0, 1, "bbbbbbbb")  # and on with another number of ranks
    said, _ = again.communicate(timeout=150)
    assert said.split()[-1] == attempt_name(2, "bbbbbbbb")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(2, "bbbbbbbb")
    assert torch.equal(found.rows(0, 10)["embedding"], torch.arange(20.0).view(10, 2) * 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        refused = subprocess.run(mount, capture_output=True).returncode != 0
    except FileNotFoundError:
        refused = True
    if refused:
        pytest.skip("a small file system cannot be mounted here: run as root to see a full disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_the_save_and_not_the_run(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Checkpointer(small_disk, 0, 1, (0, 8), 8, CheckpointSettings())
    small, large = {"embedding": torch.ones(8, 16)}, {"embedding": torch.ones(8, 16_000)}
    one.save(attempt_name(1, "aaaaaaaa"), small, {}, {})
    one.save(attempt_name(2, "aaaaaaaa"), large, {}, {})
    assert one.wait() == [attempt_name(1, "aaaaaaaa")]
    assert "No space left on device" in caplog.text
    assert [path.name for path in small_disk.iterdir()] == [attempt_name(1, "aaaaaaaa")]
    one.save(attempt_name(3, "aaaaaaaa"), small, {}, {})
    assert one.wait() == [attempt_name(3, "aaaaaaaa")]
    one.save(attempt_name(4, "aaaaaaaa"), large, {}, {})
    one.save(attempt_name(5, "aaaaaaaa"), large, {}, {})
    one.save(attempt_name(6, "aaaaaaaa"), large, {}, {})
    with pytest.raises(CheckpointError, match="3 checkpoints in a row could not be saved"):
        one.wait()
    found = find_checkpoint(small_disk)
    assert found is not None
    assert found.step == 3
