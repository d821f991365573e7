"""Real processes, really killed, around the moment at which a checkpoint comes to be; and a full
disk.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, commit, saver
from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, rows_file
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError
from tests.processes import Program


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(path: Path, _: object) -> None:
    path.write_bytes(b"half a sha")
    die()


def work(directory: Path, rank: int, world_size: int, attempt: str, fault: str) -> None:
    """Saves step 1 and step 2; in the second it dies as `fault` says."""
    rows = (10 * rank // world_size, 10 * (rank + 1) // world_size)
    one = saver.Checkpointer(directory, rank, world_size, rows, 10, CheckpointSettings())
    save(one, 1, attempt, fault)
    if fault == "before commit":
        commit.write_commit = die
    if fault == "after shard":
        saver.write_done = die
    if fault == "in shard":
        saver.write_shard = write_half
    save(one, 2, attempt, fault)
    one.close()


def save(one: saver.Checkpointer, step: int, attempt: str, fault: str) -> None:
    """A save and its report, which stands for ray.train.report."""
    table = torch.arange(20.0).view(10, 2) * step
    dense, state = ({}, {"step": step}) if one.rank == 0 else (None, None)
    one.save(attempt_name(step, attempt), {"embedding": table[slice(*one.row_range)]}, dense, state)
    names = one.wait()
    if fault == "before report" and step == 2:
        die()
    print("reported", *names, flush=True)


def start(
    directory: Path, rank: int, world_size: int, attempt: str, fault: str = "none"
) -> Program:
    return Program(work, directory, rank, world_size, attempt, fault)


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Processes of a test; those still alive at its end are killed one by one."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.kill()


@pytest.mark.parametrize("fault", ["in shard", "after shard", "before commit"])
def test_a_kill_before_commit_leaves_the_former_checkpoint(tmp_path: Path, fault: str) -> None:
    assert start(tmp_path, 0, 1, "aaaaaaaa", fault).wait() == -signal.SIGKILL
    half = tmp_path / attempt_name(2, "aaaaaaaa")
    assert (half / rows_file(0)).exists()
    assert not (half / COMMIT).exists()
    assert (half / MANIFEST).exists() == (fault == "before commit")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(1, "aaaaaaaa")

    # the same run started again: the dead attempt is in nobody's way
    assert start(tmp_path, 0, 1, "bbbbbbbb").wait() == 0
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(2, "bbbbbbbb")
    assert not half.exists()


def test_a_kill_between_commit_and_report_leaves_the_new_checkpoint(tmp_path: Path) -> None:
    dead = start(tmp_path, 0, 1, "aaaaaaaa", "before report")
    assert dead.wait() == -signal.SIGKILL
    # nobody was told of the second
    assert dead.stdout.split() == ["reported", attempt_name(1, "aaaaaaaa")]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 2
    assert torch.equal(found.rows(0, 10)["embedding"], torch.arange(20.0).view(10, 2) * 2)


@pytest.mark.parametrize("fault", ["after shard", "before commit"])
def test_when_a_rank_is_killed_the_others_shares_are_no_checkpoint(
    tmp_path: Path, started: list[Program], fault: str
) -> None:
    victim = 0 if fault == "before commit" else 1
    started += [
        start(tmp_path, rank, 2, "aaaaaaaa", fault if rank == victim else "none")
        for rank in range(2)
    ]
    assert started[victim].wait() == -signal.SIGKILL
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == attempt_name(1, "aaaaaaaa")
    started[1 - victim].kill()  # as Ray ends the group

    again = start(tmp_path, 0, 1, "bbbbbbbb")  # and on with another number of ranks
    again.wait()
    assert again.stdout.split()[-1] == attempt_name(2, "bbbbbbbb")
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
