"""What befalls training: kills, hangs, full disks, numbers that are not finite; and what is left is
the undisturbed run.
"""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, attempt_directories, rows_file
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.report import read_metrics
from recmind_dist.training.run_stores import RunStores
from tests.chaos.conftest import chaos_config
from tests.chaos.group import Group, assert_same, content, run_to_end
from tests.processes import run_ranks
from tests.training_runs import resave, train_rank


def starts_of(run_dir: Path) -> list[int]:
    """Steps done at each start of the workers."""
    return [int(entry["steps_done"]) for entry in read_metrics(run_dir / "metrics.jsonl", "start")]


@pytest.mark.parametrize("rank", [0, 1])
def test_row_01_a_kill_between_backward_and_update_leaves_the_undisturbed_run(
    home: Path, inputs: RunStores, calm: Path, rank: int
) -> None:
    config = chaos_config(home, f"row-01-{rank}")
    fault = {
        "point": "gradient",
        "rank": rank,
        "step": 14,
        "action": "kill",
        "once": f"{config.run_dir}.killed",
    }
    first = Group(config, inputs, faults=[fault])
    assert not first.wait()
    assert first.exit_codes[rank] == -signal.SIGKILL
    assert run_to_end(config, inputs, [fault], starts=1) == 1
    assert_same(config.run_dir, calm)
    assert starts_of(config.run_dir) == [0, 12]


@pytest.mark.parametrize(
    ("point", "rank"), [("shard", 1), ("share", 1), ("share", 0), ("commit", 0)]
)
def test_row_02_a_kill_before_commit_leaves_no_checkpoint_and_the_one_before_is_used(
    home: Path, inputs: RunStores, calm: Path, point: str, rank: int
) -> None:
    config = chaos_config(home, f"row-02-{point}-{rank}")
    fault = {
        "point": point,
        "rank": rank,
        "step": 12,
        "action": "kill",
        "once": f"{config.run_dir}.killed",
    }
    first = Group(config, inputs, faults=[fault])
    assert not first.wait()
    assert first.exit_codes[rank] == -signal.SIGKILL
    [half] = [
        path
        for path in attempt_directories(config.run_dir / "checkpoints")
        if "00000012" in path.name
    ]
    assert not (half / COMMIT).exists()
    assert (half / MANIFEST).exists() == (point == "commit")
    assert (half / rows_file(rank)).exists() == (point != "shard")
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    assert found.step == 8
    run_to_end(config, inputs, [fault], starts=1)
    assert_same(config.run_dir, calm)
    assert starts_of(config.run_dir) == [0, 8]


def test_row_03_a_kill_between_commit_and_report_leaves_the_new_checkpoint(
    home: Path, inputs: RunStores, calm: Path
) -> None:
    config = chaos_config(home, "row-03")
    fault = {
        "point": "report",
        "rank": 0,
        "step": 12,
        "action": "kill",
        "once": f"{config.run_dir}.killed",
    }
    first = Group(config, inputs, faults=[fault])
    assert not first.wait()
    newest = find_checkpoint(config.run_dir / "checkpoints")
    assert newest is not None
    told = [entry["name"] for entry in read_metrics(config.run_dir / "metrics.jsonl", "checkpoint")]
    assert newest.name not in told, "it was to die before it told anybody"
    run_to_end(config, inputs, [fault], starts=1)
    assert starts_of(config.run_dir) == [0, newest.step]
    assert_same(config.run_dir, calm)


def test_row_06_a_rank_that_hangs_is_a_time_out_with_rank_and_operation(
    home: Path, inputs: RunStores, calm: Path
) -> None:
    patient = chaos_config(home, "row-06")
    config = chaos_config(home, "row-06", scaling={"collective_timeout_s": 15})
    fault = {
        "point": "gradient",
        "rank": 1,
        "step": 14,
        "action": "hang",
        "once": f"{config.run_dir}.hung",
    }
    first = Group(config, inputs, faults=[fault])
    assert not first.wait()
    assert first.exit_codes[1] == -signal.SIGKILL, "the one that hung was to be ended from outside"
    said = first.error(0)
    assert said.startswith("WorkerLostError: rank 0 of 2: the sum over ranks failed after "), said
    assert "raise scaling.collective_timeout_s if it is only slow" in said
    run_to_end(patient, inputs, [fault], starts=1)
    assert_same(config.run_dir, calm)


def test_row_06_a_sampler_thread_that_hangs_is_found_out(home: Path, inputs: RunStores) -> None:
    config = chaos_config(home, "row-06-sampler", scaling={"collective_timeout_s": 5})
    fault = {"point": "sample", "rank": 0, "step": 4, "action": "hang"}
    group = Group(config, inputs, world_size=1, faults=[fault])
    assert not group.wait()
    assert "WorkerLostError: the sampler's thread has made no batch for " in group.error(0)
    assert "faults.py:" in group.error(0), "the place where it hangs was to be named"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB, or gives the mounted one that size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(kib: int) -> Path:
        options = f"size={kib}k" + (",remount" if disk.is_mount() else "")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if (
            shutil.which("mount") is None
            or subprocess.run(words, capture_output=True, check=False).returncode
        ):
            pytest.skip(
                "mounting a file system is not allowed here: run as root to see a full disk"
            )
        return disk

    yield mount
    if disk.is_mount():
        # a rank may still have files open there
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_row_07_a_full_disk_costs_saves_loudly_and_then_the_run(
    home: Path, inputs: RunStores, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(4096)
    config = chaos_config(home, "row-07", train={"epochs": 30})
    config = config.model_copy(update={"run_dir": disk / "run"})
    group = Group(config, inputs, save_wait_s=4)
    group.wait(until=lambda: find_committed(config.run_dir) >= 2)
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    before = find_committed(config.run_dir)
    ended_well = group.wait()
    assert not ended_well
    assert "checkpoints in a row could not be saved" in group.error(0) + group.error(1)
    assert "No space left on device" in group.error(0) + group.error(1)
    assert find_committed(config.run_dir) <= before + 1, "one save may have been under way"
    filler.unlink()
    run_to_end(config, inputs, starts=1)
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    assert found.info["cursor"]["phase"] == "done"


def fill(file: Path) -> None:
    """Writes until the disk refuses."""
    with file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))


