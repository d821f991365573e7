"""Sampled neighbourhoods: distinct, equal on all ranks, uniform, unbiased, without masked edges."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.graph import Graph
from recmind_dist.sampling.edge_masks import EdgeMask, edge_endpoints
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler, SampledHops
from tests.graphs import adjacency, make_graph, normalised, random_pairs

USERS, ITEMS, HUB = 120, 60, 120  # item 0, node 120, is liked by nearly everybody


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A hub, a long tail, and an isolated node on each side."""
    tail = [(u, i + 1) for u, i in random_pairs(USERS - 1, ITEMS - 2, 700, seed=2)]
    return make_graph(
        tmp_path_factory.mktemp("graph"), [(u, 0) for u in range(USERS - 1)] + tail, USERS, ITEMS
    )


def neighbours(sampled: SampledHops, hop: int) -> dict[int, list[int]]:
    """Global id → sampled global neighbours, in order, of each destination of a hop."""
    h = sampled.hops[hop]
    bounds, found = h.indptr.tolist(), sampled.n_id[h.indices.numpy()].tolist()
    return {int(sampled.n_id[k]): found[bounds[k] : bounds[k + 1]] for k in range(h.num_dst)}


def scales(graph: Graph, sampled: SampledHops) -> np.ndarray:
    """(available / sampled) / √degree of each destination of hop one, 0 without neighbours."""
    hop = sampled.hops[0]
    assert hop.matrix.weight is not None
    of_source = np.maximum(sampled.degree[hop.indices.numpy()], 1) ** 0.5
    by_edge = hop.matrix.weight.numpy() * of_source
    starts = hop.indptr.numpy()
    for first, stop in pairwise(starts.tolist()):
        assert np.allclose(by_edge[first:stop], by_edge[first:stop][:1])
    return np.where(np.diff(starts) > 0, np.append(by_edge, 0.0)[starts[:-1]], 0.0)


def edges_of(graph: Graph, *pairs: tuple[int, int]) -> np.ndarray:
    """Positions in the user half of edges given by global ids."""
    users, items = edge_endpoints(graph, np.arange(graph.num_edges))
    place = {pair: k for k, pair in enumerate(zip(users.tolist(), items.tolist(), strict=True))}
    return np.array([place[pair] for pair in pairs], dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(
    fan_out=st.integers(1, 130),
    key=st.integers(0, 2**64 - 1),
    seeds=st.sets(st.integers(0, 179), min_size=1),
)
def test_neighbours_are_distinct_real_and_as_many_as_asked(
    graph: Graph, fan_out: int, key: int, seeds: set[int]
) -> None:
    dense = adjacency(graph)
    sampled = NumbaNeighborSampler(graph, (fan_out, 3)).sample(np.array(sorted(seeds)), key)
    for hop, count in ((0, fan_out), (1, 3)):
        for node, found in neighbours(sampled, hop).items():
            assert len(set(found)) == len(found) == min(count, int(graph.degree[node]))
            assert dense[node, found].all()
    assert len(np.unique(sampled.n_id)) == len(sampled.n_id)
    assert sampled.n_id[: len(seeds)].tolist() == sorted(seeds)
    assert [h.num_dst for h in sampled.hops] == [len(seeds), sampled.hops[0].num_src]
    assert sampled.hops[1].num_src == len(sampled.n_id)


@settings(max_examples=60, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 179), min_size=2, max_size=40, unique=True),
    cut=st.integers(1, 39),
    hide=st.booleans(),
)
def test_a_nodes_neighbours_do_not_depend_on_who_else_is_asked_for(
    graph: Graph, seeds: list[int], cut: int, hide: bool
) -> None:
    batch_mask = EdgeMask.of_edges(
        graph, np.arange(0, graph.num_edges, 7) if hide else np.zeros(0, np.int64)
    )
    sampler = NumbaNeighborSampler(graph, (4, 3, 2))
    whole = sampler.sample(np.array(seeds), 11, batch_mask)
    part = sampler.sample(np.array(seeds[: min(cut, len(seeds))][::-1]), 11, batch_mask)
    for hop in range(3):
        expected = neighbours(whole, hop)
        for node, found in neighbours(part, hop).items():
            assert found == expected[node]


