"""What all benchmarks share: sides measured in turn, medians with their spread, the machine, the
table, the JSON.

A figure here is a rate or a time of one side in one round. Rounds go A B A B, so that whatever else
the machine does falls on all sides alike; ratios are taken within a round and their median is
reported.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from recmind_dist.report import print_table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
RESULT_FILES = (
    ":!benchmarks/results",
    ":!benchmarks/README.md",
    ":!benchmarks/accuracy.md",
    ":!benchmarks/baselines.md",
    ":!benchmarks/*.png",
)
_PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "torch-geometric",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "deepspeed",
    "ray",
    "recmind-dist",
)

Side = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """What one side gave in all rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest."""
        return max(self.values)

    def over(self, other: "Spread") -> "Spread":
        """Round by round, this divided by the other."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


def interleave(sides: Mapping[str, Side], rounds: int, warm: int = 1) -> dict[str, Spread]:
    """Runs the sides in turn: all of them `warm` times for nothing, then `rounds` times for their
    figures.

    Args:
        sides: name → a function that does the work once and returns its figure.
    """
    for _ in range(warm):
        for side in sides.values():
            side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return {name: Spread(tuple(values)) for name, values in found.items()}


@dataclass
class Report:
    """One run of one benchmark, filled while it goes.

    Attributes:
        name: of the benchmark.
        quick: whether it was cut short.
        figures: what the last line and the JSON hold.
        notes: what a reader must know, a null figure's reason among it.
    """

    name: str
    quick: bool
    figures: dict[str, float | None] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, what: str, side: str, unit: str, spread: Spread, limit: float | None = None
    ) -> None:
        """A row of the table. Args: limit: what the machine could do at best, in the same unit."""
        row = {
            "what": what,
            "side": side,
            "unit": unit,
            "median": spread.median,
            "low": spread.low,
            "high": spread.high,
        }
        self.rows.append({**row, "limit": limit, "rounds": len(spread.values)})

    def note(self, sentence: str) -> None:
        """Something to be said beside the figures."""
        self.notes.append(sentence)

    def publish(self, results: Path = RESULTS) -> dict[str, Any]:
        """Prints the table, writes `<results>/<name>.json`, prints the one-line JSON object last
        and returns it.
        """
        last = {
            "benchmark": self.name,
            "commit": commit(),
            "machine": machine(),
            "figures": rounded(self.figures),
        }
        whole = {
            **last,
            "quick": self.quick,
            "versions": versions(),
            "rows": rounded(self.rows),
            "notes": self.notes,
        }
        results.mkdir(parents=True, exist_ok=True)
        path = results / f"{self.name}.json"
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        self.print()
        print(", ".join(f"{name} {number}" for name, number in versions().items()))
        print(json.dumps(last, ensure_ascii=False, allow_nan=False), flush=True)
        return whole

    def print(self) -> None:
        """Prints table and notes."""
        print_table(self._table())
        for sentence in self.notes:
            print(f"note: {sentence}")

    def _table(self) -> Table:
        table = Table(
            box=box.SIMPLE, title=f"{self.name}: {machine()['cpu']}", title_justify="left"
        )
        for column in ("what", "side"):
            table.add_column(column)
        for column in ("median", "least", "greatest", "limit"):
            table.add_column(column, justify="right")
        table.add_column("unit")
        for row in self.rows:
            limit = "" if row["limit"] is None else f"{row['limit']:.4g}"
            numbers = (f"{row[key]:.4g}" for key in ("median", "low", "high"))
            table.add_row(row["what"], row["side"], *numbers, limit, row["unit"])
        return table


def commit() -> str | None:
    """The checkout's commit, with a plus where files other than results differ from it. Outside a
    checkout what RECMIND_BENCH_COMMIT says, else None.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + (
            "+"
            if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *RESULT_FILES)
            else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("RECMIND_BENCH_COMMIT")


def machine() -> dict[str, Any]:
    """Processor, cores of this process, memory in GiB, system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of the packages that decide the figures."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def rounded(value: Any) -> Any:
    """The same with floats of five digits, so that files can be compared by eye."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
