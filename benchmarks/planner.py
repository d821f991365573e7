"""Does `sampler.propagation: auto` choose well? Its choice against every fixed one, on a small and a large graph."""

import gc
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script too

import torch
import typer

from benchmarks.graphs import LARGE, SMALL, PowerLaw
from benchmarks.measure import Report, Side, interleave
from recmind_dist.parallel import Ranks
from recmind_dist.report import RunDirectory
from recmind_dist.training.plan import Plan, all_plan
from recmind_dist.training.rank_model import Inputs, RankModel
from recmind_dist.training.run_config import RunConfig
from recmind_dist.training.worker import Phase, Worker

MOST = 16  # mini-batches a propagation, at most
FIXED = {
    "sampled": Plan("sampled", 1, "", {}),
    "full, K=1": Plan("full", 1, "", {}),
    f"full, K={MOST}": Plan("full", MOST, "", {}),
}


def main(
    quick: bool = typer.Option(False, help="fewer steps and rounds, under 4 minutes"),
    threads: int = typer.Option(1, help="of torch"),
    large: bool = typer.Option(True, help="the graph of 20 million edges as well; needs 4 GB"),
) -> None:
    """LightGCN, 3 layers, D 64, BPR; batches of 2,048, and of 512 on the large graph; auto may take up to 16 a propagation."""
    torch.set_num_threads(threads)
    report = Report("planner", quick)
    for name, shape, batch in (("small", SMALL, 2048), ("large", LARGE, 512))[: 2 if large else 1]:
        for most in (1, MOST):
            _measure(report, f"{name}_{most}", shape, batch, most, quick)
    ratios = [v for key, v in report.figures.items() if key.startswith("chosen_over_best_") and v is not None]
    report.figures["worst_chosen_over_best"] = max(ratios)
    report.note("chosen_over_best_GRAPH_MOST: seconds a mini-batch by auto's choice over those of the best fixed choice that "
                "sampler.batches_per_propagation = MOST allows; what each learns from a mini-batch is not compared")  # fmt: skip
    report.publish()


def _measure(report: Report, label: str, shape: PowerLaw, batch: int, most: int, quick: bool) -> None:
    config = _config(batch, most)
    inputs = Inputs(shape.open().path.absolute())
    parts = RankModel(config, inputs, Ranks.alone())
    start = time.perf_counter()
    plan = all_plan(config, parts, Ranks.alone())
    report.figures[f"planning_s_{label}"] = time.perf_counter() - start
    del parts
    report.note(f"{label}: auto takes {plan.propagation}, K={plan.batches_per_propagation}: {plan.reason}")
    choices = {key: p for key, p in FIXED.items() if p.batches_per_propagation <= most}
    chosen = plan.propagation if plan.propagation == "sampled" else f"full, K={plan.batches_per_propagation}"
    choices[chosen] = plan
    with tempfile.TemporaryDirectory() as home:
        sides: dict[str, Side] = {
            key: _side(p.applied(config), inputs, Path(home) / str(k), shape is LARGE)
            for k, (key, p) in enumerate(choices.items())
        }
        found = interleave(sides, rounds=(1 if shape is LARGE else 3) if quick else 5)
    for key, spread in found.items():
        report.add(f"{label}, batch {batch}", key + (" (auto)" if key == chosen else ""), "ms a mini-batch", spread)
    best = min(found, key=lambda key: found[key].median)
    report.figures[f"chosen_over_best_{label}"] = found[chosen].over(found[best]).median


def _config(batch: int, most: int) -> RunConfig:
    return RunConfig.model_validate({
        "variant": "lightgcn", "dataset": {"name": "power-law", "interactions": "none.tsv"},
        "sampler": {"propagation": "auto", "num_neighbors": (10, 5, 3), "batches_per_propagation": most,
                    "negatives": {"kind": "uniform"}},
        "model": {"embedding_dim": 64, "num_layers": 3, "use_text": False, "gate": {"enabled": False}},
        "alignment": {"weight": 0.0}, "loss": {"kind": "bpr"}, "train": {"batch_size": batch, "schedule": "constant"},
        "scaling": {"num_workers": 1},
    })  # fmt: skip


def _side(config: RunConfig, inputs: Inputs, run_dir: Path, is_large: bool) -> Side:
    """Milliseconds of a mini-batch: a worker is made for each round and let go, for memory holds one at a time."""

    def run() -> float:
        gc.collect()
        directory = RunDirectory(run_dir)
        directory.create()
        worker = Worker(config, inputs, Ranks.alone(), directory, "benchmark", lambda _: None, "never")
        worker.parts.initialise()
        phase = Phase(worker, "joint")
        prepared = phase.prepared_steps(0, 0)
        served = config.sampler.batches_per_propagation if config.propagates_fully else 1
        warm, count = (1, 1) if is_large and config.propagates_fully else (2, 8 if served == 1 else 2)
        for _ in range(warm):
            phase.step.all_train(next(prepared))
        start = time.perf_counter()
        for _ in range(count):
            phase.step.all_train(next(prepared))
        return 1000 * (time.perf_counter() - start) / count / served

    return run


if __name__ == "__main__":
    typer.run(main)
