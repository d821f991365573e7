# ruff: noqa: E402  (cores are confined before the libraries that start threads are imported)
"""One rank that trains LightGCN or RecMind on a prepared graph, confined to one core.

Words: graph, directory of texts or "none", home, rank, world, placement, override …
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol import Work, confine, peak_mib, serve

GRAPH, TEXTS, HOME = sys.argv[1:4]
RANK, WORLD, PLACEMENT = *map(int, sys.argv[4:6]), sys.argv[6]
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[RANK % len(cores)]})
confine(1)

import torch
import torch.distributed as dist
from scale_settings import settings

from recmind_dist.checkpoint.agreement import agree_on_checkpoint
from recmind_dist.config import resolve_settings
from recmind_dist.config.yaml import Document
from recmind_dist.distributed.context import DistContext
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.text import TextStore
from recmind_dist.training.phase import Phase
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import load_table
from recmind_dist.training.trainer import Trainer


class Timed:
    """An iterator that knows what its work has cost the thread that it runs in."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self.cpu_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        while True:
            start = time.thread_time()
            item = next(self._source, None)
            if item is None:
                return
            self.cpu_s += time.thread_time() - start
            yield item


class Run:
    """A worker, and the phase of one batch size that it is in."""

    def __init__(self, worker: Trainer) -> None:
        self.worker, self.update_cpu_s = worker, 0.0
        self.phase: Phase | None = None
        table = worker.shard.table
        table.update = self._timed(table.update)  # type: ignore[method-assign]

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.update_cpu_s += time.thread_time() - start

        return timed

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        """From a fresh table, `steps` batches of `pairs` in the global batch, all to be used before
        the next start: a thread that is stopped ahead of another rank's would leave that one
        waiting in an exchange.
        """
        worker, pairs, steps = self.worker, order["pairs"], order["steps"]
        train = worker.config.train.model_copy(update={"batch_size": pairs})
        worker.config = worker.config.model_copy(update={"train": train})
        worker.shard.initialise()
        for state in worker.shard.table.state.values():
            state.zero_()
        if self.phase is not None:
            self.phase.end_phase()
        self.phase = phase = Phase(
            worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done
        )
        self.sampling = Timed(phase.step_inputs(0, 0, steps))
        worker.context.traffic.take()
        self.batches = Prefetcher(self.sampling, worker.config.sampler.batches_ahead)
        self.prepared = iter(self.batches)
        return {}

    def steps(self, order: dict[str, Any]) -> dict[str, Any]:
        """`count` steps as training has them; bytes sent since the last answer include what was
        made ahead.
        """
        traffic = self.worker.context.traffic
        self.worker.context.barrier()
        stalled, sampled, updated = self.batches.stall_s, self.sampling.cpu_s, self.update_cpu_s
        start, cpu, main_cpu = time.perf_counter(), time.process_time(), time.thread_time()
        losses, nodes, edges, pairs = [], 0, 0, 0
        assert self.phase is not None
        for _ in range(order["count"]):
            step = next(self.prepared)
            losses.append(self.phase.step.run(step)["loss"])
            nodes += step.plan.num_rows
            batches = [step.main] if step.gate is None else [step.main, step.gate]
            edges += sum(sum(batch.num_sampled_edges) for batch in batches)
            pairs += step.main.global_batch_size
        return {
            "seconds": time.perf_counter() - start,
            "pairs": pairs,
            "stall_s": self.batches.stall_s - stalled,
            "losses": losses,
            "nodes": nodes,
            "edges": edges,
            "sent": traffic.take(),
            "dense_sent": self.phase.engine.bytes_a_step if WORLD > 1 else 0,
            "cpu_s": time.process_time() - cpu,
            "main_cpu_s": time.thread_time() - main_cpu,
            "sample_cpu_s": self.sampling.cpu_s - sampled,
            "update_cpu_s": self.update_cpu_s - updated,
        }

    def checkpoint(self, _: dict[str, Any]) -> dict[str, Any]:
        """One save, waited for, and the restore of the table."""
        worker, start = self.worker, time.perf_counter()
        assert self.phase is not None
        worker._save(self.phase)
        worker.checkpointer.wait()
        saved = time.perf_counter()
        bounds = worker.shard.bounds.tolist()
        found = agree_on_checkpoint(worker.run.checkpoints, "last", worker.context, bounds)
        assert found is not None
        load_table(found, worker.shard.table)
        restore_s = time.perf_counter() - saved
        return {"save_s": saved - start, "restore_s": restore_s, "rss_mib": peak_mib()}


def prepare() -> dict[str, Work]:
    torch.set_num_threads(1)
    values = settings(f"{HOME}/run", PLACEMENT, WORLD, "lightgcn" if TEXTS == "none" else "recmind")
    config = resolve_settings(RunConfig, Document("run_scale", values), sys.argv[7:])
    os.environ |= {
        "RANK": f"{RANK}",
        "LOCAL_RANK": f"{RANK}",
        "WORLD_SIZE": f"{WORLD}",
    }  # DeepSpeed
    store = dist.FileStore(f"{HOME}/store", WORLD) if WORLD > 1 else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=RANK, world_size=WORLD)
    context = DistContext.join_group(torch.device("cpu"))
    run = RunDirectory(config.run_dir)
    run.create()
    inputs = RunStores(Path(GRAPH))
    if TEXTS != "none":
        store, whitening = Path(TEXTS) / "text", Path(TEXTS) / "whitening.safetensors"
        key = TextStore.open(store).content_key()
        inputs = RunStores(Path(GRAPH), store, whitening, texts_key="random", store_key=key)
    worker = Trainer(config, inputs, context, run, "benchmk1", lambda _: None, "never")
    at = Run(worker)
    return {"begin": at.begin, "steps": at.steps, "checkpoint": at.checkpoint}


serve(prepare)
