# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""Training steps of this project under the profiler, as the only rank or as one of two.

Words: config, rank, world, store, override … Each rank has one core: a step's cost is per core.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

RANK, WORLD = int(sys.argv[2]), int(sys.argv[3])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[RANK % len(cores)]} if WORLD > 1 else set(cores))
if WORLD == 1:
    confine(1)

import torch
import torch.distributed as dist

from recmind_dist.distributed.context import DistContext
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.training.phase import Phase
from recmind_dist.training.profile import named, region_ms, start_profile, stop_profile
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.trainer import Trainer


def prepare() -> dict[str, Work]:
    torch.set_num_threads(1)
    config = load_run_config(Path(sys.argv[1]), sys.argv[5:]).absolute()
    pipeline = Pipeline(config, lambda _: None)
    inputs = RunStores(pipeline.prepare().absolute())
    config = pipeline.config  # with what follows from the data
    context = DistContext.alone()
    if WORLD > 1:
        dist.init_process_group(
            "gloo", store=dist.FileStore(sys.argv[4], WORLD), rank=RANK, world_size=WORLD
        )
        context = DistContext.join_group(torch.device("cpu"))
    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, inputs, context, run, "benchmark", lambda _: None, "never")
    worker.shard.initialise()
    phase = Phase(worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done)

    everything = (step for epoch in range(1 << 20) for step in phase.step_inputs(epoch, 0))
    # one stream for all orders: a second one would plan its exchanges between those of the first,
    # on each rank elsewhere
    batches = Prefetcher(named(everything, "sample"), config.sampler.batches_ahead)
    prepared = iter(batches)

    def steps(order: dict[str, Any]) -> dict[str, Any]:
        """`count` steps as training has them, batches made ahead."""
        stalled, start, pairs = batches.stall_s, time.perf_counter(), 0
        for _ in range(order["count"]):
            step = next(prepared)
            phase.step.run(step)
            pairs += step.main.global_batch_size
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "stall_s": batches.stall_s - stalled, "pairs": pairs}

    def split(order: dict[str, Any]) -> dict[str, Any]:
        """`count` steps under the profiler, all threads; milliseconds of each region and bytes
        moved.
        """
        running, moved = start_profile(), 0.0
        for _ in range(order["count"]):
            step = next(prepared)
            phase.step.run(step)
            moved += bytes_moved(
                step,
                worker.shard.graph.num_edges,
                config.model.num_layers,
                config.model.embedding_dim,
            )
        stop_profile(running)
        return {"regions": region_ms(running, order["count"]), "bytes": moved / order["count"]}

    return {"steps": steps, "split": split}


def bytes_moved(step: Any, num_edges: int, num_layers: int, dim: int) -> float:
    """Least traffic with memory of one step on this rank, in bytes, if every gathered row comes
    from memory once.

    Rows of D floats: forward and backward of each layer read one row an edge and write one a node;
    the update reads gradient, weight and two moments of each row that is touched and writes three
    back; gather and gradient are one each.
    """
    row, touched = (
        4.0 * dim,
        step.operator.is_user.numel() if step.operator is not None else len(step.rows),
    )
    if step.operator is not None:
        # the last hop forward, the first one backward, concern the batch's rows alone
        edges = [2 * num_edges / WORLD] * (num_layers - 1) + [float(step.main.degree.sum()) / WORLD]
        nodes = [touched] * (num_layers - 1) + [len(step.main.n_id)]
    else:
        edges = [len(hop.indices) for hop in step.main.hops]
        nodes = [hop.num_src for hop in step.main.hops]
    index = 4.0 * sum(edges)
    return 2 * (row * (sum(edges) + sum(nodes)) + index) + row * touched * (7 + 2)


serve(prepare)
