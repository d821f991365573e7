"""What P ranks would send each other, counted in one process that draws their batches in turn.

A draw is a function of (seed, step, hop, node), so these are the batches, and the bytes, of P real
ranks. Shapes: N nodes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recmind_dist.distributed.grid import grid_shape
from recmind_dist.distributed.traffic import KINDS, ring_bytes
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.edge_masks import heldout_slice, users_of_edges
from recmind_dist.training.alignment import anchor_stride, num_anchors
from recmind_dist.training.loaders import make_loader
from recmind_dist.types import BoolArray, IntArray

# bytes of one element of an exchange
ROW_ID = 8
COUNT = 8
NODE = 4
FLOAT = 4
LOSS_TERM = 8


@dataclass(frozen=True)
class StepTraffic:
    """What one rank has in one step: means over the ranks and steps that were replayed."""

    sent: dict[str, float]
    """Bytes by kind."""
    nodes: float
    """Distinct nodes of the batch."""
    remote: float
    """Those whose rows lie on other ranks."""
    owned: float
    """Rows of this rank that some rank's batch needs. Estimated as if ranks drew independently, so
    too high where they share negatives.
    """
    edges: float
    """Sampled edges."""
    pairs: float


@dataclass
class _Sums:
    degree_class: IntArray  # [N], half-steps of log2(1 + degree)
    class_count: IntArray  # batch nodes by degree class
    sent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    nodes: int = 0
    remote: int = 0
    edges: int = 0
    pairs: int = 0
    batches: int = 0


def simulate_traffic(
    config: RunConfig,
    graph: Graph,
    world_size: int,
    ranks: Iterable[int] | None = None,
    steps: int = 1,
    dense_bytes: int = 0,
    text_dim: int = 0,
) -> StepTraffic:
    """Draws the first steps of the joint phase for logical ranks, on one rank alone.

    What ranks receive stands for what they send: over all ranks the means are equal.

    Args:
        config: its placement decides whether hops are exchanged.
        ranks: all by default.
        dense_bytes: size of the dense parameters.
        text_dim: columns of a text vector, where content views travel.
    """
    held_out = _held_out(config, graph)
    degree_class = (2 * np.log2(1 + np.asarray(graph.degree))).astype(np.int64)
    nodes_of_class = np.bincount(degree_class)
    sums = _Sums(degree_class, np.zeros_like(nodes_of_class))
    bounds = row_bounds(graph, world_size)
    for rank in range(world_size) if ranks is None else ranks:
        loader = make_loader(config, graph, "joint", rank, world_size, **held_out)
        for _, batches in zip(range(steps), loader.batches(0), strict=False):
            _add(sums, config, graph, bounds, rank, batches, text_dim)
    count = max(sums.batches, 1)
    sent = {kind: total / count for kind, total in sums.sent.items()}
    sent["dense"] += ring_bytes(dense_bytes, world_size)
    chance = sums.class_count / np.maximum(nodes_of_class * count, 1)  # that a batch has a node
    owned = float((nodes_of_class * (1 - (1 - chance) ** world_size)).sum()) / world_size
    means = (x / count for x in (sums.nodes, sums.remote, sums.edges, sums.pairs))
    nodes, remote, edges, pairs = means
    return StepTraffic(sent, nodes, remote, owned, edges, pairs)


def weak_scaling(config: RunConfig, world_size: int, pairs_a_rank: int) -> RunConfig:
    """The run with `pairs_a_rank` pairs on each rank: weak scaling."""
    train = config.train.model_copy(update={"batch_size": pairs_a_rank * world_size})
    scaling = config.scaling.model_copy(update={"num_workers": world_size})
    return config.model_copy(update={"train": train, "scaling": scaling})


def _held_out(config: RunConfig, graph: Graph) -> dict[str, Any]:
    """Edges that gates learn from, and degrees without them: what `make_loader` takes."""
    gate = config.gate
    if not config.heldout_gates or gate is None:
        return {}
    seed = config.graph.seed
    held_out = np.flatnonzero(heldout_slice(graph, gate.heldout_share, seed, gate.withheld_items))
    degree = np.asarray(graph.degree)
    if gate.withheld_items or isinstance(config.model, RecMindSettings):
        ends = users_of_edges(graph, held_out), np.asarray(graph.indices)[held_out]
        degree = degree - sum(np.bincount(end, minlength=graph.num_nodes) for end in ends)
    gate_edges = np.flatnonzero(heldout_slice(graph, gate.heldout_share, seed))
    return {"held_out": held_out, "gate_edges": gate_edges, "degree": degree}


def _add(
    sums: _Sums,
    config: RunConfig,
    graph: Graph,
    bounds: IntArray,
    rank: int,
    batches: StepBatches,
    text_dim: int,
) -> None:
    main, gate, world_size = batches.main, batches.gate, len(bounds) - 1
    others = world_size - 1

    def is_remote(nodes: IntArray) -> BoolArray:
        rows = np.asarray(graph.row_of_node)[nodes]
        return np.asarray(np.searchsorted(bounds, rows, side="right") - 1 != rank)

    drawn = [main] if gate is None else [main, gate]
    n_id = np.unique(np.concatenate([batch.n_id.numpy() for batch in drawn]))
    num_remote = int(is_remote(n_id).sum())
    wire = 2 if config.scaling.wire_dtype == "bfloat16" else FLOAT
    dim, has_queue = config.model.embedding_dim, config.aligns and config.alignment.queue_size > 0
    row_floats = dim * (1 + config.model.has_text_view * (1 + has_queue))
    ids = sums.sent["ids"]
    if world_size > 1:
        sums.sent["ids"] += COUNT * others + ROW_ID * num_remote
        if config.train.batch_of == "users" or config.heldout_gates:  # counts of many steps
            sums.sent["ids"] += COUNT * others
        for batch in drawn:
            remote = is_remote(batch.n_id.numpy())
            hides = config.sampler.hide_batch_edges and batch is main
            sums.sent["ids"] += _sampling_bytes(config, batch, remote, world_size, hides)
            sums.sent["ids"] += _newest_bytes(config, batch, remote, graph.num_users, others)
    for kind in ("rows", "gradients"):
        sums.sent[kind] += wire * row_floats * num_remote
    if text_dim and isinstance(config.model, RecMindSettings) and config.model.has_content_view:
        mixed = drawn[-1]
        targets = int(is_remote(mixed.n_id[: mixed.num_targets].numpy()).sum())
        sums.sent["ids"] += COUNT * others + ROW_ID * targets
        sums.sent["rows"] += wire * text_dim * (1 + (config.recent_decay > 0)) * targets
    if grid_shape(world_size) is not None:  # two legs
        sums.sent["ids"] += sums.sent["ids"] - ids
    sent = LOSS_TERM * (_num_loss_terms(config) + 2) * world_size  # see `sum_losses`
    sums.sent["dense"] += ring_bytes(sent, world_size)
    if config.aligns:
        stride = anchor_stride(main.global_batch_size, num_anchors(config.train.batch_size))
        anchors = -(-main.global_batch_size // stride)
        views = 2 + has_queue  # forward, backward, keys
        sums.sent["ids"] += 2 * NODE * anchors * others / world_size
        sums.sent["queue"] += views * 4 * FLOAT * dim * anchors * others / world_size
    sums.class_count += np.bincount(sums.degree_class[n_id], minlength=len(sums.class_count))
    sums.nodes += len(n_id)
    sums.remote += num_remote
    sums.edges += sum(sum(batch.num_sampled_edges) for batch in drawn)
    sums.pairs += main.batch_size
    sums.batches += 1


def _sampling_bytes(
    config: RunConfig, batch: Batch, remote: BoolArray, world_size: int, hides: bool
) -> float:
    """Bytes of one rank's batch: pairs, items, negatives, hops; see sampling/partitioned_graph.py.

    Args:
        remote: [N] which of its nodes are other ranks'.
        hides: whether it hides its edges.
    """
    others, partitioned = world_size - 1, config.graph.placement == "partitioned"
    src, dst = (remote[x.numpy()] for x in (batch.src_index, batch.dst_pos_index))
    total = 0
    if partitioned:
        total += COUNT * others + (3 * NODE + NODE) * int(src.sum())  # pairs, and their items
    if hides and config.owners_draw:
        total += COUNT * others
        total += 2 * NODE * (int(dst.sum()) + (0 if partitioned else int(src.sum())))
    for hop in batch.hops if config.owners_draw or partitioned else ():
        remote_dst = remote[: hop.num_dst]
        neighbors = int(np.diff(hop.indptr.numpy())[remote_dst].sum())
        total += 2 * COUNT * others
        total += (NODE + 2 * FLOAT) * int(remote_dst.sum()) + NODE * neighbors
    if not partitioned:
        return total
    if config.loss.kind == "bpr":
        return total + NODE * config.sampler.negatives.num * int(src.sum())
    mask_bytes = -(-len(batch.shared_index) // 8)
    return total + mask_bytes * int(remote[batch.user_index.numpy()].sum())


def _newest_bytes(
    config: RunConfig, batch: Batch, remote: BoolArray, num_users: int, others: int
) -> float:
    """Bytes of the newest items of a batch's users, which their owners send."""
    if batch.newest is None or config.graph.placement != "partitioned":
        return 0
    users = int((batch.n_id[: batch.num_targets] < num_users).sum())
    items = np.diff(batch.newest.indptr.numpy())[:users][remote[:users]]
    return 2 * COUNT * others + 2 * NODE * len(items) + 2 * NODE * int(items.sum())


def _num_loss_terms(config: RunConfig) -> int:
    aligned = (2 if config.alignment.sides == "both" else 1) if config.aligns else 0
    if isinstance(config.model, RecMindSettings):
        return 3 + config.model.has_text_view + aligned
    return 2 + aligned + config.heldout_gates


def with_placement(config: RunConfig, placement: str = "partitioned") -> RunConfig:
    """The run with another placement of its edges."""
    graph = config.graph.model_copy(update={"placement": placement})
    return config.model_copy(update={"graph": graph})