def find_committed(run_dir: Path) -> int:
    return sum((path / COMMIT).exists() for path in attempt_directories(run_dir / "checkpoints"))


def test_row_07_a_save_that_fails_once_does_not_stop_training(
    home: Path, inputs: RunStores, calm: Path
) -> None:
    config = chaos_config(home, "row-07-once", checkpoint={"keep_last": 99})
    fault = {
        "point": "shard",
        "rank": 1,
        "step": 12,
        "action": "enospc",
        "once": f"{config.run_dir}.full",
    }
    assert run_to_end(config, inputs, [fault], starts=1) == 1
    warnings = [
        entry["message"] for entry in read_metrics(config.run_dir / "metrics.jsonl", "warning")
    ]
    assert any(
        "failure 1 of 3 in a row" in message and "No space left on device" in message
        for message in warnings
    )
    steps = [
        path.name[:13]
        for path in attempt_directories(config.run_dir / "checkpoints")
        if (path / COMMIT).exists()
    ]
    assert "step-00000012" not in steps
    assert {"step-00000008", "step-00000016"} <= set(steps)
    assert_same(config.run_dir, calm)


@pytest.mark.parametrize(
    ("point", "stage"), [("gradient", 2), *(("dense gradient", stage) for stage in range(4))]
)
def test_row_14_a_nan_on_one_rank_stops_all_before_the_update_and_its_batch_is_written_down(
    home: Path, inputs: RunStores, point: str, stage: int
) -> None:
    config = chaos_config(home, f"row-14-{point.split()[0]}-{stage}", zero={"stage": stage})
    # a dense part of each phase counts its own backwards: the sixth of the joint phase, step 11
    group = Group(config, inputs, faults=[{"point": point, "rank": 1, "step": 5, "action": "nan"}])
    assert not group.wait()
    kind = {"gradient": "its rows", "dense gradient": "the dense part"}[point]
    for rank in (0, 1):
        said = group.error(rank)
        assert f"not finite (rank 1: gradient of {kind}); nothing was updated" in said, said
    files = sorted((config.run_dir / "not-finite").iterdir())
    assert [path.name[-10:-5] for path in files] == ["00000", "00001"]
    ids = [json.loads(path.read_text()) for path in files]
    assert ids[0]["step"] == ids[1]["step"]
    places = [place for rank in ids for place in rank["main"]["input_id"]]
    assert places == list(range(len(places)))
    assert all(len(rank["main"]["pairs"][0]) == len(rank["main"]["input_id"]) for rank in ids)
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    assert all(torch.isfinite(value).all() for value in content(config.run_dir).values())
    assert found.step == 4


@pytest.mark.parametrize("slow", [0, 1])
def test_row_22_an_abort_right_after_a_save_leaves_the_new_checkpoint(
    home: Path, inputs: RunStores, calm: Path, slow: int
) -> None:
    config = chaos_config(home, f"row-22-{slow}")
    faults = [
        {
            "point": "shard",
            "rank": slow,
            "step": 4,
            "action": "slow",
            "once": f"{config.run_dir}.slow",
        },
        {
            "point": "gradient",
            "rank": 1,
            "step": 4,
            "action": "nan",
            "once": f"{config.run_dir}.nan",
        },
    ]
    assert not Group(config, inputs, faults=faults).wait()
    found = find_checkpoint(config.run_dir / "checkpoints")
    assert found is not None
    assert found.step == 4
    run_to_end(config, inputs, starts=1)
    assert starts_of(config.run_dir) == [0, 4]
    assert_same(config.run_dir, calm)


@pytest.fixture(scope="module")
def warmed(home: Path, inputs: RunStores) -> Any:
    """The config of a run that has ended its warm-up on one rank."""
    config = chaos_config(home, "row-15", checkpoint={"keep_last": 9}, train={"epochs": 1})
    run_ranks(train_rank, 1, config, inputs, "attempt0", ("warmup",))
    return config


def test_row_15_tables_optimizer_queue_and_cursor_move_bit_for_bit(
    inputs: RunStores, warmed: Any
) -> None:
    """From one rank to two, 2→4, 4→3, 3→1, and all the way back."""
    first, cursor = content(warmed.run_dir), newest_cursor(warmed.run_dir)
    for place, world_size in enumerate((1, 2, 4, 3, 1, 3, 4, 2, 1)):
        run_ranks(resave, world_size, warmed, inputs, f"resaved{place}")
        again = content(warmed.run_dir)
        assert again.keys() == first.keys()
        assert [name for name, value in first.items() if not torch.equal(again[name], value)] == []
        assert newest_cursor(warmed.run_dir) == cursor


def newest_cursor(run_dir: Path) -> dict[str, Any]:
    found = find_checkpoint(run_dir / "checkpoints")
    assert found is not None
    assert isinstance(found.info["cursor"], dict)
    return found.info["cursor"]
