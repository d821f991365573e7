"""One rank of P that makes its batches as it would among all of them, in one process.

What it sends to other ranks comes back to it, and it has the rows of all nodes: it does for itself
what owners would do for it. On average an owner does as much for others. So its CPU time is that
of a rank of P, without the transport.

Legend: P ranks.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.transport import Transport
from recmind_dist.graph import EdgeRows, Graph, row_bounds
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.graph_access import GraphAccess, WholeGraph
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.partitioned_graph import OwnerMaskedGraph, PartitionedGraph
from recmind_dist.training.loaders import make_loader
from recmind_dist.types import IntArray


class LoopbackTransport(Transport):
    """Returns to a rank what it sends, as if each other rank had sent it."""

    def all_to_all_single(
        self, x: Tensor, send: list[int], receive: list[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """See `Transport`."""
        return x, send

    def all_gather(self, x: Tensor, counts: list[int]) -> list[Tensor]:
        """See `Transport`; shares differ by one row at most, which is this rank's last again."""
        row = torch.arange(max(counts)).clamp(max=max(len(x) - 1, 0))
        longest = x[row] if len(x) else x
        return [longest[:count] for count in counts]

    def pass_rows(self, x: Tensor, counts: list[int]) -> Iterator[tuple[int, Tensor]]:
        """See `Transport`."""
        for distance in range(1, len(counts)):
            source = (self.rank - distance) % len(counts)
            yield source, self.all_gather(x, [counts[source]])[0]


def rank_loader(
    config: RunConfig,
    graph: Graph,
    rank: int,
    world_size: int,
    held_out: IntArray | None = None,
) -> NeighborLoader:
    """The joint phase's batches of one rank alone, as of `world_size`.

    Where batches hide edges, those of other ranks are not hidden here: these are batches to be
    timed, not to be compared.

    Args:
        config: its placement and sampler decide what is exchanged.
        held_out: positions in the user half of edges that gates learn from.
    """
    context = DistContext(
        rank, world_size, torch.device("cpu"), id_transport=LoopbackTransport(rank)
    )
    rows, bounds = EdgeRows.of_graph(graph), row_bounds(graph, world_size)
    source: GraphAccess = WholeGraph(graph, rank, world_size, context)
    if config.graph.placement == "partitioned":
        source = PartitionedGraph(rows, bounds, context)
    elif config.owners_draw and world_size > 1:
        source = OwnerMaskedGraph(rows, bounds, context)
    return make_loader(config, graph, "joint", rank, world_size, source, held_out=held_out)


def batch_seconds(loader: NeighborLoader, steps: int, epoch: int = 0) -> list[float]:
    """CPU-seconds that each of an epoch's first batches takes; for one rank alone."""
    seconds = []
    batches = loader.batches(epoch)
    for _ in range(min(steps, loader.steps_per_epoch)):
        start = time.process_time()
        next(batches)
        seconds.append(time.process_time() - start)
    return seconds
