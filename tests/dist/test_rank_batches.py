"""Batches of real ranks, whoever has the edges, are the shares that one process cuts for each."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows, Graph, prepare_rows, row_bounds
from recmind_dist.sampling.batch import Batch
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.sampling.graph_access import GraphAccess, WholeGraph
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.partitioned_graph import OwnerMaskedGraph, PartitionedGraph
from recmind_dist.sampling.settings import SamplerSettings
from tests.graphs import make_graph, random_pairs
from tests.processes import run_ranks

GATES = {"gate_batch_size": 10, "newest_decay": 0.7}
# placement, kind of negatives, whether edges are hidden, whether some are held out, options
CASES: list[tuple[str, str, bool, bool, dict[str, Any]]] = [
    ("partitioned", "popularity", True, False, {}),
    ("partitioned", "popularity", True, True, GATES | {"negatives": "shared"}),
    ("partitioned", "uniform", False, True, GATES | {"batch_of": "users", "batch_size": 17}),
    ("partitioned", "in_batch", False, True, {"batch_of": "users", "batch_size": 17}),
    ("partitioned", "in_batch", True, False, {"negatives": "shared"}),
    ("replicated", "popularity", True, True, GATES),
    ("replicated", "popularity", False, True, GATES | {"negatives": "shared"}),
    ("replicated", "in_batch", False, True, {"batch_of": "users", "batch_size": 17}),
]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    home = tmp_path_factory.mktemp("graph")
    made = make_graph(home, random_pairs(80, 50, 900, seed=4), 80, 50, num_parts=6)
    prepare_rows(made.path)
    return made


def flat(value: Any) -> list[Any]:
    """All that a batch holds, tensors as lists."""
    if isinstance(value, Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, list):
        return [flat(part) for part in value]
    if dataclasses.is_dataclass(value):
        return [flat(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [value]


def batches_of(graph: Graph, rank: int, world: int, case: int, source: GraphAccess) -> list[Any]:
    """Two batches and their gates' from the second step of an epoch on."""
    _, kind, hide, held_out, options = CASES[case]
    settings = SamplerSettings.model_validate(
        {
            "propagation": "sampled",
            "num_neighbors": [4, 3],
            "hide_batch_edges": hide,
            "negatives": {"kind": kind, "num": 2, "num_shared": 15},
        }
    )
    whole = Graph.open(graph.path)
    more = {"batch_size": 120, **options}
    if held_out:
        more["heldout"] = heldout_slice(whole, 0.4, 1, 0.1)
    ranks = {"rank": rank, "world_size": world, "source": source}
    loader = NeighborLoader(graph, settings, more.pop("batch_size"), seed=5, **more, **ranks)
    found: list[Batch | None] = []
    for _, step in zip(range(2), loader.batches(1, 1), strict=False):
        found += [step.main, step.gate]
    return [flat(batch) for batch in found]


def of_this_rank(path: Path, shared_memory: bool) -> list[Any]:
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    found = []
    for case, (placement, _, hide, _, _) in enumerate(CASES):
        partitioned = placement == "partitioned"
        graph = Graph.open(path, edges=not partitioned)
        bounds = row_bounds(graph, context.world_size)
        source: GraphAccess
        if partitioned:
            rows = EdgeRows.share(graph, bounds, context.rank)
            source = PartitionedGraph(rows, bounds, context)
        elif hide:
            source = OwnerMaskedGraph(EdgeRows.of_graph(graph), bounds, context)
        else:
            source = WholeGraph(graph, context.rank, context.world_size, context)
        found.append(batches_of(graph, context.rank, context.world_size, case, source))
    return found


@pytest.mark.parametrize(("world", "shared_memory"), [(2, True), (3, False)])
def test_batches_of_ranks_are_the_shares_of_one_process(
    graph: Graph, world: int, shared_memory: bool
) -> None:
    found = run_ranks(of_this_rank, world, graph.path, shared_memory)
    for rank in range(world):
        for case in range(len(CASES)):
            source = WholeGraph(graph, rank, world)
            expected = batches_of(graph, rank, world, case, source)
            assert found[rank][case] == expected, (rank, CASES[case])