def test_hops_draw_afresh_and_keys_and_hops_change_the_draw(graph: Graph) -> None:
    sampler = NumbaNeighborSampler(graph, (5, 5))
    first = sampler.sample(np.array([HUB]), 1)
    assert neighbours(first, 0)[HUB] != neighbours(first, 1)[HUB]
    assert neighbours(first, 0)[HUB] != neighbours(sampler.sample(np.array([HUB]), 2), 0)[HUB]
    assert neighbours(first, 0) == neighbours(sampler.sample(np.array([HUB]), 1), 0)


def test_fan_out_minus_one_takes_all_and_scales_by_degree_alone(graph: Graph) -> None:
    sampled = NumbaNeighborSampler(graph, (-1,)).sample(np.arange(graph.num_nodes), 0)
    dense = adjacency(graph)
    for node, found in neighbours(sampled, 0).items():
        assert found == np.flatnonzero(dense[node]).tolist()
    degree = np.asarray(graph.degree)
    expected = np.where(degree > 0, np.maximum(degree, 1) ** -0.5, 0)
    np.testing.assert_allclose(scales(graph, sampled), expected, rtol=1e-6)


def test_an_isolated_node_has_no_neighbours_and_is_kept(graph: Graph) -> None:
    isolated = [USERS - 1, USERS + ITEMS - 1]
    assert graph.degree[isolated].tolist() == [0, 0]
    sampled = NumbaNeighborSampler(graph, (5, 5)).sample(np.array(isolated), 3)
    assert sampled.n_id.tolist() == isolated
    assert [len(h.indices) for h in sampled.hops] == [0, 0]


def test_no_seeds_give_empty_hops(graph: Graph) -> None:
    sampled = NumbaNeighborSampler(graph, (5, 5)).sample(np.zeros(0, np.int64), 3)
    assert [(h.num_dst, h.num_src, len(h.indices)) for h in sampled.hops] == [(0, 0, 0)] * 2


@pytest.mark.parametrize("fan_out", [1, 3, 60, 118])
def test_every_subset_of_a_hub_is_as_likely(graph: Graph, fan_out: int) -> None:
    """Chi-square of how often each of 119 neighbours is drawn in 4,000 blocks; draws of one block
    repel each other.
    """
    sampler, trials, population = (
        NumbaNeighborSampler(graph, (fan_out,)),
        4000,
        int(graph.degree[HUB]),
    )
    counts, firsts = np.zeros(graph.num_nodes), np.zeros(graph.num_nodes)
    for key in range(trials):
        found = neighbours(sampler.sample(np.array([HUB]), key), 0)[HUB]
        counts[found] += 1
        firsts[min(found)] += 1
    share = fan_out / population
    variance = trials * share * (1 - share) * population / (population - 1)
    chi = (
        (counts[graph.indices[graph.indptr[HUB] : graph.indptr[HUB + 1]]] - trials * share) ** 2
        / variance
    ).sum()
    assert abs(chi - (population - 1)) < 5 * np.sqrt(2 * (population - 1))
    if fan_out == 3:
        # the smallest of three is below the k-th with a known chance: subsets are fair, not only
        # members
        half = int(
            np.sort(graph.indices[graph.indptr[HUB] : graph.indptr[HUB + 1]])[population // 2]
        )
        above = population - population // 2
        expected = 1 - above * (above - 1) * (above - 2) / (
            population * (population - 1) * (population - 2)
        )
        assert abs(firsts[:half].sum() / trials - expected) < 5 * np.sqrt(
            expected * (1 - expected) / trials
        )


@pytest.mark.parametrize("hide", [False, True])
def test_the_mean_of_sampled_sums_is_the_full_sum(graph: Graph, hide: bool) -> None:
    """Unbiased, hop by hop, over the edges that are visible: 3,000 blocks, five standard errors."""
    edges = np.arange(0, graph.num_edges, 9) if hide else np.zeros(0, np.int64)
    users, items = edge_endpoints(graph, edges)
    operator = normalised(graph)
    operator[users, items] = operator[items, users] = 0.0
    x = np.random.default_rng(0).normal(size=graph.num_nodes)
    seeds, sampler = np.array([0, 5, HUB, HUB + 1, HUB + 30]), NumbaNeighborSampler(graph, (3,))
    batch_mask = EdgeMask.of_edges(graph, edges)
    sums = np.zeros((3000, len(seeds)))
    for key in range(len(sums)):
        sampled = sampler.sample(seeds, key, batch_mask)
        hop = sampled.hops[0]
        gathered = hop.matrix.weight.numpy() * x[sampled.n_id[hop.indices.numpy()]]
        per_seed = np.add.reduceat(np.append(gathered, 0.0), hop.indptr.numpy()[:-1])
        sums[key] = per_seed * (hop.indptr.diff().numpy() > 0)
    error = sums.std(0) / np.sqrt(len(sums))
    assert (np.abs(sums.mean(0) - (operator @ x)[seeds]) < 5 * error + 1e-6).all()
    assert (sums.std(0) > 0).any()


def test_two_hops_together_are_unbiased(graph: Graph) -> None:
    """A walk that revisits a node meets two independent neighbourhoods: the mean of A A x is not
    biased by them.
    """
    operator, sampler = normalised(graph), NumbaNeighborSampler(graph, (2, 2))
    x = np.random.default_rng(1).normal(size=graph.num_nodes)
    seeds = np.array([3, HUB, HUB + 2])
    sums = np.zeros((4000, len(seeds)))
    for key in range(len(sums)):
        sampled = sampler.sample(seeds, key)
        state = x[sampled.n_id]
        for hop in reversed(sampled.hops):
            values = hop.matrix.weight.numpy() * state[hop.indices.numpy()]
            owner = np.repeat(np.arange(hop.num_dst), hop.indptr.diff().numpy())
            state = np.bincount(owner, values, hop.num_dst)
        sums[key] = state
    error = sums.std(0) / np.sqrt(len(sums))
    assert (np.abs(sums.mean(0) - (operator @ operator @ x)[seeds]) < 5 * error).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), fan_out=st.sampled_from([-1, 1, 4, 200]))
