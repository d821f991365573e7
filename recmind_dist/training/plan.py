"""`sampler.propagation: auto`: sampled or full propagation, and how many mini-batches one full propagation serves.

Either is timed in small on this machine and this graph before training starts: a sampled batch as it is, a full hop by its
rate over some of the rows. The choice is made from rank 0's figures, so it is one for all ranks, and it stays with the run.

Legend: n rows of this rank, N nodes, D dims, E edges in both directions, K mini-batches a propagation.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from recmind_dist.errors import CheckpointError, ConfigError
from recmind_dist.model import losses
from recmind_dist.model.propagation import sampled_hops
from recmind_dist.parallel import Ranks, ShardedTable
from recmind_dist.parallel.exchange import all_gather_rows
from recmind_dist.parallel.propagation import seconds_an_edge
from recmind_dist.sampling import Batch, NeighborLoader
from recmind_dist.training.rank_model import RankModel
from recmind_dist.training.run_config import RunConfig

ENOUGH = 1.05
"""K is the least that comes so near to the cheapest: with every update that is saved, less is learnt from an epoch."""
_STATES = 6  # arrays of a row a node that full propagation holds at once, gradients among them
_MEMORY_SHARE = 0.5  # of what is free, that the states of full propagation may take
_ROWS, _EDGES, _SENT_ROWS = 20_000, 2_000_000, 16_384  # measured with so many


@dataclass(frozen=True)
class Costs:
    """Seconds, on one rank."""

    batch_s: float
    """To make a batch without neighbours."""
    sampled_batch_s: float
    """To make one with its sampled neighbours."""
    sampled_hops_s: float
    """Its hops, forward and backward."""
    sampled_rows: float
    """Rows that it needs."""
    loss_s: float
    """The loss of a batch, forward and backward."""
    edge_s: float
    """An edge of a full hop."""
    row_s: float
    """To update a row of the table."""
    sent_row_s: float
    """To receive a row from another rank; 0 on one rank."""


@dataclass(frozen=True)
class Plan:
    """How training propagates, why, and the seconds of a mini-batch that were foreseen for each choice."""

    propagation: Literal["sampled", "full"]
    batches_per_propagation: int
    reason: str
    seconds: dict[str, float]

    def to_info(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @staticmethod
    def from_info(info: Any) -> "Plan":
        """Raises CheckpointError if `info` is not what `to_info` gave."""
        names = {f.name for f in fields(Plan)}
        if not isinstance(info, dict) or set(info) != names or info["propagation"] not in ("sampled", "full"):
            raise CheckpointError("checkpoint has no plan of propagation that this program knows: use its own version")
        return Plan(**info)

    def applied(self, config: RunConfig) -> RunConfig:
        """The config with what was chosen."""
        chosen = {"propagation": self.propagation, "batches_per_propagation": self.batches_per_propagation}
        return config.model_copy(update={"sampler": config.sampler.model_copy(update=chosen)})


def all_plan(config: RunConfig, parts: RankModel, ranks: Ranks) -> Plan:
    """Measures for a second or two and chooses. Every rank must call.

    Raises:
        ConfigError: the device is no CPU.
    """
    if ranks.device.type != "cpu":
        raise ConfigError("sampler.propagation: auto is measured on the CPU alone: set full or sampled")
    start = time.perf_counter()
    needed = _STATES * 4.0 * parts.graph.num_nodes * config.model.embedding_dim
    fits = needed <= _MEMORY_SHARE * _free_bytes()
    found = _all_measure(config, parts, ranks, fits)
    mine = torch.tensor([getattr(found, f.name) for f in fields(Costs)], dtype=torch.float64)
    costs = Costs(*ranks.all_sum(mine if ranks.rank == 0 else torch.zeros_like(mine)).tolist())
    everywhere = ranks.all_sum(torch.tensor([float(not fits)])).item() == 0
    plan = choose(costs, config, parts.graph.num_nodes, parts.graph.num_edges, ranks.world_size, everywhere)
    took = ranks.all_sum(torch.tensor([time.perf_counter() - start], dtype=torch.float64)).item() / ranks.world_size
    return replace(plan, reason=f"{plan.reason} (measured in {took:.1f} s)")


def choose(
    costs: Costs, config: RunConfig, num_nodes: int, num_edges: int, world_size: int, fits: bool
) -> Plan:  # fmt: skip
    """The cheapest mini-batch; of full propagations the least K that comes near to the cheapest of them.

    Args:
        num_edges: training interactions; fits: whether full propagation has the memory it needs on every rank.
    """
    hops = config.model.num_layers + (config.model.text_layers if config.model.use_text else 0)
    common = costs.loss_s + costs.batch_s
    blocks = 1.0 + config.gate_batch_size / config.train.batch_size if config.train.batch_of == "pairs" else 1.0
    sampled = costs.sampled_batch_s + costs.sampled_hops_s * hops / max(config.model.num_layers, 1)
    sampled += costs.sampled_rows * (costs.row_s + 2 * costs.sent_row_s)
    sampled = costs.loss_s + blocks * sampled
    whole = 2 * hops * (2 * num_edges / world_size * costs.edge_s + num_nodes * costs.sent_row_s)
    whole += num_nodes / world_size * costs.row_s
    most = config.sampler.batches_per_propagation
    counts = [k for k in (1 << p for p in range(most.bit_length())) if k < most] + [most]
    seconds = {f"full, K={k}": common + whole / k for k in counts}
    best = min(seconds.values())
    k = next(k for k in counts if seconds[f"full, K={k}"] <= ENOUGH * best)
    seconds["sampled"] = sampled
    full = f"full propagation at K={k} {1000 * seconds[f'full, K={k}']:.1f} ms"
    both = f"a mini-batch takes about {1000 * sampled:.1f} ms sampled, by {full}"
    if not fits:
        return Plan("sampled", 1, f"the states of full propagation would not fit into memory; {both}", seconds)
    if sampled <= seconds[f"full, K={k}"]:
        return Plan("sampled", 1, both, seconds)
    return Plan("full", k, both, seconds)


def _all_measure(config: RunConfig, parts: RankModel, ranks: Ranks, fits: bool) -> Costs:
    """This rank's figures. Every rank must call."""
    dim, rows = config.model.embedding_dim, min(_ROWS, max(len(parts.nodes), 1))
    made_s, batch = _batch(config, "full", parts, ranks)
    sampled_s, sampled = _batch(config, "sampled", parts, ranks)
    table = ShardedTable((0, rows), rows, dim, config.table, ranks.device)
    grad, some = torch.ones(rows, dim), torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    order = torch.argsort(some)
    table.update(some[:1], grad[:1], order=order[:1] * 0)
    return Costs(
        batch_s=made_s,
        sampled_batch_s=sampled_s,
        sampled_hops_s=_hops_s(sampled, dim),
        sampled_rows=float(len(sampled.n_id)),
        loss_s=_loss_s(config, batch, dim),
        edge_s=seconds_an_edge(parts.graph, parts.nodes, dim, _EDGES) if fits else 0.0,
        row_s=_seconds(lambda: table.update(some, grad, order=order)) / rows,
        sent_row_s=_all_sent_row_s(dim, ranks),
    )


