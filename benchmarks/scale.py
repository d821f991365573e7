"""How do speed, bytes and memory grow with workers? Measured on this machine's cores, replayed and
modelled beyond.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import numpy as np
import typer

from benchmarks import scale_state
from benchmarks.cluster_model import PLANNED, Network, memory_bytes
from benchmarks.graphs import LARGE, SMALL
from benchmarks.measure import RESULTS, Report, Spread
from benchmarks.scale_batches import add_to_results, measure_batches
from benchmarks.scale_groups import PAIRS, Scale
from benchmarks.scale_plot import draw
from recmind_dist.graph import prepare_rows

FASTER_CORES = 2
"""How much faster than this machine's the cores of a second prediction are: on a faster core the
same network is the slower part."""


def main(
    quick: bool = typer.Option(
        False, help="one graph, fewer steps, under 4 minutes on a quiet machine"
    ),
    project: str = typer.Option("", help="worker counts to predict, say 8,64,512,1024"),
    small: bool = typer.Option(False, help="the graph of 1.5 M edges alone, to try the command"),
    batches: bool = typer.Option(
        False, help="CPU time of a rank's batch alone, into the last run's results"
    ),
    piece: str = typer.Option(
        "",
        help="one part alone: fit, two, replicated, four, batches; then project, which publishes",
    ),
    model: str = typer.Option("lightgcn", help="or recmind, with texts and gates"),
    gbit: float = typer.Option(25.0, help="of the network that predictions assume"),
) -> None:
    """Two layers, [10, 10], D 64, 2,048 pairs a worker; one core a worker; graph placed both ways:
    LightGCN with BPR, or RecMind.
    """
    report = Report("scale" if model == "lightgcn" else f"scale-{model}", quick)
    shapes = [SMALL] if small else [LARGE] if quick or piece else [SMALL, LARGE]
    if batches:
        measure_batches(report, shapes[-1].open(), shapes[-1].name, PAIRS)
        add_to_results(report)
        return
    if model not in ("lightgcn", "recmind"):
        raise typer.BadParameter(f"{model}: give lightgcn or recmind")
    if piece not in ("", *PIECES):
        raise typer.BadParameter(f"{piece}: no piece; there are {', '.join(PIECES)}")
    worlds = [int(p) for p in project.split(",") if p]
    before: Scale | None = None
    for shape in shapes:  # figures are the last one's, but errors of the model, the worst of all
        graph = shape.open()
        prepare_rows(graph.path)
        scale = Scale(report, graph, shape.name, *((8, 3) if quick else (20, 5)), model)
        if before is not None:
            scale.take_errors(before)
        before = scale
        if piece and piece != "fit":
            scale_state.load(scale)
        for name in [piece] if piece else PIECES:
            if name != "project":
                PIECES[name](scale)
            scale_state.save(scale)
    if piece in ("", "project"):
        _finish(scale, worlds, Network(gbit_s=gbit))
        report.publish()


def _fit(scale: Scale) -> None:
    """One worker: its work by the batch, and its losses."""
    with ExitStack() as stack:
        one = scale.group(stack, 1, "replicated")
        scale.fit(one)
        scale.losses(one)


def _two(scale: Scale) -> None:
    """Two workers of a partitioned graph beside one."""
    with ExitStack() as stack:
        one = scale.group(stack, 1, "replicated")
        group = scale.group(stack, 2, "partitioned")
        scale.losses(group)
        _note_speedup(scale, "speedup_2_workers", scale.compare(group, one))
        if not scale.report.quick:
            scale.checkpoint(group)


def _replicated(scale: Scale) -> None:
    """Two workers that map the whole graph each, beside one."""
    with ExitStack() as stack:
        one = scale.group(stack, 1, "replicated")
        group = scale.group(stack, 2, "replicated")
        _note_speedup(scale, "speedup_2_workers_replicated", scale.compare(group, one))


def _note_speedup(scale: Scale, figure: str, speedup: Spread) -> None:
    scale.report.figures[figure] = speedup.median if scale.cores >= 2 else None


def _four(scale: Scale) -> None:
    """Four workers, which share the cores."""
    with ExitStack() as stack:
        one = scale.group(stack, 1, "replicated")
        four = scale.group(stack, 4, "partitioned")
        scale.losses(four)
        scale.compare(four, one)


def _batches(scale: Scale) -> None:
    """How the sampling thread's work grows with ranks."""
    assert scale.model is not None
    growth = measure_batches(scale.report, scale.graph, scale.name, PAIRS)
    scale.model = replace(scale.model, batch_growth=growth)


PIECES: dict[str, Callable[[Scale], None]] = {
    "fit": _fit,
    "two": _two,
    "replicated": _replicated,
    "four": _four,
    "batches": _batches,
    "project": lambda _: None,
}
"""Parts of a run in their order, each of a few minutes."""


