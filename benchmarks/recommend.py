"""How fast is the base install? Users/s of the batch command against matmul + top-k on the same
vectors, seconds to import and to a first recommendation, memory by users, scores against torch's.

    python benchmarks/recommend.py --quick              # under 4 minutes
    python benchmarks/recommend.py --run runs/shop      # compares the scores of a run of yours

Users and items of Amazon-Beauty with random vectors of RecMind's widths: speed does not depend on
what they say. Commands are processes of their own, as users start them.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import typer

from benchmarks.measure import RESULTS, ROOT, Report, Spread, interleave
from benchmarks.random_bundle import RandomBundle
from benchmarks.recommend_scores import max_score_diff, small_run
from recmind_dist.errors import RecmindError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.types import FloatArray, IntArray

NUM_USERS, NUM_ITEMS, K = 22_363, 12_101, 20
BLOCKS = (128, 512)
"""Users at a time: the limit is the fastest of these, by numpy or by torch."""
IMPORT = (
    "import time; start = time.perf_counter(); import recmind_dist.recommend.recommender; "
    "print(time.perf_counter() - start)"
)

MEMORY = (
    "import sys; from recmind_dist.cli import main; main(sys.argv[1:]); "
    "print(open('/proc/self/status').read())"
)


def main(
    quick: Annotated[bool, typer.Option(help="fewer rounds, under 4 minutes")] = False,
    run: Annotated[Path | None, typer.Option(help="a finished run, whose scores to check")] = None,
    threads: Annotated[int, typer.Option(help="of numpy and torch, the same for all")] = 1,
    results: Annotated[Path, typer.Option(help="folder of recommend.json")] = RESULTS,
) -> None:
    """Ranks by random bundles, and compares a run's bundle with its model."""
    report, rounds = Report("recommend", quick), 3 if quick else 7
    with tempfile.TemporaryDirectory() as home:
        commands = Commands(Path(home), threads)
        try:
            _speed(report, commands, rounds)
            _starts(report, commands, 5 if quick else 15)
            _memory(report, commands)
            _scores(report, run, Path(home), quick)
        except RecmindError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error
    report.note(f"{threads} threads; processes start from bytecode, with their files in the cache")
    report.publish(results)


class Commands:
    """Processes of the base install, on bundles of a home directory."""

    def __init__(self, home: Path, threads: int) -> None:
        self.home, self.threads = home, threads
        self.bundle = RandomBundle(NUM_USERS, NUM_ITEMS).write(home / "bundle")
        self._environment = {
            **{name: word for name, word in os.environ.items() if "DONTWRITE" not in name},
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        }

    def recommend_s(self, *words: str) -> float:
        """Seconds from the start of `recmind recommend` to its end."""
        start = time.perf_counter()
        self._run("-m", "recmind_dist.cli", "recommend", str(self.bundle), *words)
        return time.perf_counter() - start

    def batch_s(self) -> float:
        """The same of all users, top 20, into a file."""
        return self.recommend_s("--k", str(K), "--out", str(self.home / "recs.parquet"))

    def batch_peak_mib(self, bundle: Path) -> float:
        """Peak memory of all users' top 20, of a process in MiB."""
        words = ["recommend", str(bundle), "--k", str(K), "--out", str(self.home / "recs.parquet")]
        lines = self._run("-c", MEMORY, *words).splitlines()
        [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(peak) / 1024

    def import_s(self) -> float:
        """Seconds to import the reader in a new process."""
        return float(self._run("-c", IMPORT))

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RecmindError(f"a command ended with code {done.returncode}: {done.stderr[-500:]}")
        return done.stdout


def _speed(report: Report, commands: Commands, rounds: int) -> None:
    import torch

    torch.set_num_threads(commands.threads)
    bundle = Bundle.open(commands.bundle)
    items, users = bundle.item_vectors, bundle.users.vectors(np.arange(NUM_USERS))

    def limit(top: Callable[[FloatArray, FloatArray, int], object], block: int) -> float:
        start = time.perf_counter()
        for first in range(0, NUM_USERS, block):
            top(users[first : first + block], items, K)
        return NUM_USERS / (time.perf_counter() - start)

    limits = {
        f"matmul + top-k, {name}, {block} x {NUM_ITEMS}": (
            lambda top=top, block=block: limit(top, block)
        )
        for name, top in (("numpy", top_by_numpy), ("torch", top_by_torch))
        for block in BLOCKS
    }
    ours = "recmind recommend --out, whole process"
    sides = {ours: lambda: NUM_USERS / commands.batch_s(), **limits}
    found = interleave(sides, rounds)
    best = max((found[name] for name in limits), key=lambda spread: spread.median)
    what = f"{NUM_USERS} users, {NUM_ITEMS} items, {items.shape[1]} columns, top {K}"
    for name, spread in found.items():
        report.add(what, name, "users/s", spread, best.median)
    report.figures["users_per_s"] = found[ours].median
    report.figures["fraction_of_limit"] = found[ours].over(best).median


def top_by_numpy(users: FloatArray, items: FloatArray, k: int) -> IntArray:
    """Columns of the k best, in order. Shape: [u, k]."""
    scores = users @ items.T
    columns = np.argpartition(scores, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(scores, columns, 1), axis=1)
    best: IntArray = np.take_along_axis(columns, order, 1)
    return best


def top_by_torch(users: FloatArray, items: FloatArray, k: int) -> IntArray:
    """As `top_by_numpy`."""
    import torch

    scores = torch.from_numpy(users) @ torch.from_numpy(items).T
    best: IntArray = scores.topk(k, dim=1).indices.numpy()
    return best


def _starts(report: Report, commands: Commands, rounds: int) -> None:
    sides = {
        "import of the reader": commands.import_s,
        "recmind recommend --user": lambda: commands.recommend_s("--user", "u17"),
        "recmind recommend --history --json": lambda: commands.recommend_s(
            "--history", "i3,i14,i15", "--json"
        ),
    }
    found = interleave(sides, rounds)
    for name, spread in found.items():
        report.add("a new process", name, "s", spread)
    report.figures["import_s"] = found["import of the reader"].median
    report.figures["first_recommend_s"] = found["recmind recommend --user"].median
    report.figures["first_fold_in_s"] = found["recmind recommend --history --json"].median


def _memory(report: Report, commands: Commands) -> None:
    larger = RandomBundle(4 * NUM_USERS, NUM_ITEMS).write(commands.home / "larger")
    for name, bundle in (("1", commands.bundle), ("4", larger)):
        peak = commands.batch_peak_mib(bundle)
        report.add("recmind recommend --out", f"{name} x users", "MiB", Spread((peak,)))
        report.figures[f"peak_mib_{name}x_users"] = peak


def _scores(report: Report, run: Path | None, home: Path, quick: bool) -> None:
    name, run = ("a small run", small_run(home, quick)) if run is None else (run.name, run)
    found = max_score_diff(run, home / "exported")
    report.add(f"{name}, {found.what}", "bundle - torch", "score", Spread((found.difference,)))
    report.figures["max_score_diff"] = found.difference
    report.figures["largest_score"] = found.largest


if __name__ == "__main__":
    typer.run(main)
