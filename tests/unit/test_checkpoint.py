"""Saving and reading: any number of ranks to any other, back-pressure, failures of disk and peers,
retention.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recmind_dist.checkpoint import (
    CheckpointSettings,
    attempt_name,
    compare_identity,
    retention,
    saver,
)
from recmind_dist.checkpoint.layout import COMMIT, done_file, rows_file
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.retention import prune
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError
from recmind_dist.storage.lock import moment_lock
from recmind_dist.training.finite_checks import NotFiniteError

NUM_ROWS = 23
DENSE = {"gate.weight": torch.arange(6, dtype=torch.float64).view(2, 3), "step": torch.tensor(7)}


def table(num_rows: int = NUM_ROWS) -> dict[str, Tensor]:
    rows = torch.arange(num_rows)
    return {
        "embedding": torch.sin(rows[:, None] * torch.arange(1, 5)),
        "adam.step": rows.to(torch.int32),
        "text": torch.cos(rows[:, None].float()).to(torch.bfloat16),
    }


def ranges(world_size: int, num_rows: int = NUM_ROWS) -> list[tuple[int, int]]:
    bounds = [num_rows * rank // world_size for rank in range(world_size + 1)]
    return list(itertools.pairwise(bounds))


def savers(directory: Path, world_size: int, **settings: Any) -> list[Checkpointer]:
    return [
        Checkpointer(directory, rank, world_size, span, NUM_ROWS, CheckpointSettings(**settings))
        for rank, span in enumerate(ranges(world_size))
    ]


def save_all(
    ranks: list[Checkpointer], name: str, rows: dict[str, Tensor] | None = None, **info: Any
) -> list[list[str]]:
    rows = table() if rows is None else rows
    for saver_of_rank in ranks:
        first = saver_of_rank.rank == 0
        start, stop = saver_of_rank.row_range
        share = {key: tensor[start:stop] for key, tensor in rows.items()}
        saver_of_rank.save(name, share, DENSE if first else None, info if first else None)
    return [saver_of_rank.wait() for saver_of_rank in ranks]


def test_any_number_of_ranks_reads_what_any_other_saved(tmp_path: Path) -> None:
    whole = table()
    # 2 → 1 → 3 → 4 → 2, each from what the former read
    for step, world_size in enumerate((2, 1, 3, 4, 2)):
        name = attempt_name(step, "abcdefgh")
        read = whole if step == 0 else {}
        if step:
            found = find_checkpoint(tmp_path)
            assert found is not None
            parts = [found.rows(start, stop) for start, stop in ranges(world_size)]
            read = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        assert (
            save_all(savers(tmp_path, world_size), name, read, step=step) == [[name]] * world_size
        )
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.info) == (4, {"step": 4})
    for key, tensor in found.rows(0, NUM_ROWS).items():
        assert tensor.dtype == whole[key].dtype
        assert torch.equal(tensor, whole[key])
    for key, tensor in found.dense().items():
        assert torch.equal(tensor, DENSE[key])


def test_every_range_of_rows(tmp_path: Path) -> None:
    save_all(savers(tmp_path, 4), attempt_name(1, "abcdefgh"))
    found = find_checkpoint(tmp_path)
    assert found is not None
    for start in range(NUM_ROWS + 1):
        for stop in range(start, NUM_ROWS + 1):
            part = found.rows(start, stop)
            assert all(
                torch.equal(part[key], tensor[start:stop]) for key, tensor in table().items()
            )
    with pytest.raises(CheckpointError, match="rows 3 to 24 asked for, the table has 23"):
        found.rows(3, 24)


def test_a_rank_without_rows_takes_part(tmp_path: Path) -> None:
    spans = [(0, NUM_ROWS), (NUM_ROWS, NUM_ROWS)]
    ranks = [
        Checkpointer(tmp_path, r, 2, span, NUM_ROWS, CheckpointSettings())
        for r, span in enumerate(spans)
    ]
    save_all(ranks, attempt_name(1, "abcdefgh"))
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.rows(20, 23)["embedding"], table()["embedding"][20:])


def test_what_training_does_after_save_does_not_reach_the_checkpoint(tmp_path: Path) -> None:
    (one,) = savers(tmp_path, 1)
    rows, info = table(), {"cursor": [1, 2]}
    one.save(attempt_name(1, "abcdefgh"), rows, DENSE, info)
    rows["embedding"].zero_()
    info["cursor"].append(3)
    one.wait()
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.rows(0, NUM_ROWS)["embedding"], table()["embedding"])
    assert found.info == {"cursor": [1, 2]}


def test_a_save_waits_for_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, running = threading.Event(), []
    write_shard = saver.write_shard

    def slow(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        running.append(path.parent.name)
        gate.wait(20)
        return write_shard(path, tensors)

    monkeypatch.setattr(saver, "write_shard", slow)
    (one,) = savers(tmp_path, 1)
    first, second = attempt_name(1, "abcdefgh"), attempt_name(2, "abcdefgh")
    one.save(first, table(), DENSE, {})  # returns though nothing can be written yet
    threading.Timer(0.2, gate.set).start()
    one.save(second, table(), DENSE, {})
    assert (tmp_path / first / COMMIT).is_file()
    assert one.wait() == [first, second]
    assert one.wait() == []
    assert running == [first, first, second, second]


def test_failures_are_counted_then_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (one,) = savers(tmp_path, 1)
    good = attempt_name(1, "abcdefgh")
    save_all([one], good)
    full = fails_with(OSError(28, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(saver, "write_shard", full)
        for step in (2, 3):
            with caplog.at_level(logging.WARNING):
                assert save_all([one], attempt_name(step, "abcdefgh")) == [[]]
            assert f"failure {step - 1} of 3 in a row" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == [good]  # nothing half-written stays
    # and the count starts again
    assert save_all([one], attempt_name(4, "abcdefgh")) == [[attempt_name(4, "abcdefgh")]]
    monkeypatch.setattr(saver, "write_shard", full)
    for step in (5, 6):
        save_all([one], attempt_name(step, "abcdefgh"))
    with pytest.raises(
        CheckpointError, match=r"3 checkpoints in a row could not be saved.*No space left"
    ):
        save_all([one], attempt_name(7, "abcdefgh"))


def fails_with(error: Exception) -> Callable[..., dict[str, Any]]:
    def fail(*_: Any) -> dict[str, Any]:
        raise error

    return fail


def test_a_failed_rank_frees_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = savers(tmp_path, 3)
    write_shard = saver.write_shard

    def second_rank_fails(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        if path.name == rows_file(1):
            raise OSError(28, "No space left on device")
        return write_shard(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(saver, "write_shard", second_rank_fails)
        assert save_all(ranks, attempt_name(1, "abcdefgh")) == [[], [], []]
    assert find_checkpoint(tmp_path) is None
    name = attempt_name(2, "abcdefgh")
    assert save_all(ranks, name) == [[name]] * 3
    # the failed attempt went with the pruning
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_rank_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver, "WAIT_S", 0.3)
    ranks = savers(tmp_path, 4)
    save_all([ranks[0], ranks[2]], attempt_name(1, "abcdefgh"))
    assert "rank 1, 3 has not saved its rows after 0.3 s" in caplog.text
    assert find_checkpoint(tmp_path) is None


def test_closing_after_an_error_does_not_wait_for_lost_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = savers(tmp_path, 2)

    def training_stops() -> None:
        with ranks[1] as second:
            start, stop = second.row_range
            second.save(
                attempt_name(1, "abcdefgh"),
                {k: t[start:stop] for k, t in table().items()},
                None,
                None,
            )
            raise RuntimeError("a loss that is not finite")

    monkeypatch.setattr(saver, "CLOSING_WAIT_S", 0.3)
    with pytest.raises(RuntimeError, match="not finite"):
        training_stops()
    ranks[0].close()


def test_an_abort_right_after_a_save_waits_for_the_shares_of_ranks_that_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, name, gate = savers(tmp_path, 2), attempt_name(1, "abcdefgh"), threading.Event()
    write_shard = saver.write_shard

    def second_is_slow(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        if path.name == rows_file(1):
            gate.wait(60)
        return write_shard(path, tensors)

    def training_stops(one: Checkpointer) -> None:
        lead, (start, stop) = one.rank == 0, one.row_range
        with contextlib.suppress(NotFiniteError), one:
            rows = {key: tensor[start:stop] for key, tensor in table().items()}
            one.save(name, rows, DENSE if lead else None, {} if lead else None)
            raise NotFiniteError("step 2")

    monkeypatch.setattr(saver, "write_shard", second_is_slow)
    threads = [threading.Thread(target=training_stops, args=(one,)) for one in ranks]
    for thread in threads:
        thread.start()
    threads[0].join(0.5)  # rank 0 has aborted, and its share is there
    gate.set()
    for thread in threads:
        thread.join()
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == name
    assert torch.equal(found.rows(0, NUM_ROWS)["embedding"], table()["embedding"])


def test_a_rank_that_gives_up_takes_nothing_out_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1's word is there when it fails; rank 0 commits, if it can, after rank 1 has looked for
    COMMIT.
    """
    ranks, name = savers(tmp_path, 2), attempt_name(1, "abcdefgh")
    write_done, unlink, tried = saver.write_done, Path.unlink, threading.Event()

    def then_fails(path: Path, rank: int, *args: Any) -> None:
        write_done(path, rank, *args)
        if rank == 1:
            raise OSError(5, "Input/output error")

    def commits_meanwhile(path: Path, missing_ok: bool = False) -> None:
        if path.name in (rows_file(1), done_file(1)) and not tried.is_set():
            tried.set()
            start, stop = ranks[0].row_range
            ranks[0].save(
                name, {key: tensor[start:stop] for key, tensor in table().items()}, DENSE, {}
            )
            for _ in range(100):
                if (tmp_path / name / COMMIT).exists():
                    break
                time.sleep(0.01)
        unlink(path, missing_ok)

    monkeypatch.setattr(saver, "write_done", then_fails)
    monkeypatch.setattr(Path, "unlink", commits_meanwhile)
    assert save_all(ranks[1:], name) == [[]]
    ranks[0].wait()
    assert tried.is_set()
    assert (tmp_path / name / COMMIT).exists() <= (tmp_path / name / rows_file(1)).exists()
    assert find_checkpoint(tmp_path) is None


