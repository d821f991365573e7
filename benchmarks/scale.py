"""How do speed, bytes and memory grow with workers? Measured on this machine's cores, replayed and
modelled beyond.
"""

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import numpy as np
import typer

from benchmarks.cluster_model import PLANNED, Exchange, Model, Network, Work, memory_bytes
from benchmarks.contenders.process import ContenderProcess
from benchmarks.contenders.scale_settings import settings
from benchmarks.graphs import LARGE, SMALL, PowerLaw
from benchmarks.measure import RESULTS, Report, Spread
from benchmarks.scale_batches import add_to_results, measure_batches
from benchmarks.scale_plot import draw
from recmind_dist.distributed.traffic import KINDS
from recmind_dist.graph import Graph, prepare_rows
from recmind_dist.pipeline.replay import Replayed, partitioned, replay, weak
from recmind_dist.run_config.run_config import RunConfig

PAIRS = 2048  # of each worker, where work grows with the workers
# steps before a round: in the first ones the heap still grows, and its page faults are not
# training's
WARM = 12
Answers = list[dict[str, Any]]


class Group:
    """Ranks that train together and wait idle between orders."""

    def __init__(self, stack: ExitStack, graph: Graph, world: int, placement: str) -> None:
        self.world, self.placement = world, placement
        home = stack.enter_context(tempfile.TemporaryDirectory())
        self.children = [
            ContenderProcess("run_scale.py", graph.path, home, rank, world, placement, wait=False)
            for rank in range(world)
        ]
        for child in self.children:
            stack.enter_context(child)
        for child in self.children:
            child.wait_ready()

    def ask(self, do: str, **order: Any) -> Answers:
        """The same order to all ranks at once: they meet in collectives."""
        for child in self.children:
            child.send(do, **order)
        return [child.receive() for child in self.children]

    def begin(self, pairs: int, steps: int) -> None:
        """A fresh run of so many steps with so many pairs in the global batch."""
        self.ask("begin", pairs=pairs, steps=steps)