def test_masked_edges_appear_in_neither_direction(
    graph: Graph, data: st.DataObject, fan_out: int
) -> None:
    """Masked as held-out edges, for the batch, or both; every other edge can still be drawn."""
    pick = st.sets(st.integers(0, graph.num_edges - 1), max_size=200)
    heldout, batch = (np.array(sorted(data.draw(pick)), np.int64) for _ in range(2))
    sampler = NumbaNeighborSampler(graph, (fan_out,), EdgeMask.of_edges(graph, heldout))
    sampled = sampler.sample(np.arange(graph.num_nodes), 4, EdgeMask.of_edges(graph, batch))
    users, items = edge_endpoints(graph, np.union1d(heldout, batch))
    visible = adjacency(graph)
    visible[users, items] = visible[items, users] = 0.0
    for node, found in neighbours(sampled, 0).items():
        expected = np.flatnonzero(visible[node])
        assert set(found) <= set(expected.tolist())
        assert (
            len(found)
            == len(set(found))
            == (len(expected) if fan_out < 0 else min(fan_out, len(expected)))
        )
    # the batch's edges are visible again
    afterwards = neighbours(sampler.sample(np.arange(graph.num_nodes), 4), 0)
    users, items = edge_endpoints(graph, heldout)
    for u, i in zip(users.tolist(), items.tolist(), strict=True):
        assert i not in afterwards[u]
        assert u not in afterwards[i]


def test_a_masked_edge_counts_in_the_degree_but_not_among_the_neighbours(graph: Graph) -> None:
    batch_mask = EdgeMask.of_edges(graph, edges_of(graph, (0, HUB), (1, HUB), (1, HUB)))
    sampled = NumbaNeighborSampler(graph, (4,)).sample(np.array([HUB]), 0, batch_mask)
    degree = int(graph.degree[HUB])
    assert sampled.degree[0] == degree
    assert scales(graph, sampled)[0] == pytest.approx((degree - 2) / 4 / degree**0.5)


OUT_OF_BOUNDS = """
import sys
import numpy as np
from pathlib import Path
from recmind_dist.graph import Graph
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler
graph = Graph.open(Path(sys.argv[1]))
for fan_out in (-1, 1, 2):
    NumbaNeighborSampler(graph, (fan_out,)).sample(np.array([120]), 0)
"""


def test_no_write_leaves_its_array(graph: Graph) -> None:
    """Compiled code checks no bounds, plain Python does."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "ignore", "-c", OUT_OF_BOUNDS, str(graph.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