def test_pruning_spares_what_was_committed_while_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = attempt_name(1, "abcdefgh"), attempt_name(2, "ijklmnop")
    (tmp_path / old).mkdir()
    looked = threading.Event()

    def lock_after_looking(path: Path) -> contextlib.AbstractContextManager[None]:
        looked.set()
        return moment_lock(path)

    monkeypatch.setattr(retention, "moment_lock", lock_after_looking)
    with ThreadPoolExecutor(1) as thread:
        with moment_lock(tmp_path / old):  # the last worker of a former start is about to commit
            pruning = thread.submit(prune, tmp_path, new, 1)
            assert looked.wait(60)
            (tmp_path / old / COMMIT).touch()
        assert pruning.exception() is None
    assert (tmp_path / old / COMMIT).exists()


def test_ranks_that_disagree_commit_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver, "WAIT_S", 20)
    settings = CheckpointSettings()
    gap = [
        Checkpointer(tmp_path, r, 2, span, NUM_ROWS, settings)
        for r, span in enumerate([(0, 10), (11, 23)])
    ]
    assert save_all(gap, attempt_name(1, "abcdefgh"))[0] == []
    assert "rank 1 has rows 11 to 23, expected to start at 10" in caplog.text
    ranks = savers(tmp_path, 2)
    name = attempt_name(2, "abcdefgh")
    ranks[1].save(name, {"other": torch.zeros(12, 1)}, None, None)
    assert save_all(ranks[:1], name) == [[]]
    assert "other tensors than rank 0" in caplog.text


