"""A rank's work for a batch of its own pairs does not grow with the number of ranks."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.one_rank import rank_loader
from recmind_dist.graph import Graph
from recmind_dist.pipeline.simulated_traffic import weak_scaling
from recmind_dist.randomness import Permutation
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.edge_masks import EdgeMask, heldout_slice
from recmind_dist.sampling.graph_access import WholeGraph
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.shares import Shares
from recmind_dist.types import IntArray
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of

PLAIN = {"kind": "lightgcn", "embedding_dim": 8}
STEPS = 4


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    home = tmp_path_factory.mktemp("graph")
    return make_graph(home, random_pairs(1200, 300, 9000, seed=1), 1200, 300)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts positions of the order, pairs that negatives are drawn for, and entries masked."""
    counts: Counter[str] = Counter()

    def counting(owner: Any, name: str, kind: str, argument: int) -> None:
        real = getattr(owner, name)

        def counted(*args: Any) -> Any:
            counts[kind] += len(args[argument])
            return real(*args)

        kept = staticmethod(counted) if isinstance(owner.__dict__[name], staticmethod) else counted
        monkeypatch.setattr(owner, name, kept)

    counting(Permutation, "__call__", "positions", 1)
    counting(NegativeSampler, "for_pairs", "pairs", 1)
    counting(EdgeMask, "_of_positions", "masked", 0)
    return counts


def work_of(config: RunConfig, graph: Graph, world: int, own: int, counts: Any, **more: Any) -> Any:
    """What a rank in the middle counts a step."""
    loader = rank_loader(weak_scaling(config, world, own), graph, world // 2, world, **more)
    counts.clear()
    for _ in zip(range(STEPS), loader.batches(0), strict=False):
        pass
    return {kind: count / STEPS for kind, count in counts.items()}


@pytest.mark.parametrize("placement", ["partitioned", "replicated"])
@pytest.mark.parametrize("world", [2, 16, 128])
def test_a_rank_looks_up_draws_and_hides_its_own_pairs_alone(
    tmp_path: Path, graph: Graph, work: Counter[str], world: int, placement: str
) -> None:
    config = config_of(
        tmp_path,
        "run",
        model=PLAIN,
        alignment={"weight": 0},
        loss={"kind": "bpr"},
        graph={"placement": placement},
    )
    own = 16
    assert config.sampler.hide_batch_edges
    assert work_of(config, graph, world, own, work) == {
        "positions": own,
        "pairs": own,
        "masked": 2 * own,
    }


@pytest.mark.parametrize("placement", ["partitioned", "replicated"])
@pytest.mark.parametrize("world", [2, 16, 128])
def test_users_with_all_their_edges_cost_a_rank_a_few_shares(
    tmp_path: Path, graph: Graph, work: Counter[str], world: int, placement: str
) -> None:
    """One share to count, and those that a cut by edges touches, at any number of ranks."""
    config = config_of(
        tmp_path,
        "run",
        model=PLAIN,
        alignment={"weight": 0},
        loss={"kind": "bpr"},
        train={"batch_of": "users"},
        sampler={"hide_batch_edges": False},
        graph={"placement": placement},
    )
    own, held_out = 2, np.flatnonzero(heldout_slice(graph, 0.5, 1))
    found = work_of(config, graph, world, own, work, held_out=held_out)
    degree = (graph.num_edges - len(held_out)) / graph.num_users
    assert found["pairs"] < 2 * own * degree
    # up to eight thousand positions are counted ahead, here an epoch's
    ahead = min(graph.num_users / (own * world), 4000) / STEPS
    assert found["positions"] <= own * ahead + 4 * own


@pytest.mark.parametrize("batch_of", ["pairs", "users"])
@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("world", [2, 3, 11])
def test_shares_follow_one_another_and_are_even(
    graph: Graph, batch_of: str, share: float, world: int
) -> None:
    heldout: IntArray = np.flatnonzero(heldout_slice(graph, share, 1))
    size, steps = (2000, 5) if batch_of == "pairs" else (260, 5)
    source = WholeGraph(graph, 0, world)
    made = [
        Shares(graph, size, batch_of, steps, heldout, 3, rank, world, source)
        for rank in range(world)
    ]
    seen = []
    for i in range(1, steps):  # entered at its second step
        shares = [of_rank.of_step(2, i) for of_rank in made]
        whole = shares[0].whole()
        assert np.array_equal(np.concatenate([s.edges for s in shares]), whole)
        assert {s.total for s in shares} == {len(whole)}
        assert [s.first for s in shares] == [len(whole) * r // world for r in range(world)]
        seen.append(whole)
    together = np.concatenate(seen)
    assert len(np.unique(together)) == len(together)
    assert not np.isin(together, heldout).any()
