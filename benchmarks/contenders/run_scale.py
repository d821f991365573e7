# ruff: noqa: E402  (cores are confined before the libraries that start threads are imported)
"""One rank that trains plain LightGCN on a prepared graph, confined to one core.

Words: graph, home, rank, world, placement, override …
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol import Work, confine, peak_mib, serve

GRAPH, HOME, RANK, WORLD, PLACEMENT = *sys.argv[1:3], *map(int, sys.argv[3:5]), sys.argv[5]
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
from recmind_dist.training.inputs import Inputs
from recmind_dist.training.phase import Phase
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

    def begin(self, pairs: int, steps: int) -> None:
        """From a fresh table, `steps` batches of so many pairs, all to be used before the next
        start: a thread that is stopped
        ahead of another rank's would leave that one waiting in an exchange."""
        worker = self.worker
        train = worker.config.train.model_copy(update={"batch_size": pairs})
        worker.config = worker.config.model_copy(update={"train": train})
        worker.shard.initialise()
        for state in worker.shard.table.state.values():
            state.zero_()
        self.phase = phase = Phase(
            worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done
        )
        self.sampling = Timed(phase.step_inputs(0, 0, steps))
        worker.context.traffic.take()
        self.batches = Prefetcher(self.sampling, worker.config.sampler.batches_ahead)
        self.prepared = iter(self.batches)


def prepare() -> dict[str, Work]:
    torch.set_num_threads(1)
    config = resolve_settings(
        RunConfig, Document("run_scale", settings(f"{HOME}/run", PLACEMENT, WORLD)), sys.argv[6:]
    )
    store = dist.FileStore(f"{HOME}/store", WORLD) if WORLD > 1 else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=RANK, world_size=WORLD)
    context = DistContext.join_group(torch.device("cpu"))
    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, Inputs(Path(GRAPH)), context, run, "benchmk1", lambda _: None, "never")
    at = Run(worker)

    def begin(order: dict[str, Any]) -> dict[str, Any]:
        """A fresh start with `pairs` in the global batch, for `steps` steps."""
        at.begin(order["pairs"], order["steps"])
        return {}

    def steps(order: dict[str, Any]) -> dict[str, Any]:
        """`count` steps as training has them; bytes sent since the last answer include what was
        made ahead.
        """
        context.barrier()
        stalled, sampled, updated = at.batches.stall_s, at.sampling.cpu_s, at.update_cpu_s
        start, cpu, main_cpu = time.perf_counter(), time.process_time(), time.thread_time()
        losses, nodes, edges, pairs = [], 0, 0, 0
        for _ in range(order["count"]):
            step = next(at.prepared)
            losses.append(at.phase.step.run(step)["loss"])
            nodes += len(step.main.n_id)
            edges += sum(step.main.num_sampled_edges)
            pairs += step.main.global_batch_size
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "pairs": pairs,
            "stall_s": at.batches.stall_s - stalled,
            "losses": losses,
            "nodes": nodes,
            "edges": edges,
            "sent": context.traffic.take(),
            "cpu_s": time.process_time() - cpu,
            "main_cpu_s": time.thread_time() - main_cpu,
            "sample_cpu_s": at.sampling.cpu_s - sampled,
            "update_cpu_s": at.update_cpu_s - updated,
        }

    def checkpoint(order: dict[str, Any]) -> dict[str, Any]:
        """One save, waited for, and the restore of the table."""
        start = time.perf_counter()
        worker._save(at.phase)
        worker.checkpointer.wait()
        saved = time.perf_counter()
        found = agree_on_checkpoint(run.checkpoints, "last", context, worker.shard.bounds.tolist())
        assert found is not None
        load_table(found, worker.shard.table)
        return {
            "save_s": saved - start,
            "restore_s": time.perf_counter() - saved,
            "rss_mib": peak_mib(),
        }

    return {"begin": begin, "steps": steps, "checkpoint": checkpoint}


serve(prepare)