def _all_sent_row_s(dim: int, ranks: Ranks) -> float:
    """Seconds to receive a row from another rank. Every rank must call."""
    if ranks.world_size == 1:
        return 0.0
    mine = torch.ones(_SENT_ROWS // ranks.world_size + 1, dim)
    counts = [len(mine)] * ranks.world_size
    all_gather_rows(mine, counts, ranks)
    return _seconds(lambda: all_gather_rows(mine, counts, ranks)) / sum(counts)


def _batch(
    config: RunConfig, propagation: Literal["sampled", "full"], parts: RankModel, ranks: Ranks
) -> tuple[float, Batch]:
    """Seconds to make a batch, and one; the first time loads compiled code. Every rank must call."""
    chosen = Plan(propagation, 1, "", {}).applied(config)
    negatives = "shared" if config.loss.kind == "ssm" else "pairs"
    loader = NeighborLoader(
        parts.graph, chosen.sampler, config.train.batch_size, negatives, batch_of=config.train.batch_of,
        rank=ranks.rank, world_size=ranks.world_size,
    )  # fmt: skip
    batch = next(loader.batches(0)).main
    return _seconds(lambda: next(loader.batches(0))), batch


def _hops_s(batch: Batch, dim: int) -> float:
    def run(hops: list[Callable[[Tensor], Tensor]], num_rows: int) -> None:
        x = torch.ones(num_rows, dim, requires_grad=True)
        out = x
        for hop in hops:
            out = hop(out)
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]

    run(sampled_hops(batch.degree, batch.hops[:1]), batch.hops[0].num_src)  # the smallest, so that code is loaded
    return _seconds(lambda: run(sampled_hops(batch.degree, batch.hops), len(batch.n_id)))


def _loss_s(config: RunConfig, batch: Batch, dim: int) -> float:
    h = torch.randn(len(batch.n_id), dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.ones(batch.batch_size)

    def run() -> None:
        if config.loss.kind == "ssm":
            index = batch.user_index, batch.user_of_pair, batch.dst_pos_index, batch.shared_index, batch.shared_positive
            loss = losses.sampled_softmax(h, *index, config.loss.temperature, weight, batch.batch_size)
        else:
            loss = losses.bpr(h, batch.src_index, batch.dst_pos_index, batch.dst_neg_index, weight, batch.batch_size)
        loss.backward()  # type: ignore[no-untyped-call]

    run()
    return _seconds(run)


def _free_bytes() -> float:
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _seconds(work: Callable[[], object]) -> float:
    """The lesser of two: the first time memory is new to the process, which in training it seldom is."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
