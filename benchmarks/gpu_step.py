"""What does a training step cost on a GPU, and what of it do kernels cost? Beside PyG's LightGCN
and a step of plain torch.

LightGCN, 3 layers, D 64, BPR: Gowalla in batches of 2,048, and a graph of 20 M edges in batches of
16,384; full propagation, and sampled [10, 5, 3]. In one process, without Ray.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import torch
import typer
from torch import Tensor

from benchmarks.gpu_peers import one_hop_ms, plain_torch_step, pyg_step
from benchmarks.graphs import LARGE, SMALL
from benchmarks.measure import ROOT, Report, Spread
from benchmarks.step import KINDS, SETTINGS
from benchmarks.timed_training import Reached, TimedTrainer
from recmind_dist.graph import Graph
from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.training.cuda.side_stream import SideStream, make_stream
from recmind_dist.training.phase import Phase
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.step_input import StepInput

DIM, LAYERS = 64, 3
QUALITY = 0.18  # Recall@20 on Gowalla's test
_ALONE = ("train.epochs=100", "train.log_every_steps=100", "scaling.threads_per_worker=2")


@dataclass(frozen=True)
class Cost:
    """Of a step: milliseconds, share of them that the training stream stood still before it,
    milliseconds and number of kernels, and of copies between host and device; milliseconds of a
    batch that is made while nothing is trained.
    """

    ms: Spread
    stall: float
    kernel_ms: float
    kernels: float
    copies: float
    batch_ms: float

    @property
    def busy(self) -> float:
        """Share of a step in which a kernel runs, at most."""
        return self.kernel_ms / self.ms.median


def main(
    graph: Annotated[Path, typer.Option(help="prepared graph of Gowalla: cache/graphs/<key>")],
    device: str = typer.Option("cuda"),
    quick: bool = typer.Option(False, help="fewer steps, and a small graph in place of the large"),
    parts: str = typer.Option("gowalla,peers,quality,large", help="what to measure"),
    output: Annotated[Path | None, typer.Option(help="folder for the JSON")] = None,
) -> None:
    """Publishes results/cuda-step.json."""
    report, there = Report("cuda-step", quick), torch.device(device)
    if "gowalla" in parts:
        _gowalla(report, graph, there, quick)
    if "peers" in parts:
        _peers(report, graph, there, 3 if quick else 30)
    if "quality" in parts:
        _quality(report, graph, there, quick)
    if "large" in parts:
        _large(report, there, quick)
    card = torch.cuda.get_device_name(there) if there.type == "cuda" else "none: on the CPU"
    report.figures["card"] = card
    report.note(f"device: {card}; batches are made on a stream of their own")
    report.publish(output) if output else report.publish()


def _gowalla(report: Report, graph: Path, device: torch.device, quick: bool) -> None:
    rounds, count = (2, 3) if quick else (5, 100)
    for kind in KINDS:
        cost = measure(graph, device, kind, 2048, rounds, count)
        tell(report, f"Gowalla, {kind}", cost, 2048)
        report.figures |= {f"{kind}_step_ms": cost.ms.median, f"{kind}_kernels_busy": cost.busy}
        report.figures[f"{kind}_stall"] = cost.stall
        report.figures[f"{kind}_batch_ms"] = cost.batch_ms
    report.figures["sampler_stall"] = report.figures["sampled_stall"]
    report.figures["kernels_busy"] = report.figures["full_kernels_busy"]


def _peers(report: Report, path: Path, device: torch.device, count: int) -> None:
    graph = Graph.open(path)
    for label, form in (("edge_index", False), ("CSR", True)):
        ms = Spread(tuple(timed(pyg_step(graph, device, form, DIM, LAYERS), count)))
        report.add(f"PyG LightGCN, {label}", "whole step", "ms", ms)
        report.figures[f"pyg_{'csr' if form else 'coo'}_ms"] = ms.median
    plain = Spread(tuple(timed(plain_torch_step(graph, device, DIM, LAYERS), count)))
    report.add("plain torch, CSR, Adam over all rows", "whole step", "ms", plain)
    report.figures["plain_torch_ms"] = plain.median
    if "full_step_ms" in report.figures:
        ratio = report.figures["pyg_csr_ms"] / report.figures["full_step_ms"]
        report.figures["full_vs_pyg_csr"] = ratio


def _quality(report: Report, graph: Path, device: torch.device, quick: bool) -> None:
    """Seconds of training to Recall@20 on test, by the recipe that is soonest good."""
    with tempfile.TemporaryDirectory() as home:
        worker = trainer(graph, device, [f"run_dir={home}/run"], until=QUALITY, every=2)
        with suppress(Reached):
            worker.train(("joint",))
    curve = worker.curve[:1] if quick else worker.curve
    reached = next((seconds for seconds, _, recall in curve if recall >= QUALITY), None)
    report.figures[f"seconds_to_{QUALITY}"] = reached
    told = [(round(seconds, 2), epoch, round(recall, 4)) for seconds, epoch, recall in curve]
    report.note(f"(seconds, epoch, Recall@20): {told}")


def _large(report: Report, device: torch.device, quick: bool) -> None:
    made = SMALL if quick else LARGE
    path = made.open().path
    for kind in KINDS:
        cost = measure(path, device, kind, 16_384, 2, 3 if quick else 20)
        tell(report, f"{made.name}, {kind}", cost, 16_384)
        report.figures[f"large_{kind}_ms"] = cost.ms.median
        report.figures[f"large_{kind}_stall"] = cost.stall
    rate = 1000 * 16_384 / report.figures["large_sampled_ms"]
    report.figures["large_interactions_per_s"] = rate
    ms, bytes_ms = one_hop_ms(Graph.open(path), device, DIM)
    report.figures |= {"large_hop_ms": ms, "large_hop_over_bytes": ms / bytes_ms}


def tell(report: Report, label: str, cost: Cost, batch: int) -> None:
    """Adds the rows of one kind of step."""
    report.add(label, "whole step", "ms", cost.ms)
    rates = Spread(tuple(1000 * batch / ms for ms in cost.ms.values))
    report.add(label, "interactions", "1/s", rates)
    for name, unit, value in (
        ("waiting for a batch", "%", 100 * cost.stall),
        ("kernels", "ms", cost.kernel_ms),
        ("kernels", "a step", cost.kernels),
        ("copies", "a step", cost.copies),
        ("a batch by itself", "ms", cost.batch_ms),
    ):
        report.add(label, name, unit, Spread((value,)))


def measure(
    graph: Path, device: torch.device, kind: str, batch: int, rounds: int, count: int
) -> Cost:
    """Steps as training has them."""
    with tempfile.TemporaryDirectory() as home, steps_of(graph, device, kind, batch, home) as turn:
        turn(3, False, True)
        kernel_ms, kernels, copies = _profile(turn, device, max(count // 5, 2))
        turn(max(count // 2, 10), True, True)
        taken = [turn(count, True, True) for _ in range(rounds)]
        turn(count, True, False)
        batches = [turn(count, True, False)[0] for _ in range(rounds)]
    ms = Spread(tuple(1000 * seconds / count for seconds, _ in taken))
    # a mean would count a round that meets a batch of another shape and compiles its kernels
    stall = median(stalled / seconds for seconds, stalled in taken)
    return Cost(ms, stall, kernel_ms, kernels, copies, 1000 * median(batches) / count)


Turn = Callable[[int, bool, bool], tuple[float, float]]


@contextmanager
def steps_of(graph: Path, device: torch.device, kind: str, batch: int, home: str) -> Iterator[Turn]:
    """Seconds of so many steps, and of them those in which the trainer waited. It takes how many,
    whether a CUDA graph may replay them, and whether they are trained or only their inputs made.
    """
    words = [*SETTINGS, *KINDS[kind], *_ALONE, f"train.batch_size={batch}", f"run_dir={home}/run"]
    worker = trainer(graph, device, words, until=1.0, every=1)
    worker.shard.initialise()
    phase = Phase(worker.config, worker.shard, worker.exchange, "joint", 0)
    every = (step for epoch in range(1 << 20) for step in phase.step_inputs(epoch, 0))
    beside = SideStream[StepInput](make_stream(device), phase.num_buffers)
    batches = Prefetcher(beside.make(every), phase.batches_ahead)
    prepared = beside.take(batches)

    replays_some = phase.step.find_gradients

    def stall_s() -> float:
        return beside.stall_s if device.type == "cuda" else batches.stall_s

    def turn(count: int, replays: bool, trains: bool) -> tuple[float, float]:
        phase.step.find_gradients = replays_some if replays else phase.step.run_gradients
        if phase.captured_inputs is not None:
            phase.captured_inputs.replays = replays and device.type == "cuda"
        wait(device)
        stalled, start = stall_s(), time.perf_counter()
        for _ in range(count):
            step = next(prepared)
            if trains:
                phase.step.run(step)
        wait(device)
        return time.perf_counter() - start, stall_s() - stalled

    try:
        yield turn
    finally:
        batches.close()
        phase.engine.close()


def trainer(
    graph: Path, device: torch.device, words: list[str], until: float, every: int
) -> TimedTrainer:
    """One rank by itself, see `TimedTrainer`."""
    config = load_run_config(
        ROOT / "configs" / "gowalla-softmax.yaml", [*words, f"scaling.device={device.type}"]
    ).absolute()
    run = RunDirectory(config.run_dir)
    run.create()
    context = join_group_of_one(config, device.type)
    given = config, RunStores(graph), context, run, "benchmark", lambda _: None, "never"
    return TimedTrainer(*given, until=until, every=every)


def _profile(turn: Turn, device: torch.device, count: int) -> tuple[float, float, float]:
    """Milliseconds of kernels, kernels, and copies between host and device, of a step that is not
    replayed: under torch's profiler a replayed one ended with a segmentation fault on an H200.
    """
    if device.type != "cuda":
        return 0.0, 0.0, 0.0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as running:
        turn(count, False, True)
    events = [e for e in running.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    copies = [e for e in events if "HtoD" in e.name or "DtoH" in e.name]
    kernels = [e for e in events if "Memcpy" not in e.name and "Memset" not in e.name]
    spent = sum(e.device_time_total for e in kernels) / 1000
    return spent / count, len(kernels) / count, len(copies) / count


def timed(step: Callable[[], Tensor], count: int) -> list[float]:
    """Milliseconds of a step, five times the mean of so many, as ours are timed."""
    found = []
    for _ in range(6):
        wait(step().device)
        start = time.perf_counter()
        for _ in range(count):
            loss = step()
        wait(loss.device)
        found.append(1000 * (time.perf_counter() - start) / count)
    return found[1:]


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
