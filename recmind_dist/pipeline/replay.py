"""What P ranks would send each other, found out on one: their batches are drawn here, rank after
rank, and counted.

Draws depend on (seed, step, hop, node) alone, so the batches are those that P real ranks would
have, and so are the bytes.
Legend: P logical ranks, N nodes that a rank's batch needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from recmind_dist.distributed.traffic import KINDS, ring_bytes
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.graph.partition import judge
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.training.alignment import anchor_stride
from recmind_dist.training.loaders import make_loader
from recmind_dist.types import BoolArray, IntArray

ID, NUMBER, NODE, COUNT = (
    8,
    4,
    4,
    8,
)  # bytes of a wanted row, of a float, of a node id among owners, of a count of an exchange
TERMS_WIDTH = 8


@dataclass(frozen=True)
class Replayed:
    """Means over the ranks and steps that were replayed, of one rank and step.

    Attributes:
        sent: bytes by kind; nodes: distinct nodes of a batch; remote: those of them that others
        own; owned: rows of a rank that any rank's batch needs, estimated from how often nodes of
        like degree are met, as if ranks drew independently (too many where they share negatives);
        edges: sampled ones; pairs: of the rank's share.
    """

    sent: dict[str, float]
    nodes: float
    remote: float
    owned: float
    edges: float
    pairs: float


@dataclass
class _Sums:
    degrees: IntArray  # [N] class of each node
    met: IntArray  # how often nodes of each class were
    sent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    nodes: int = 0
    remote: int = 0
    edges: int = 0
    pairs: int = 0
    batches: int = 0


def replay(
    config: RunConfig,
    graph: Graph,
    world_size: int,
    ranks: Iterable[int] | None = None,
    steps: int = 1,
    dense_bytes: int = 0,
) -> Replayed:
    """The first steps of the joint phase, drawn for logical ranks by one rank alone.

    What a rank sends as owner is told by what others ask, so the mean of what ranks ask and get is
    the mean of what they send.

    Args:
        config: its placement decides whether hops travel; models without gates on held-out edges;
        ranks: by default all;
        dense_bytes: of the dense part's parameters.
    """
    assert not config.heldout_gates, "replay knows no gate batches"
    degrees = (2 * np.log2(1 + np.asarray(graph.degree))).astype(np.int64)
    bounds, sums = (
        row_bounds(graph, world_size),
        _Sums(degrees, np.zeros(degrees.max(initial=0) + 1, np.int64)),
    )
    chosen = range(world_size) if ranks is None else list(ranks)
    for rank in chosen:
        loader = make_loader(config, graph, "joint", rank, world_size)
        for _, batches in zip(range(steps), loader.batches(0), strict=False):
            _add(sums, config, graph, bounds, rank, batches)
    each = max(sums.batches, 1)
    sent = {kind: total / each for kind, total in sums.sent.items()}
    sent["dense"] += ring_bytes(dense_bytes, world_size)
    there = np.bincount(degrees)
    needed = (there * (1 - (1 - sums.met / np.maximum(there * each, 1)) ** world_size)).sum()
    owned = float(needed) / world_size
    return Replayed(
        sent, sums.nodes / each, sums.remote / each, owned, sums.edges / each, sums.pairs / each
    )


def partition_report(config: RunConfig, graph: Graph) -> str:
    """How good the partition is for the run's workers: cut, balance, and the share of a batch's
    rows that travel.
    """
    world = config.scaling.max_workers
    world = world if world > 1 else len(graph.part_rows) - 1
    found = judge(graph, row_bounds(graph, world))
    line = (
        f"partition: {config.graph.partition}, {world} parts: {100 * found.cut:.1f} % of the "
        "edges cut, the fullest part has "
        f"{found.edges:.3f} x the mean of edges and {found.nodes:.3f} x of nodes"
    )
    if (
        world == 1
        or config.propagates_fully
        or config.heldout_gates
        or config.sampler.backend == "pyg"
    ):
        return line
    batch = replay(config, graph, world, range(min(world, 4)))
    return f"{line}; {100 * batch.remote / max(batch.nodes, 1):.1f} % of a batch's rows are remote"


def weak(config: RunConfig, world_size: int, pairs_a_rank: int) -> RunConfig:
    """The same run with as many pairs on each of P ranks."""
    train = config.train.model_copy(update={"batch_size": pairs_a_rank * world_size})
    scaling = config.scaling.model_copy(update={"num_workers": world_size})
    return config.model_copy(update={"train": train, "scaling": scaling})


def _add(
    sums: _Sums,
    config: RunConfig,
    graph: Graph,
    bounds: IntArray,
    rank: int,
    batches: StepBatches,
) -> None:
    batch, world = batches.main, len(bounds) - 1
    rows = np.asarray(graph.row_of_node)
    owner = np.searchsorted(bounds, rows[batch.n_id.numpy()], side="right") - 1
    remote = owner != rank
    dim = config.model.embedding_dim
    columns = dim * (
        1 + config.model.has_text_view * (1 + (config.aligns and config.alignment.queue_size > 0))
    )
    plan = (COUNT * (world - 1) + ID * int(remote.sum())) if world > 1 else 0
    sums.sent["ids"] += plan + (
        _sampling(config, batch, remote, world) if config.graph.placement == "partitioned" else 0
    )
    for kind in ("rows", "gradients"):
        sums.sent[kind] += NUMBER * columns * int(remote.sum())
    sums.sent["dense"] += ring_bytes(TERMS_WIDTH * (_terms(config) + 3 * world), world)
    if config.aligns:
        anchors = -(
            -batch.global_batch_size
            // anchor_stride(batch.global_batch_size, config.alignment.anchors)
        )
        views = 2 + (config.alignment.queue_size > 0)  # forward, backward, keys
        sums.sent["queue"] += views * 4 * NUMBER * dim * anchors * (world - 1) / world
    sums.met += np.bincount(sums.degrees[batch.n_id.numpy()], minlength=len(sums.met))
    sums.nodes += len(owner)
    sums.remote += int(remote.sum())
    sums.edges += sum(batch.num_sampled_edges)
    sums.pairs += batch.batch_size
    sums.batches += 1


def _sampling(config: RunConfig, batch: Batch, remote: BoolArray, world: int) -> float:
    """Bytes of one rank's hops, items and negatives; see `sampling/partitioned_graph.py`."""
    if world == 1:
        return 0.0
    total = NODE * (world - 1) * batch.global_batch_size / world  # items to everybody
    for hop in batch.hops:
        asked = remote[: hop.num_dst]
        replies = np.diff(hop.indptr.numpy())[asked].sum()
        total += (
            2 * COUNT * (world - 1) + (NODE + 2 * NUMBER) * int(asked.sum()) + NODE * int(replies)
        )
    if config.loss.kind == "bpr":
        return total + NODE * config.sampler.negatives.num * int(
            remote[batch.src_index.numpy()].sum()
        )
    width = -(-len(batch.shared_index) // 8)
    return total + width * int(remote[batch.user_index.numpy()].sum())


def _terms(config: RunConfig) -> int:
    aligned = (2 if config.alignment.sides == "both" else 1) if config.aligns else 0
    return 2 + aligned + isinstance(config.model, RecMindSettings)


def partitioned(config: RunConfig, placement: str = "partitioned") -> RunConfig:
    """The same run with its edges placed otherwise."""
    return config.model_copy(
        update={"graph": config.graph.model_copy(update={"placement": placement})}
    )
