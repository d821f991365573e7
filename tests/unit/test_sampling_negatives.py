"""Negatives are never positives, follow their distribution, and do not depend on who draws them."""

from pathlib import Path

import numpy as np
import pytest

from recmind_dist.graph import Graph
from recmind_dist.sampling.edge_masks import edge_endpoints
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.settings import NegativeSettings
from tests.graphs import adjacency, make_graph, random_pairs

USERS, ITEMS = 40, 30


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Item 29 is cold. User 39 has all others: 64 tries may not find it, which is said and not
    tested.
    """
    pairs = random_pairs(USERS - 1, ITEMS - 1, 500, seed=5) + [
        (USERS - 1, i) for i in range(ITEMS - 1)
    ]
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, USERS, ITEMS)


def sampler(graph: Graph, kind: str = "uniform", **more: object) -> NegativeSampler:
    return NegativeSampler(graph, NegativeSettings.model_validate({"kind": kind, **more}))


@pytest.mark.parametrize("kind", ["uniform", "popularity", "in_batch"])
def test_a_negative_is_an_item_and_never_a_positive(graph: Graph, kind: str) -> None:
    users = np.tile(np.arange(USERS - 1), 20)
    pool = np.arange(USERS, USERS + ITEMS)
    drawn = sampler(graph, kind, num=3, beta=-1.0).for_pairs(users, np.arange(len(users)), 9, pool)
    assert drawn.shape == (len(users), 3)
    assert drawn.min() >= USERS
    assert drawn.max() < USERS + ITEMS
    assert not adjacency(graph)[users[:, None], drawn].any()


def test_in_batch_negatives_are_positives_of_the_batch(graph: Graph) -> None:
    pool = np.array([USERS + 3, USERS + 29])
    drawn = sampler(graph, "in_batch", num=2).for_pairs(np.arange(USERS), np.arange(USERS), 1, pool)
    assert set(drawn.ravel().tolist()) <= set(pool.tolist())


def test_a_user_with_everything_ends_the_search(graph: Graph, tmp_path: Path) -> None:
    full = make_graph(tmp_path, [(0, 0), (0, 1), (1, 0)], 2, 2)
    drawn = sampler(full).for_pairs(np.array([0]), np.array([0]), 1, np.zeros(0, np.int64))
    assert drawn[0, 0] in (2, 3)


def test_a_draw_depends_on_the_sample_and_not_on_its_company(graph: Graph) -> None:
    users, ids = np.arange(30), np.arange(100, 130)
    whole = sampler(graph, num=4).for_pairs(users, ids, 3, np.zeros(0, np.int64))
    part = sampler(graph, num=4).for_pairs(users[7:12], ids[7:12], 3, np.zeros(0, np.int64))
    np.testing.assert_array_equal(part, whole[7:12])
    assert (
        sampler(graph, num=4).for_pairs(users, ids + 1, 3, np.zeros(0, np.int64)) != whole
    ).any()


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.5, 1.0])
def test_popularity_draws_in_proportion_to_degree_to_the_beta(tmp_path: Path, beta: float) -> None:
    """User 0 has no positive, so nothing is redrawn; items of degree 0 count as 1."""
    degrees = [0, 1, 2, 4, 8, 16]
    graph = make_graph(
        tmp_path, [(u + 1, i) for i, d in enumerate(degrees) for u in range(d)], 17, 6
    )
    trials = 20_000
    drawn = sampler(graph, "popularity", beta=beta).for_pairs(
        np.zeros(trials, np.int64), np.arange(trials), 5, np.zeros(0, np.int64)
    )
    weight = np.maximum(degrees, 1.0) ** beta
    expected = trials * weight / weight.sum()
    found = np.bincount(drawn.ravel() - 17, minlength=6)
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("kind", ["uniform", "popularity", "in_batch"])
def test_shared_negatives_are_distinct_ascending_items(graph: Graph, kind: str) -> None:
    pool = np.array([USERS + 1, USERS + 1, USERS + 8])
    for key in range(20):
        shared = sampler(graph, kind, num_shared=12).shared(key, pool)
        assert (np.diff(shared) > 0).all()
        assert 0 < len(shared) <= 12
        assert shared[0] >= USERS
        assert shared[-1] < USERS + ITEMS
        assert kind != "in_batch" or set(shared.tolist()) <= set(pool.tolist())
    assert not np.array_equal(
        sampler(graph, num_shared=12).shared(0, pool), sampler(graph, num_shared=12).shared(1, pool)
    )


def test_positives_among_the_shared_are_those_of_the_graph(graph: Graph) -> None:
    dense = adjacency(graph).astype(bool)
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, ITEMS):
        shared = USERS + np.sort(rng.choice(ITEMS, size, replace=False))
        users = rng.integers(0, USERS, 25)
        np.testing.assert_array_equal(
            sampler(graph).positives_among(users, shared), dense[users][:, shared]
        )


def test_edge_endpoints_name_the_edges(graph: Graph) -> None:
    users, items = edge_endpoints(graph, np.arange(graph.num_edges))
    assert (np.diff(users) >= 0).all()
    assert adjacency(graph)[users, items].all()
    assert len(set(zip(users.tolist(), items.tolist(), strict=True))) == graph.num_edges
