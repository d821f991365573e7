"""Groups of ranks that benchmarks/scale.py measures, beside what the model says of them."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cluster_model import Exchange, Model, Work, memory_bytes
from benchmarks.contenders.process import ContenderProcess
from benchmarks.contenders.scale_settings import settings
from benchmarks.measure import Report, Spread
from benchmarks.scale_texts import DIM as TEXT_DIM
from benchmarks.scale_texts import texts_of
from recmind_dist.distributed.shared_memory import BOX_SPARE
from recmind_dist.distributed.traffic import KINDS
from recmind_dist.graph import Graph
from recmind_dist.pipeline.simulated_traffic import (
    StepTraffic,
    simulate_traffic,
    weak_scaling,
    with_placement,
)
from recmind_dist.run_config.run_config import RunConfig

PAIRS = 2048  # of each worker, where work grows with the workers
# steps before a round: in the first ones the heap still grows, and its page faults are not
# training's
WARM = 12
Answers = list[dict[str, Any]]


class Group:
    """Ranks that train together and wait idle between orders."""

    def __init__(
        self,
        stack: ExitStack,
        graph: Graph,
        world: int,
        placement: str,
        texts: Path | None = None,
    ) -> None:
        self.world, self.placement = world, placement
        home = stack.enter_context(tempfile.TemporaryDirectory())
        self.children = [
            ContenderProcess(
                "run_scale.py",
                graph.path,
                texts or "none",
                home,
                rank,
                world,
                placement,
                wait=False,
            )
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
    """What one call measures, and puts into its report.

    Args:
        kind: "lightgcn" or "recmind".
    """

    def __init__(
        self, report: Report, graph: Graph, name: str, count: int, rounds: int, kind: str
    ) -> None:
        self.kind, self.texts = kind, None
        if kind == "recmind":
            self.texts = texts_of(graph, name)
            name = f"{name}, RecMind"
        self.report, self.graph, self.name, self.count, self.rounds = (
            report,
            graph,
            name,
            count,
            rounds,
        )
        self.config = RunConfig.model_validate(settings("run", "partitioned", 2, kind))
        self.cores = len(os.sched_getaffinity(0))
        self.curves: dict[tuple[int, str], list[float]] = {}
        self.bytes_errors: list[float] = []
        self.time_errors: list[float] = []
        self.memory_errors: list[float] = []
        self.step_mib: Work | None = None
        self.steps = 16 if report.quick else 50
        self.drawn: dict[str, list[tuple[int, float, float]]] = {"measured": [], "model": []}
        self.model: Model | None = None

    def take_errors(self, before: "Scale") -> None:
        """Goes on with the lists of another graph: the worst of all is said."""
        self.bytes_errors, self.time_errors = before.bytes_errors, before.time_errors
        self.memory_errors = before.memory_errors

    def group(self, stack: ExitStack, world: int, placement: str) -> Group:
        """Ranks that wait for orders until the stack ends."""
        return Group(stack, self.graph, world, placement, self.texts)

    def losses(self, group: Group) -> None:
        """The first losses of the same global batches, whoever trains."""
        group.begin(PAIRS, self.steps)
        warm = group.ask("steps", count=WARM)
        answers = group.ask("steps", count=self.steps - WARM)
        self.curves[group.world, group.placement] = warm[0]["losses"] + answers[0]["losses"]
        if group.world > 1:
            self._row(group, PAIRS, [answers], warm)

    def compare(self, group: Group, one: Group) -> Spread:
        """Rounds of several workers and, in turn, of one with as many pairs each. Returns the
        speed-up of each round.
        """
        groups = [one, group]
        warm, rounds = {}, {g.world: [] for g in groups}
        for g in groups:
            g.begin(PAIRS * g.world, WARM + self.rounds * self.count)
            warm[g.world] = g.ask("steps", count=WARM)
        for _ in range(self.rounds):
            for g in groups:
                rounds[g.world].append(g.ask("steps", count=self.count))
        self._row(one, PAIRS, rounds[1], warm[1])
        self._row(group, PAIRS * group.world, rounds[group.world], warm[group.world])
        self._judge_time(group, rounds[group.world], rounds[1])
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
            self.probe("memory"),
            self.probe("gloo"),
            2,
            True,
            hides=self.config.sampler.hide_batch_edges,
            gates=self.texts is not None,
        )
        held = self._held_mib(1, "replicated")
        beside = [p["peak_mib"] - held for p in points]  # sizes ascend, and so do peaks
        self.step_mib = Work.fit(edges, nodes, beside)

    def _held_mib(self, world: int, placement: str) -> float:
        """What a rank holds beside its steps and the process itself."""
        graph, dim = self.graph, self.config.model.embedding_dim
        text_dim = 0 if self.texts is None else TEXT_DIM
        parts = memory_bytes(graph.num_nodes, graph.num_edges, world, dim, text_dim=text_dim)
        if placement == "replicated":
            parts["edges"] *= world
        return sum(parts.values()) / 2**20

    def probe(self, way: str, dtype: str = "float32") -> Exchange:
        """What exchanging rows costs two ranks that do nothing else.

        Args:
            way: "memory" or "gloo".
            dtype: of rows on their way.
        """
        sent, seconds = [], []
        with ExitStack() as stack:
            home = stack.enter_context(tempfile.TemporaryDirectory())
            words = (self.graph.num_nodes, self.config.model.embedding_dim)
            pair = [
                stack.enter_context(
                    ContenderProcess("run_exchange.py", home, rank, *words, way, dtype, wait=False)
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
        # ids, rows, gradients
        found = Exchange.fit(sent[1:], seconds[1:], calls=3)
        what = f"{self.name}, exchange of two ranks, {way}, {dtype}"
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
        batch = self.replayed(group.world, pairs, group.placement)
        peak = max(a["peak_mib"] for a in rounds[-1])
        predicted = None
        if self.step_mib is not None:
            held = self._held_mib(group.world, group.placement)
            predicted = held + self.step_mib.seconds(batch)
            if group.world > 1:
                predicted += exchange_mib(batch, self.config.model.embedding_dim)
            if group.world > 1:
                self.memory_errors.append(abs(predicted / peak - 1))
        self.report.add(label, "peak memory a rank", "MiB", Spread((peak,)), predicted)
        if group.world > 1:
            whole = [a for answers in (*([warm] if warm else []), *rounds) for a in answers]
            taken = sum(len(a["losses"]) for a in whole)
            batch.sent["dense"] += whole[0]["dense_sent"]
            measured = {kind: sum(a["sent"][kind] for a in whole) / taken for kind in KINDS}
            for kind in (k for k in KINDS if measured[k]):
                sent = Spread((measured[kind] / 1e3,))
                self.report.add(
                    label, f"{kind} sent a rank and step", "kB", sent, batch.sent[kind] / 1e3
                )
            self.bytes_errors.append(abs(sum(batch.sent.values()) / sum(measured.values()) - 1))

    def _judge_time(self, group: Group, rounds: list[Answers], of_one: list[Answers]) -> None:
        """Steps of a group beside the model's.

        This machine's speed changes by a third within minutes. So the model's seconds are scaled by
        what one worker's steps took in the same rounds over what it says of them.
        """
        if self.model is None:
            return
        pairs = PAIRS * group.world
        label = f"{self.name}, {group.world} x {PAIRS} pairs, {group.placement}"
        batch = self.replayed(group.world, pairs, group.placement)
        model = Model(**{**vars(self.model), "partitioned": group.placement == "partitioned"})
        alone = model.here(self.replayed(1, PAIRS, "replicated"), 1, self.cores)
        step_s, one_s = _step_seconds(rounds), _step_seconds(of_one)
        speed = one_s.median / alone
        self.report.add(label, "one worker's step over the model's", "x", Spread((speed,)))
        predicted = speed * model.here(batch, group.world, self.cores)
        self.report.add(
            label,
            "step (limit: the model's)",
            "ms",
            Spread(tuple(1e3 * v for v in step_s.values)),
            1e3 * predicted,
        )
        self.time_errors.append(abs(predicted / step_s.median - 1))
        if group.placement == "partitioned":
            pairs = batch.pairs * group.world
            self.drawn["measured"].append(
                (group.world, pairs / step_s.median, sum(batch.sent.values()))
            )
            self.drawn["model"].append((group.world, pairs / predicted, sum(batch.sent.values())))

    def replayed(
        self, world: int, pairs: int, placement: str, config: RunConfig | None = None
    ) -> StepTraffic:
        """Bytes and work of a group's step: all ranks' where they are few."""
        config = with_placement(
            weak_scaling(config or self.config, world, pairs // world), placement
        )
        few = world <= 4
        context = None if few else np.linspace(0, world - 1, 4).astype(int)
        steps, text_dim = 2 if few else 1, 0 if self.texts is None else TEXT_DIM
        return simulate_traffic(config, self.graph, world, context, steps=steps, text_dim=text_dim)


def exchange_mib(batch: StepTraffic, dim: int) -> float:
    """What ranks of one machine hold beside what one alone would: of the largest exchange, that of
    the gradients, two boxes that a rank writes, and what it reads in two boxes of each other rank,
    each with room to spare; and the sums of what arrives, for the rows that it owns.
    """
    return (4 * BOX_SPARE * batch.sent["gradients"] + 4 * dim * batch.owned) / 2**20


def _step_seconds(rounds: list[Answers]) -> Spread:
    steps = len(rounds[0][0]["losses"])
    return Spread(tuple(max(a["seconds"] for a in answers) / steps for answers in rounds))


def _rate(answers: Answers) -> float:
    return float(answers[0]["pairs"] / max(a["seconds"] for a in answers))
