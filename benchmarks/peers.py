"""How soon is Gowalla learnt? Interactions/s, peak memory and time to quality against RecBole's and
PyG's LightGCN.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import typer

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

from benchmarks.contenders.process import ContenderProcess
from benchmarks.environments import CACHE, RECBOLE
from benchmarks.interactions import Interactions, atomic_files, load
from benchmarks.measure import ROOT, Report, interleave
from recmind_dist.errors import RecmindError

RECIPE = ROOT / "configs" / "gowalla-softmax.yaml"
BATCH, LAYERS, DIM = 2048, 3, 64
QUALITIES = (0.15, 0.17, 0.18)
PUBLISHED = ((20, 0.123), (160, 0.166), (320, 0.174), (640, 0.179), (1000, 0.1824))
"""(epoch, Recall@20) of LightGCN's published logs on Gowalla at learning rate 1e-3, batch 2,048."""
BPR = (
    "loss.kind=bpr",
    "loss.regularization=1e-4",
    "table.learning_rate=1e-3",
    "train.batch_of=pairs",
    "train.schedule=constant",
    f"train.batch_size={BATCH}",
    "sampler.propagation=full",
    "sampler.negatives.kind=uniform",
    "sampler.negatives.num=1",
    "sampler.hide_batch_edges=false",
    f"model.embedding_dim={DIM}",
    f"model.num_layers={LAYERS}",
    "sampler.num_neighbors=[-1,-1,-1]",
)


def main(
    quick: bool = typer.Option(False, help="fewer steps and rounds, under 4 minutes"),
    threads: int = typer.Option(2, help="cores and threads of every contender"),
    batches_an_update: int = typer.Option(16, help="for the contender with larger batches"),
    config: Path = typer.Option(RECIPE, help="our recipe for time to quality"),  # noqa: B008
    quality: bool = typer.Option(True, help="measure time to quality as well"),
) -> None:
    """Trains LightGCN, 3 layers, D 64, BPR on batches of 2,048, by all contenders in turn."""
    report, pairs = Report("peers", quick), load()
    if not pairs.is_real:
        report.note(
            "Gowalla is not there (set RECMIND_DATA): a power-law graph of its size stands in, "
            "and no time to quality"
        )
    many = f"recmind, {batches_an_update} batches an update"
    with ExitStack() as stack, tempfile.TemporaryDirectory() as home:
        contenders: dict[str, ContenderProcess] = {
            "recmind": _ours(threads, config, pairs, Path(home) / "one", *BPR),
            many: _ours(
                threads,
                config,
                pairs,
                Path(home) / "many",
                *BPR,
                f"train.batch_size={BATCH * batches_an_update}",
            ),
            "PyG": ContenderProcess("run_pyg.py", threads, pairs.folder, BATCH, LAYERS, DIM),
        }
        try:
            folder, name = atomic_files(pairs)
            words = (threads, folder, name, BATCH, LAYERS, DIM, 1024)
            contenders["RecBole 1.2.1"] = ContenderProcess(
                "run_recbole.py", *words, python=RECBOLE.python()
            )
        except RecmindError as error:
            report.note(f"figures against RecBole are null: {error}")
        for contender in contenders.values():
            stack.enter_context(contender)
        last = _speeds(report, contenders, quick)
        report.figures["batches_an_update"] = batches_an_update
        _figures(report, contenders, last, many)
    if quality and pairs.is_real:
        _time_to_quality(report, threads, config, pairs, last, quick)
    report.publish()


