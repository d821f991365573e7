"""Where does a training step's time go? Milliseconds by region, bytes moved against memory
bandwidth, sampler stall.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import numpy as np
import typer

from benchmarks.contenders.process import ContenderProcess
from benchmarks.environments import CACHE
from benchmarks.interactions import Interactions, load
from benchmarks.measure import ROOT, Report, Spread

SETTINGS = (
    "loss.kind=bpr",
    "train.batch_of=pairs",
    "train.batch_size=2048",
    "train.schedule=constant",
    "sampler.negatives.kind=uniform",
    "sampler.negatives.num=1",
    "model.embedding_dim=64",
    "model.num_layers=3",
    "scaling.threads_per_worker=1",
)
KINDS = {
    "full": ("sampler.propagation=full", "sampler.num_neighbors=[-1,-1,-1]"),
    "sampled": ("sampler.propagation=sampled", "sampler.num_neighbors=[10,5,3]"),
}
ORDER = ("sample", "exchange", "gather", "forward", "backward", "scatter", "update", "queue")


def main(
    quick: bool = typer.Option(False, help="fewer steps, under 4 minutes"),
    workers: int = typer.Option(2, help="the most workers; one core each"),
) -> None:
    """LightGCN, 3 layers, D 64, BPR on batches of 2,048 of Gowalla; sampled and full propagation;
    one and two workers.
    """
    report, pairs = Report("step", quick), load()
    rounds, count = (2, 5) if quick else (5, 20)
    with tempfile.TemporaryDirectory() as home:
        for kind in KINDS:
            for world in sorted({1, workers}):
                _measure(report, pairs, Path(home), kind, world, rounds, count)
    report.figures["step_ms"] = report.figures["step_ms_full_1"]
    report.figures["sampler_stall"] = max(
        v or 0.0 for k, v in report.figures.items() if k.startswith("sampler_stall_")
    )
    report.figures["bandwidth_limit_ratio"] = report.figures["bandwidth_limit_ratio_full_1"]
    report.note(
        "forward and backward hold the exchange and scatter of their row; sample overlaps the "
        "rest in training"
    )
    report.note(
        "the limit counts every gathered row as read from memory, though some are still in a "
        "cache: a ratio below 1 says so; "
        "bandwidth is a numpy triad's on one core; bandwidth_limit_ratio and step_ms are of full "
        "propagation, one worker"
    )
    report.publish()


def _measure(
    report: Report, pairs: Interactions, home: Path, kind: str, world: int, rounds: int, count: int
) -> None:
    label = f"{kind}, {world} worker{'s' if world > 1 else ''}"
    totals, stalls, ratios, bandwidths = [], [], [], []
    regions: dict[str, list[float]] = {name: [] for name in ORDER}
    with ExitStack() as stack:
        children = _start(stack, pairs, home / f"{kind}-{world}", kind, world)
        _all_ask(children, "steps", 3)
        for _ in range(rounds):
            bandwidths.append(triad_gb_s())
            whole = _all_ask(children, "steps", count)
            parts = _all_ask(children, "split", count)
            totals.append(1000 * max(a["seconds"] for a in whole) / count)
            stalls.append(max(a["stall_s"] / a["seconds"] for a in whole))
            limit_ms = max(a["bytes"] for a in parts) / bandwidths[-1] / 1e6
            ratios.append(totals[-1] / limit_ms)
            for name in ORDER:
                regions[name].append(max(a["regions"][name] for a in parts))
    report.add(
        label,
        "whole step",
        "ms",
        Spread(tuple(totals)),
        Spread(tuple(totals)).median / Spread(tuple(ratios)).median,
    )
    for name in ORDER:
        report.add(label, name, "ms", Spread(tuple(regions[name])))
    report.add(label, "triad on one core", "GB/s", Spread(tuple(bandwidths)))
    for figure, values in (
        ("step_ms", totals),
        ("sampler_stall", stalls),
        ("bandwidth_limit_ratio", ratios),
    ):
        report.figures[f"{figure}_{kind}_{world}"] = Spread(tuple(values)).median


def _start(
    stack: ExitStack, pairs: Interactions, home: Path, kind: str, world: int
) -> list[ContenderProcess]:
    home.mkdir()
    words = (
        f"dataset.interactions={pairs.folder / 'train.txt'}",
        f"dataset.test={pairs.folder / 'test.txt'}",
        f"dataset.name={pairs.name}",
        f"cache_dir={CACHE / 'recmind'}",
        f"run_dir={home / 'run'}",
        f"scaling.num_workers={world}",
        *SETTINGS,
        *KINDS[kind],
    )
    config = ROOT / "configs" / "gowalla-softmax.yaml"
    children = [
        ContenderProcess("run_step.py", config, rank, world, home / "store", *words, wait=False)
        for rank in range(world)
    ]
    for child in children:
        stack.enter_context(child)
    for child in children:
        child.wait_ready()
    return children


def _all_ask(children: list[ContenderProcess], do: str, count: int) -> list[dict[str, Any]]:
    """The same order to all ranks at once: they meet in collectives."""
    for child in children:
        child.send(do, count=count)
    return [child.receive() for child in children]


def triad_gb_s(elements: int = 20_000_000) -> float:
    """Bandwidth of a = b + s·c over arrays far larger than caches, one core. Source: STREAM,
    counted as numpy does it.
    """
    b, c = np.ones(elements, np.float32), np.ones(elements, np.float32)
    a = np.empty_like(b)
    np.multiply(c, 2.0, out=a)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        np.multiply(c, 2.0, out=a)  # reads c, writes a
        np.add(a, b, out=a)  # reads a and b, writes a
        best = max(best, 5 * a.nbytes / (time.perf_counter() - start) / 1e9)
    return best


if __name__ == "__main__":
    typer.run(main)
