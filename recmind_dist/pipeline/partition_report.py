"""How good a graph's partition is: what `recmind prepare` prints."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recmind_dist.graph import Graph, row_bounds
from recmind_dist.graph.partition import judge
from recmind_dist.pipeline.simulated_traffic import simulate_traffic
from recmind_dist.run_config.run_config import RunConfig


@dataclass(frozen=True)
class PartitionReport:
    """A partition into as many parts as there are workers.

    Attributes:
        graph: its directory.
        cut_share: of the edges, those between parts.
        edge_balance: edges of the fullest part over the mean.
        node_balance: likewise.
        remote_share: of a batch's rows, those on other ranks; None where no batch is simulated.
    """

    graph: Path
    partition: str
    parts: int
    cut_share: float
    edge_balance: float
    node_balance: float
    remote_share: float | None

    def __str__(self) -> str:
        line = (
            f"partition: {self.partition}, {self.parts} parts: {100 * self.cut_share:.1f} % of the "
            f"edges cut, the fullest part has {self.edge_balance:.3f} x the mean of edges and "
            f"{self.node_balance:.3f} x of nodes"
        )
        if self.remote_share is None:
            return line
        return f"{line}; {100 * self.remote_share:.1f} % of a batch's rows are remote"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def judge_partition(config: RunConfig, graph: Graph) -> PartitionReport:
    """Cut edges, balance, and remote rows of a batch."""
    workers = config.scaling.max_workers
    world_size = workers if workers > 1 else len(graph.part_rows) - 1
    found = judge(graph, row_bounds(graph, world_size))
    remote = None
    if world_size > 1 and not config.propagates_fully and config.sampler.backend != "pyg":
        batch = simulate_traffic(config, graph, world_size, range(min(world_size, 4)))
        remote = batch.remote / max(batch.nodes, 1)
    return PartitionReport(
        graph.path,
        config.graph.partition,
        world_size,
        found.cut,
        found.edges,
        found.nodes,
        remote,
    )