def _speeds(
    report: Report, contenders: dict[str, ContenderProcess], quick: bool
) -> dict[str, dict[str, Any]]:
    """Interactions/s of all contenders in turn. Returns each contender's last answer."""
    counts = {"PyG": 1 if quick else 5, "RecBole 1.2.1": 3 if quick else 15}
    last: dict[str, dict[str, Any]] = {}

    def steps(name: str) -> Callable[[], float]:
        def run() -> float:
            last[name] = contenders[name].ask("steps", count=counts.get(name, 10 if quick else 40))
            return float(last[name]["pairs"] / last[name]["seconds"])

        return run

    found = interleave({name: steps(name) for name in contenders}, rounds=3 if quick else 7)
    for name, spread in found.items():
        report.add(f"BPR, batch {BATCH}, {LAYERS} layers, D {DIM}", name, "interactions/s", spread)
        for other, figure in (("RecBole 1.2.1", "recbole"), ("PyG", "pyg")):
            if name.startswith("recmind") and other in found:
                key = f"speedup_vs_{figure}" + ("" if name == "recmind" else "_many")
                report.figures[key] = spread.over(found[other]).median
    return last


def _figures(
    report: Report,
    contenders: dict[str, ContenderProcess],
    last: dict[str, dict[str, Any]],
    many: str,
) -> None:
    peaks = {name: last[name]["peak_mib"] for name in contenders}
    for name, peak in peaks.items():
        base = contenders[name].ready["base_mib"]
        report.note(
            f"peak memory of {name}: {peak:.0f} MiB, of which {base:.0f} before the first step"
        )
    report.figures.setdefault("speedup_vs_recbole", None)
    report.figures["peak_memory_ratio"] = (
        peaks["recmind"] / peaks["RecBole 1.2.1"] if "RecBole 1.2.1" in peaks else None
    )
    report.figures["sampler_stall"] = last["recmind"]["stall_s"] / last["recmind"]["seconds"]
    report.note(
        f"recmind updates after every {BATCH} pairs, as the peers do; {many} has batches that "
        "many times as large, "
        "so its speed-ups (…_many) are not of the same sequence of updates"
    )


def _time_to_quality(
    report: Report,
    threads: int,
    config: Path,
    pairs: Interactions,
    last: dict[str, dict[str, Any]],
    quick: bool,
) -> None:
    """Seconds of training to each Recall@20 on test with our recipe, and what the peer's pace makes
    of published epochs.
    """
    with (
        tempfile.TemporaryDirectory() as home,
        _ours(threads, config, pairs, Path(home) / "fit") as ours,
    ):
        curve = ours.ask("fit", until=QUALITIES[-1], every=5 if quick else 2)["curve"]
    report.note(
        "recmind's curve as (seconds, epoch, Recall@20): "
        + json.dumps([(round(s, 1), e, round(r, 4)) for s, e, r in curve])
    )
    peer = last.get("RecBole 1.2.1")
    for target in QUALITIES:
        reached = next((seconds for seconds, _, recall in curve if recall >= target), None)
        report.figures[f"seconds_to_{target}"] = reached
        theirs = None
        if peer is not None:
            theirs = (
                published_epochs(target)
                * peer["steps_per_epoch"]
                * peer["seconds"]
                / (peer["pairs"] / BATCH)
            )
            report.figures[f"recbole_seconds_to_{target}_extrapolated"] = theirs
        report.figures[f"time_to_{target}_ratio"] = theirs / reached if theirs and reached else None
    report.note(
        "RecBole's times to quality are not measured but its measured time an epoch × LightGCN's "
        "published epochs: "
        + ", ".join(f"{published_epochs(target):.0f} to {target}" for target in QUALITIES)
    )


def published_epochs(recall: float) -> float:
    """Epochs to a Recall@20: straight lines over log(epoch) between the published points."""
    epochs, recalls = zip(*PUBLISHED, strict=True)
    return float(np.exp(np.interp(recall, recalls, np.log(epochs))))


def _ours(
    threads: int, config: Path, pairs: Interactions, run_dir: Path, *overrides: str
) -> ContenderProcess:
    data = (
        f"dataset.interactions={pairs.folder / 'train.txt'}",
        f"dataset.test={pairs.folder / 'test.txt'}",
    )
    places = (f"run_dir={run_dir}", f"cache_dir={CACHE / 'recmind'}", f"dataset.name={pairs.name}")
    more = (f"scaling.threads_per_worker={threads}", "scaling.num_workers=1")
    return ContenderProcess("run_recmind.py", threads, config, *data, *places, *more, *overrides)


if __name__ == "__main__":
    typer.run(main)
