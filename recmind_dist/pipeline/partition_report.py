"""How good a graph's partition is: what `recmind prepare` prints."""

from recmind_dist.graph import Graph, row_bounds
from recmind_dist.graph.partition import judge
from recmind_dist.pipeline.simulated_traffic import simulate_traffic
from recmind_dist.run_config.run_config import RunConfig


def partition_report(config: RunConfig, graph: Graph) -> str:
    """How good the partition is: cut edges, balance, and remote rows of a batch."""
    workers = config.scaling.max_workers
    world_size = workers if workers > 1 else len(graph.part_rows) - 1
    found = judge(graph, row_bounds(graph, world_size))
    line = (
        f"partition: {config.graph.partition}, {world_size} parts: {100 * found.cut:.1f} % of the "
        f"edges cut, the fullest part has {found.edges:.3f} x the mean of edges and "
        f"{found.nodes:.3f} x of nodes"
    )
    no_simulation = config.propagates_fully or config.sampler.backend == "pyg"
    if world_size == 1 or no_simulation:
        return line
    batch = simulate_traffic(config, graph, world_size, range(min(world_size, 4)))
    return f"{line}; {100 * batch.remote / max(batch.nodes, 1):.1f} % of a batch's rows are remote"