def _finish(scale: Scale, worlds: list[int], network: Network) -> None:
    """Figures and predictions of what the pieces measured."""
    report, first = scale.report, np.array(scale.curves[1, "replicated"])
    differences = [
        np.abs(np.array(scale.curves[world, "partitioned"]) - first).max() for world in (2, 4)
    ]
    report.figures |= {
        "partitioned_loss_diff": float(max(differences)),
        "bytes_model_error": max(scale.bytes_errors),
        "time_model_error": max(scale.time_errors),
        "memory_model_error": max(scale.memory_errors),
    }
    if scale.cores < 2:
        report.note(
            "speedup_2_workers is null: two workers had one core between them; its rows say what "
            "was lost to exchanges"
        )
    graph = scale.graph
    report.note(
        f"{scale.name}: {graph.num_users:,} users, {graph.num_items:,} items, "
        f"{graph.num_edges:,} edges; hash partition"
    )
    _notes(report, len(first), scale.cores)
    draw(RESULTS / f"{report.name}.png", scale.drawn, _project(scale, worlds, network))


def _project(scale: Scale, worlds: list[int], network: Network) -> list[dict[str, float]]:
    """The same pairs on each of more workers; efficiency against one worker of the same kind."""
    rows: list[dict[str, float]] = []
    if not worlds:
        return rows
    assert scale.model is not None
    alone_s = scale.model.there(scale.replayed(1, PAIRS, "partitioned"), 1, network)
    scaling = scale.config.scaling.model_copy(update={"wire_dtype": "bfloat16"})
    halved = scale.config.model_copy(update={"scaling": scaling})
    fast = replace(scale.model, gloo=scale.probe("gloo", "bfloat16"))
    # what matters is their ratio: to cores of twice the speed a network is half as wide and twice
    # as far
    narrow = replace(
        network, gbit_s=network.gbit_s / FASTER_CORES, latency_us=network.latency_us * FASTER_CORES
    )
    for world in worlds:
        batch = scale.replayed(world, PAIRS * world, "partitioned")
        in_bf16 = scale.replayed(world, PAIRS * world, "partitioned", halved)
        step_s = scale.model.there(batch, world, network)
        label = f"{scale.name}, {world} workers, predicted"
        scale.report.add(label, "step", "ms", Spread((1e3 * step_s,)))
        for name, what, model, of, wire in (
            ("", "efficiency, pairs each kept", scale.model, batch, network),
            ("_bfloat16", "efficiency, scaling.wire_dtype: bfloat16", fast, in_bf16, network),
            ("_fast_cores", "efficiency, cores twice as fast", scale.model, batch, narrow),
        ):
            share = alone_s / model.there(of, world, wire)
            scale.report.add(label, what, "%", Spread((100 * share,)))
            scale.report.figures[f"efficiency_{world}{name}"] = share
        sent = Spread((sum(batch.sent.values()) / 1e6,))
        scale.report.add(label, "sent a rank and step", "MB", sent)
        _add_memory(scale, world, label)
        rows.append(
            {"workers": world, "step_s": step_s, "efficiency": alone_s / step_s, **batch.sent}
        )
    scale.report.note(
        f"predictions assume {network.gbit_s:g} Gbit/s a worker of which {network.efficiency:g} "
        f"are reached, {network.latency_us:g} us a message, two cores a worker like these, and a "
        "rank's load at the mean of all"
    )
    return rows


def _add_memory(scale: Scale, world: int, label: str) -> None:
    """What a rank would hold, of this graph and of those that are planned."""
    graph = scale.graph
    memory = sum(memory_bytes(graph.num_nodes, graph.num_edges, world, 64).values())
    scale.report.add(label, "table, edges and nodes a rank", "MiB", Spread((memory / 2**20,)))
    for nodes, edges in PLANNED:
        for optimizer in ("adam", "adagrad"):
            need = sum(memory_bytes(nodes, edges, world, 64, optimizer).values())
            what = f"{edges:.0e} edges, {nodes:.0e} nodes, {world} workers"
            name = f"memory a rank for what it holds, {optimizer}"
            scale.report.add(what, name, "GiB", Spread((need / 2**30,)))


def _notes(report: Report, steps: int, cores: int) -> None:
    report.note(
        f"a worker is pinned to one core of {cores}, its sampling thread to the same; four "
        "workers share the cores"
    )
    report.note(
        f"partitioned_loss_diff: largest of {steps} losses at 2 and 4 workers against one worker "
        "with the whole graph"
    )
    report.note(
        "limits of byte rows are the replay's; bytes of dense parameters and losses are reckoned, "
        "not observed"
    )
    report.note(
        "work is fitted on one worker alone, an exchange on two ranks that only exchange; no step "
        "of several is fitted"
    )


if __name__ == "__main__":
    typer.run(main)
