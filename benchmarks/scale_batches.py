"""CPU-seconds that a rank spends on a batch of its own, by the number of ranks."""

import json
from pathlib import Path

import numpy as np

from benchmarks.contenders.scale_settings import settings
from benchmarks.measure import RESULTS, Report, Spread, commit, interleave, machine, rounded
from benchmarks.one_rank import batch_seconds, rank_loader
from recmind_dist.graph import Graph
from recmind_dist.kernels.memory import keep_freed_memory
from recmind_dist.pipeline.simulated_traffic import weak_scaling
from recmind_dist.run_config.run_config import RunConfig

WORLDS = (1, 64, 1024)
FIGURE = "batch_cpu_growth_1024"
STEPS, ROUNDS = 8, 9


def measure_batches(report: Report, graph: Graph, name: str, pairs: int) -> float:
    """Rows and figure, which it returns. Rounds take every number of ranks in turn.

    Args:
        name: of the graph.
        pairs: of each rank.
    """
    keep_freed_memory()  # as a trainer does
    for placement in ("replicated", "partitioned"):  # the figure is the last one's
        config = RunConfig.model_validate(settings("run", placement, 1))
        loaders = {
            str(world): rank_loader(weak_scaling(config, world, pairs), graph, world // 2, world)
            for world in WORLDS
        }
        found = interleave(
            {
                world: lambda loader=loader: float(np.median(batch_seconds(loader, STEPS)))
                for world, loader in loaders.items()
            },
            ROUNDS,
        )
        for world, seconds in found.items():
            what = f"{name}, a rank of {world}, {pairs} pairs, {placement}"
            ms = Spread(tuple(1e3 * s for s in seconds.values))
            report.add(what, "CPU time of a batch", "ms", ms)
        growth = found[str(WORLDS[-1])].over(found[str(WORLDS[0])]).median
    report.figures[FIGURE] = growth
    report.note(
        f"{FIGURE}: one rank of {WORLDS[-1]:,} over one alone, partitioned, median of {ROUNDS} "
        "rounds; what a rank sends comes back to it, so that it works for itself as much as it "
        f"would for others (benchmarks/one_rank.py); at {commit()}, load {machine()['load_1min']}"
    )
    return growth


def add_to_results(report: Report, results: Path = RESULTS) -> None:
    """Prints the table, and puts figures, rows and notes into the file of the last whole run, in
    the place of its own of the same names.
    """
    path = results / f"{report.name}.json"
    whole = json.loads(path.read_text())
    new = {(row["what"], row["side"]) for row in report.rows}
    kept = [row for row in whole["rows"] if (row["what"], row["side"]) not in new]
    notes = [note for note in whole["notes"] if not note.startswith(f"{FIGURE}:")]
    whole["figures"] |= rounded(report.figures)
    whole["rows"], whole["notes"] = kept + rounded(report.rows), notes + report.notes
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    report.print()
