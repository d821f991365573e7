"""What does a checkpoint cost? Save and load bandwidth against plain files of as many bytes, and
training's stall.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import torch
import typer

from benchmarks.measure import Report, Spread, interleave
from recmind_dist.checkpoint import attempt_name
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.checkpoint.settings import CheckpointSettings
from recmind_dist.embedding.settings import TableSettings
from recmind_dist.embedding.table import ShardedTable

DIM = 64
BLOCK = 16 << 20  # bytes of a plain write or read
INFO = {"score": None}
_SAVES = iter(range(1 << 30))  # no attempt's name is used twice


def main(
    quick: bool = typer.Option(False, help="a smaller table and fewer rounds, under 4 minutes"),
    folder: Path | None = typer.Option(  # noqa: B008 (typer's way)
        None, help="on the disk to be measured; a temporary one by default"
    ),
    every_s: float = typer.Option(60.0, help="seconds of training between saves, for the stall"),
) -> None:
    """Saves and loads a table of D 64 with Adam's state, one rank, files synced to disk on both
    sides.
    """
    torch.set_num_threads(1)
    report = Report("checkpoint", quick)
    rows = 250_000 if quick else 1_000_000
    home = Path(tempfile.mkdtemp(prefix="recmind-checkpoint-", dir=folder))
    try:
        table = _table(rows)
        size = sum(value.nbytes for value in table.rows().values())
        found = interleave(_sides(home, table, size), rounds=3 if quick else 7)
        what = f"{size / 2**20:.0f} MiB"
        for name, spread in found.items():
            limit = found[
                "plain read" if "load" in name or "read" in name else "plain write"
            ].median
            report.add(what, name, "MiB/s", spread, limit)
        report.figures["save_fraction_of_disk"] = (
            found["recmind save"].over(found["plain write"]).median
        )
        report.figures["load_fraction_of_disk"] = (
            found["recmind load, hashed"].over(found["plain read"]).median
        )
        report.figures["load_unhashed_fraction_of_disk"] = (
            found["recmind load"].over(found["plain read"]).median
        )
        report.note(
            "a load verifies sha256 of every file; reads come from the page cache on both sides"
        )
        _stall(report, home, table, every_s, 2 if quick else 5)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    report.publish()


def _table(rows: int) -> ShardedTable:
    table = ShardedTable((0, rows), rows, DIM, TableSettings(), torch.device("cpu"))
    for value in table.rows().values():
        if value.is_floating_point():
            value.normal_()
    return table


def _sides(home: Path, table: ShardedTable, size: int) -> dict[str, Callable[[], float]]:
    saver = _saver(home / "checkpoints", len(table))
    plain = home / "plain"
    block = os.urandom(BLOCK)

    def save() -> float:
        saver.save(attempt_name(next(_SAVES), "0" * 32), table.rows(), {}, INFO)
        assert saver.wait()
        return 0.0

    def load(verify: bool) -> float:
        checkpoint = find_checkpoint(home / "checkpoints", verify=verify)
        assert checkpoint is not None
        table.load_rows(checkpoint.rows(0, len(table)))
        return 0.0

    def write() -> float:
        plain.unlink(missing_ok=True)
        with plain.open("wb") as file:
            for start in range(0, size, BLOCK):
                file.write(block[: min(BLOCK, size - start)])
            file.flush()
            os.fsync(file.fileno())
        return 0.0

    def read() -> float:
        buffer = bytearray(BLOCK)
        with plain.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return 0.0

    works: dict[str, Callable[[], float]] = {
        "plain write": write,
        "recmind save": save,
        "plain read": read,
        "recmind load": lambda: load(False),
        "recmind load, hashed": lambda: load(True),
    }
    return {name: (lambda w=work: size / 2**20 / _seconds(w)) for name, work in works.items()}  # type: ignore[misc]


def _saver(folder: Path, rows: int) -> Checkpointer:
    return Checkpointer(folder, 0, 1, (0, rows), rows, CheckpointSettings(keep_last=1))


def _stall(report: Report, home: Path, table: ShardedTable, every_s: float, rounds: int) -> None:
    """Steps of the table's own update, with a save behind them and without, until the save is on
    disk.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(len(table), generator=generator)[:30_000] for _ in range(4)]
    grad = torch.randn(30_000, DIM)
    saver = _saver(home / "stall", len(table))

    def steps(until: Callable[[], bool]) -> tuple[int, float]:
        done, start = 0, time.perf_counter()
        while not until():
            table.gather(rows[done % len(rows)])
            table.update(rows[done % len(rows)], grad)
            done += 1
        return done, time.perf_counter() - start

    lost, spans, pauses = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        saver.save(attempt_name(next(_SAVES), "0" * 32), table.rows(), {}, INFO)
        pause = time.perf_counter() - start
        saved = threading.Event()
        waiting = threading.Thread(target=lambda event=saved: (saver.wait(), event.set()))
        waiting.start()
        done, seconds = steps(saved.is_set)
        waiting.join()
        end = time.perf_counter() + max(seconds, 0.5)
        free_done, free_seconds = steps(lambda end=end: time.perf_counter() > end)
        slowed = max(0.0, seconds - done * free_seconds / free_done)
        lost.append(pause + slowed)
        spans.append(seconds)
        pauses.append(pause)
    saver.close()
    for name, values in (
        ("lost a save", lost),
        ("of it copying", pauses),
        ("save in the background", spans),
    ):
        report.add("stall", name, "s", Spread(tuple(values)))
    report.figures["stall"] = Spread(tuple(lost)).median / every_s
    report.note(
        f"stall: seconds of training lost to a save over the {every_s:g} s between two saves "
        "(--every-s)"
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
