# ruff: noqa: E402
"""One of two ranks that fetch random rows from each other, forward and backward.

Measures what a byte sent costs on this machine: picking rows, sending them, putting them in order
and sending gradients home. Words: home, rank, rows, dim, memory or gloo, dtype on the wire.
"""

import os
import sys
import time
from typing import Any

from protocol import Work, confine, serve

HOME, RANK, ROWS, DIM = sys.argv[1], *map(int, sys.argv[2:5])
WAY, DTYPE = sys.argv[5:7]
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[RANK % len(cores)]})
confine(1)

import numpy as np
import torch
import torch.distributed as dist

from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.graph.partition import even_cut
from recmind_dist.kernels.memory import keep_freed_memory
from recmind_dist.kernels.row_moves import place_rows


def prepare() -> dict[str, Work]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{HOME}/store", 2), rank=RANK, world_size=2
    )
    context = DistContext.join_group(torch.device("cpu"), shared_memory=WAY == "memory")
    bounds = even_cut(ROWS, 2)
    table = torch.zeros(int(bounds[RANK + 1] - bounds[RANK]), DIM)
    exchange = RowExchange(bounds, context, table, getattr(torch, DTYPE))
    rng = np.random.default_rng(RANK)

    def fetch(order: dict[str, Any]) -> dict[str, Any]:
        """`count` times plan, rows and gradients of `rows` distinct random rows: CPU-seconds and
        bytes of one, by median, for in training the other thread works while this one waits. What a
        rank alone does too, reading as many (other) rows from the table, is taken off, and the
        first time is left out, whose memory is new.
        """
        taken, grad = [], torch.ones(order["rows"], DIM)
        for _ in range(order["count"] + 1):
            context.traffic.take()
            rows, other = (
                np.sort(rng.choice(ROWS, order["rows"], replace=False)) for _ in range(2)
            )
            context.barrier()
            start = time.process_time()
            plan = exchange.plan_lookup(rows)
            leaf = torch.zeros(1, 1).expand(len(plan.local_rows), DIM).requires_grad_()
            exchange.lookup_from_table(leaf, plan).backward(grad)
            seconds = time.process_time() - start
            own = torch.from_numpy(other % len(table))
            start = time.process_time()
            place_rows(table.new_empty(len(own), DIM), None, table, own)
            taken.append(seconds - (time.process_time() - start))
        return {
            "seconds": float(np.median(taken[1:])),
            "sent": sum(context.traffic.take().values()),
        }

    return {"fetch": fetch}


serve(prepare)