class Scale:
    """What one call measures, and puts into its report."""

    def __init__(self, report: Report, graph: Graph, name: str, count: int, rounds: int) -> None:
        self.report, self.graph, self.name, self.count, self.rounds = (
            report,
            graph,
            name,
            count,
            rounds,
        )
        self.config = RunConfig.model_validate(settings("run", "partitioned", 2))
        self.cores = len(os.sched_getaffinity(0))
        self.curves: dict[tuple[int, str], list[float]] = {}
        self.bytes_errors: list[float] = []
        self.time_errors: list[float] = []
        self.drawn: dict[str, list[tuple[int, float, float]]] = {"measured": [], "model": []}
        self.model: Model | None = None

    def losses(self, group: Group, steps: int) -> None:
        """The first losses of the same global batches, whoever trains."""
        group.begin(PAIRS, steps)
        warm, answers = group.ask("steps", count=WARM), group.ask("steps", count=steps - WARM)
        self.curves[group.world, group.placement] = warm[0]["losses"] + answers[0]["losses"]
        if group.world > 1:
            self._row(group, PAIRS, [answers], warm)

    def compare(self, group: Group, one: Group | None = None) -> Spread | None:
        """Rounds of several workers and, in turn, of one with as many pairs each. Returns the
        speed-up of each round.
        """
        groups = [group] if one is None else [one, group]
        warm, rounds = {}, {g.world: [] for g in groups}
        for g in groups:
            g.begin(PAIRS * g.world, WARM + self.rounds * self.count)
            warm[g.world] = g.ask("steps", count=WARM)
        for _ in range(self.rounds):
            for g in groups:
                rounds[g.world].append(g.ask("steps", count=self.count))
        for g in groups:
            self._row(g, PAIRS * g.world, rounds[g.world], warm[g.world])
        if one is None:
            return None
        together, alone = (Spread(tuple(map(_rate, rounds[g.world]))) for g in (group, one))
        label = f"{self.name}, {group.world} workers, {group.placement}"
        self.report.add(
            label, "speed-up, pairs each kept", "x", together.over(alone), float(group.world)
        )
        return together.over(alone)

    def checkpoint(self, group: Group) -> None:
        """Seconds of a save and of a restore of the table."""
        answers = group.ask("checkpoint")
        for what in ("save_s", "restore_s"):
            label = f"{self.name}, {group.world} workers"
            self.report.add(
                label, f"checkpoint {what[:-2]}", "s", Spread((max(a[what] for a in answers),))
            )

    def fit(self, one: Group) -> None:
        """Work as a function of the batch, on one worker."""
        points: Answers = []
        for pairs in (PAIRS // 4, PAIRS // 2, PAIRS, 2 * PAIRS):
            count = max(4, self.count // 2)
            one.begin(pairs, WARM + count)
            one.ask("steps", count=WARM)
            points += one.ask("steps", count=count)
        steps = [len(p["losses"]) for p in points]
        edges = [p["edges"] / n for p, n in zip(points, steps, strict=True)]
        nodes = [p["nodes"] / n for p, n in zip(points, steps, strict=True)]
        sample = [p["sample_cpu_s"] / n for p, n in zip(points, steps, strict=True)]
        update = [p["update_cpu_s"] / n for p, n in zip(points, steps, strict=True)]
        whole = [(p["cpu_s"] - p["sample_cpu_s"]) / n for p, n in zip(points, steps, strict=True)]
        train = Work.fit(edges, nodes, [w - u for w, u in zip(whole, update, strict=True)])
        per_row = float(np.median([u / n for u, n in zip(update, nodes, strict=True)]))
        self.model = Model(
            train,
            Work.fit(edges, nodes, sample),
            per_row,
            self._probe("memory"),
            self._probe("gloo"),
            2,
            True,
        )

    def _probe(self, way: str) -> Exchange:
        sent, seconds = [], []
        with ExitStack() as stack:
            home = stack.enter_context(tempfile.TemporaryDirectory())
            words = (self.graph.num_nodes, self.config.model.embedding_dim)
            pair = [
                stack.enter_context(
                    ContenderProcess("run_exchange.py", home, rank, *words, way, wait=False)
                )
                for rank in (0, 1)
            ]
            for child in pair:
                child.wait_ready()
            for rows, count in (
                (64, 5),
                (64, 40),
                *((int(s * self.graph.num_nodes), 9) for s in (0.1, 0.2, 0.4)),
            ):
                for child in pair:
                    child.send("fetch", rows=rows, count=count)
                answers = [child.receive() for child in pair]
                sent.append(answers[0]["sent"])
                seconds.append(max(a["seconds"] for a in answers))
        found = Exchange.fit(sent[1:], seconds[1:], calls=3)  # ids, rows, gradients
        what = f"{self.name}, exchange of two ranks, {way}"
        if found.per_byte_s:
            self.report.add(
                what, "bytes sent by each", "MB/CPU-s", Spread((1e-6 / found.per_byte_s,))
            )
        else:
            self.report.note(f"{what}: more bytes took no longer")
        return found

    def _row(
        self, group: Group, pairs: int, rounds: list[Answers], warm: Answers | None = None
    ) -> None:
        """Figures of a group, beside what replay and model say of it.

        Args:
            warm: steps before the rounds: bytes are those of all steps, since batches are made
            ahead.
        """
        label = f"{self.name}, {group.world} x {pairs // group.world} pairs, {group.placement}"
        steps = len(rounds[0][0]["losses"])
        step_s = Spread(tuple(max(a["seconds"] for a in answers) / steps for answers in rounds))
        self.report.add(label, "samples", "1/s", Spread(tuple(map(_rate, rounds))))
        edges = Spread(
            tuple(
                sum(a["edges"] for a in answers) / max(a["seconds"] for a in answers) / 1e6
                for answers in rounds
            )
        )
        self.report.add(label, "sampled edges", "M/s", edges)
        stall = Spread(
            tuple(100 * max(a["stall_s"] / a["seconds"] for a in answers) for answers in rounds)
        )
        self.report.add(label, "sampler stall", "%", stall)
        self.report.add(
            label, "peak memory a rank", "MiB", Spread((max(a["peak_mib"] for a in rounds[-1]),))
        )
        batch = self.replayed(group.world, pairs, group.placement)
        if group.world > 1:
            whole = [a for answers in (*([warm] if warm else []), *rounds) for a in answers]
            taken = sum(len(a["losses"]) for a in whole)
            measured = {kind: sum(a["sent"][kind] for a in whole) / taken for kind in KINDS}
            for kind in (k for k in KINDS if measured[k]):
                sent = Spread((measured[kind] / 1e3,))
                self.report.add(
                    label, f"{kind} sent a rank and step", "kB", sent, batch.sent[kind] / 1e3
                )
            self.bytes_errors.append(abs(sum(batch.sent.values()) / sum(measured.values()) - 1))
        self._judge_time(group, batch, label, step_s)

    def _judge_time(self, group: Group, batch: Replayed, label: str, step_s: Spread) -> None:
        if self.model is None:
            return
        model = Model(**{**vars(self.model), "partitioned": group.placement == "partitioned"})
        predicted = model.here(batch, group.world, self.cores)
        self.report.add(
            label,
            "step (limit: the model's)",
            "ms",
            Spread(tuple(1e3 * v for v in step_s.values)),
            1e3 * predicted,
        )
        self.time_errors.append(abs(predicted / step_s.median - 1) if group.world > 1 else 0.0)
        if group.placement == "partitioned":
            pairs = batch.pairs * group.world
            self.drawn["measured"].append(
                (group.world, pairs / step_s.median, sum(batch.sent.values()))
            )
            self.drawn["model"].append((group.world, pairs / predicted, sum(batch.sent.values())))

    def replayed(
        self, world: int, pairs: int, placement: str, config: RunConfig | None = None
    ) -> Replayed:
        """Bytes and work of a group's step: all ranks' where they are few."""
        config = partitioned(weak(config or self.config, world, pairs // world), placement)
        few = world <= 4
        context = None if few else np.linspace(0, world - 1, 4).astype(int)
        return replay(config, self.graph, world, context, steps=2 if few else 1)


def _rate(answers: Answers) -> float:
    return float(answers[0]["pairs"] / max(a["seconds"] for a in answers))


def main(
    quick: bool = typer.Option(
        False, help="one graph, fewer steps, under 4 minutes on a quiet machine"
    ),
    project: str = typer.Option("", help="worker counts to predict, say 8,64,512,1024"),
    small: bool = typer.Option(False, help="the graph of 1.5 M edges alone, to try the command"),
    batches: bool = typer.Option(
        False, help="CPU time of a rank's batch alone, into the last run's results"
    ),
    gbit: float = typer.Option(25.0, help="of the network that predictions assume"),
) -> None:
    """LightGCN, 2 layers, [10, 10], D 64, BPR, 2,048 pairs a worker; one core a worker; graph
    placed both ways.
    """
    report = Report("scale", quick)
    shapes = [SMALL] if small else [LARGE] if quick else [SMALL, LARGE]
    if batches:
        measure_batches(report, shapes[-1].open(), shapes[-1].name, PAIRS)
        add_to_results(report)
        return
    for shape in shapes:  # figures are the last one's
        scale = _measure(report, shape, quick)
    assert scale.model is not None
    growth = measure_batches(report, scale.graph, scale.name, PAIRS)
    scale.model = replace(scale.model, batch_growth=growth)
    _notes(report, len(scale.curves[1, "replicated"]), scale.cores)
    predicted = _project(scale, [int(p) for p in project.split(",") if p], Network(gbit_s=gbit))
    draw(RESULTS / "scale.png", scale.drawn, predicted)
    report.publish()


def _measure(report: Report, shape: PowerLaw, quick: bool) -> Scale:
    """One graph on one, two and four workers."""
    graph = shape.open()
    prepare_rows(graph.path)
    scale = Scale(report, graph, shape.name, *((8, 3) if quick else (20, 5)))
    steps = 16 if quick else 50
    with ExitStack() as stack:
        one = Group(stack, graph, 1, "replicated")
        scale.fit(one)
        scale.losses(one, steps)
        with ExitStack() as two:
            group = Group(two, graph, 2, "partitioned")
            scale.losses(group, steps)
            speedup = scale.compare(group, one)
            if not quick:
                scale.checkpoint(group)
        with ExitStack() as two:
            replicated = scale.compare(Group(two, graph, 2, "replicated"), one)
    with ExitStack() as stack:
        four = Group(stack, graph, 4, "partitioned")
        scale.losses(four, steps)
        scale.compare(four)
    first = np.array(scale.curves[1, "replicated"])
    differences = [
        np.abs(np.array(scale.curves[world, "partitioned"]) - first).max() for world in (2, 4)
    ]
    assert speedup is not None
    assert replicated is not None
    apart = scale.cores >= 2
    report.figures |= {
        "speedup_2_workers": speedup.median if apart else None,
        "partitioned_loss_diff": float(max(differences)),
        "bytes_model_error": max(scale.bytes_errors),
        "time_model_error": max(scale.time_errors),
        "speedup_2_workers_replicated": replicated.median if apart else None,
    }
    if not apart:
        report.note(
            "speedup_2_workers is null: two workers had one core between them; its rows say what "
            "was lost to exchanges"
        )
    report.note(
        f"{shape.name}: {graph.num_users:,} users, {graph.num_items:,} items, {graph.num_edges:,} "
        "edges; hash partition"
    )
    return scale


def _project(scale: Scale, worlds: list[int], network: Network) -> list[dict[str, float]]:
    """The same pairs on each of more workers; efficiency against one worker of the same kind."""
    assert scale.model is not None
    alone = scale.model.there(scale.replayed(1, PAIRS, "partitioned"), 1, network)
    rows = []
    for world in worlds:
        batch = scale.replayed(world, PAIRS * world, "partitioned")
        step_s = scale.model.there(batch, world, network)
        memory = sum(memory_bytes(scale.graph.num_nodes, scale.graph.num_edges, world, 64).values())
        label = f"{scale.name}, {world} workers, predicted"
        scale.report.add(label, "step", "ms", Spread((1e3 * step_s,)))
        scale.report.add(label, "efficiency, pairs each kept", "%", Spread((100 * alone / step_s,)))
        scale.report.add(
            label, "sent a rank and step", "MB", Spread((sum(batch.sent.values()) / 1e6,))
        )
        scale.report.add(label, "table, edges and nodes a rank", "MiB", Spread((memory / 2**20,)))
        for nodes, edges in PLANNED:
            for optimizer in ("adam", "adagrad"):
                need = sum(memory_bytes(nodes, edges, world, 64, optimizer).values())
                what = f"{edges:.0e} edges, {nodes:.0e} nodes, {world} workers"
                scale.report.add(
                    what,
                    f"memory a rank for what it holds, {optimizer}",
                    "GiB",
                    Spread((need / 2**30,)),
                )
        rows.append(
            {"workers": world, "step_s": step_s, "efficiency": alone / step_s, **batch.sent}
        )
        scale.report.figures[f"efficiency_{world}"] = alone / step_s
    if worlds:
        scale.report.note(
            f"predictions assume {network.gbit_s:g} Gbit/s a worker of which "
            f"{network.efficiency:g} are reached, "
            f"{network.latency_us:g} us a message, two cores a worker like these, and a rank's "
            "load at the mean of all"
        )
    return rows


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
