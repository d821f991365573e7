"""What a rank of a thousand holds for every node of a partitioned graph, its own or not."""

import ctypes
import gc
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cluster_model import MAPPED_BYTES, NODE_BYTES, RECMIND_NODE_BYTES
from benchmarks.graphs import write_graph
from benchmarks.one_rank import LoopbackTransport
from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import prepare_rows
from recmind_dist.propagation.item_means import content_view
from recmind_dist.storage import atomic_directory
from recmind_dist.training.loaders import make_loader
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of

RANKS = 1000
NODES = 200_000, 600_000


def make_large(home: Path, num_nodes: int) -> Path:
    """A graph of four users for an item, who have two items each."""
    items, path = num_nodes // 5, home / f"graph{num_nodes}"
    users = num_nodes - items
    user = np.repeat(np.arange(users), 2)
    item = (user * 7 + np.tile([0, 1 + items // 2], users)) % items
    with atomic_directory(path) as work:
        write_graph(work, f"nodes{num_nodes}", user, item, users, items)
    prepare_rows(path)
    return path


def held_bytes() -> int:
    """Anonymous memory of this process: no mapped files."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    [kib] = re.findall(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kib)


def bytes_of_stages(home: Path, graphs: list[Path]) -> list[tuple[int, int, int]]:
    """Of each graph: bytes held once batches can be made, bytes after a validation's embeddings,
    and the number of held-out edges.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed is given back
    loopback = [LoopbackTransport(0) for _ in range(3)]
    context = DistContext(0, RANKS, torch.device("cpu"), *loopback)
    config = config_of(
        home,
        "run",
        model={
            "kind": "recmind",
            "views": "graph",
            "init": "normal",
            "recent_decay": 0.6,
            "gate": {"withheld_items": 0.1},
        },
        graph={"placement": "partitioned"},
        alignment={"weight": 0},
        sampler={"negatives": {"kind": "popularity", "num_shared": 12}},
        scaling={"num_workers": RANKS},
        train={"batch_size": 2 * RANKS},
    )
    gate, found = config.gate, []
    assert gate is not None
    for graph in [graphs[0], *graphs]:  # the first once more: code is loaded and compiled by then
        before = held_bytes()
        shard = ModelShard(config, RunStores(graph), context)
        heldout = shard.heldout_edges(gate.heldout_share)
        degree = shard.degrees(heldout)
        loader = make_loader(
            config, shard.graph, "joint", 0, RANKS, shard.edges, held_out=heldout, degree=degree
        )
        for negatives in (loader._negatives, loader._gate_negatives):
            assert len(negatives.cumulative) == shard.graph.num_items
        ready = held_bytes() - before
        shard.final_embeddings()
        # what texts would need beside
        operator = shard._propagation
        content_view(operator, torch.ones(len(shard.nodes), 2), 0.6)
        assert operator.is_fixed  # one matrix, which texts pass over too
        found.append((ready, held_bytes() - before, len(heldout)))
        del shard, loader, operator, heldout, degree, negatives
    return found[1:]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_rank_holds_what_is_said_for_every_node(tmp_path: Path) -> None:
    graphs = [make_large(tmp_path, num_nodes) for num_nodes in NODES]
    [small, large] = run_ranks(bytes_of_stages, 1, tmp_path, graphs)[0]
    nodes = NODES[1] - NODES[0]
    ready, validated, heldout = ((b - a) / nodes for a, b in zip(small, large, strict=True))
    expected = NODE_BYTES + RECMIND_NODE_BYTES + 8 * heldout
    assert ready == pytest.approx(expected, abs=0.5)
    assert validated < expected + 2.0  # of them own rows and edges of the operator
    per_node = [
        (graphs[1] / name).stat().st_size - (graphs[0] / name).stat().st_size
        for name in ("indptr.npy", "row_of_node.npy")
    ]
    assert sum(per_node) / nodes == MAPPED_BYTES