def test_an_attempt_name_serves_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = savers(tmp_path, 1)
    name = attempt_name(1, "abcdefgh")
    save_all([one], name)
    assert save_all([one], name) == [[]]
    assert "every start of the workers needs its own attempt name" in caplog.text
    assert find_checkpoint(tmp_path) is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("../evil", {}, {}, {}), "make it with attempt_name"),
        (("step-00000001.abcdefgh", {"e": torch.zeros(5, 2)}, {}, {}), "this rank owns 23 rows"),
        (("step-00000001.abcdefgh", {}, None, {}), "give both"),
        (("step-00000001.abcdefgh", {}, {}, {"loss": float("nan")}), "not plain JSON"),
        (("step-00000001.abcdefgh", {}, {}, {"path": Path()}), "not plain JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(
    tmp_path: Path, arguments: Any, sentence: str
) -> None:
    (one,) = savers(tmp_path, 1)
    with pytest.raises(CheckpointError, match=sentence):
        one.save(*arguments)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    (one,) = savers(tmp_path, 1, keep_last=2)
    for step, score in enumerate([0.1, 0.9, None, 0.7, 0.2, None, 0.3], 1):
        save_all([one], attempt_name(step, "abcdefgh"), score=score)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        attempt_name(s, "abcdefgh") for s in (2, 6, 7)
    ]
    best, last = find_checkpoint(tmp_path, "best"), find_checkpoint(tmp_path)
    assert best is not None
    assert last is not None
    assert (best.step, best.score, last.step) == (2, 0.9, 7)


def test_after_a_rollback_the_newest_commit_is_last_not_the_highest_step(tmp_path: Path) -> None:
    (one,) = savers(tmp_path, 1, keep_last=3)
    for name in (
        attempt_name(100, "abcdefgh"),
        attempt_name(200, "abcdefgh"),
        attempt_name(150, "ijklmnop"),
    ):
        save_all([one], name)
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "step-00000150.ijklmnop"


def test_a_file_system_without_links_commits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", fails_with(PermissionError(1, "Operation not permitted")))
    save_all(savers(tmp_path, 2), attempt_name(1, "abcdefgh"))
    assert find_checkpoint(tmp_path) is not None


def test_differences_of_identity_are_said_line_by_line() -> None:
    saved = {
        "config": {"model": {"dim": 64, "layers": [10, 5]}, "lr": 1},
        "graph": "aa",
        "gone": True,
    }
    current = {
        "config": {"model": {"dim": 32, "layers": (10, 5)}, "lr": 1.0},
        "graph": "bb",
        "new": None,
    }
    assert compare_identity(saved, current) == [
        "config.model.dim: checkpoint 64, now 32",
        "graph: checkpoint 'aa', now 'bb'",
        "gone: checkpoint True, now absent",
        "new: checkpoint absent, now None",
    ]
    assert compare_identity(saved, saved) == []
    assert compare_identity({"a": True}, {"a": 1}) == ["a: checkpoint True, now 1"]
