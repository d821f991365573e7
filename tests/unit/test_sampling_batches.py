"""Batches: ranks share the global batch, an epoch has every edge once, fields are as in PyG."""

from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.errors import ConfigError
from recmind_dist.graph import Graph
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.edge_masks import edge_endpoints, heldout_slice
from recmind_dist.sampling.graph_access import WholeGraph
from recmind_dist.sampling.loader import NeighborLoader, make_sampler
from recmind_dist.sampling.neighbor_sampler import Drawn
from recmind_dist.sampling.pyg_sampler import PygNeighborSampler, pyg_op_resolves
from recmind_dist.sampling.settings import SamplerSettings
from tests.graphs import adjacency, make_graph, random_pairs

USERS, ITEMS = 50, 40


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    pairs = random_pairs(USERS - 1, ITEMS - 1, 600, seed=3)
    lonely = [p for p in pairs if p[0] != 7] + [(7, 0)]  # user 7 has a single edge
    return make_graph(tmp_path_factory.mktemp("graph"), lonely, USERS, ITEMS)


def loader(graph: Graph, rank: int = 0, world_size: int = 1, **more: Any) -> NeighborLoader:
    sampler = SamplerSettings.model_validate({"num_neighbors": [4, 3], **more.pop("sampler", {})})
    return NeighborLoader(
        graph,
        sampler,
        more.pop("batch_size", 64),
        more.pop("negatives", "pairs"),
        seed=5,
        rank=rank,
        world_size=world_size,
        **more,
    )


def pairs_of(batch: Batch) -> np.ndarray:
    """This rank's pairs in global ids, by way of the local indices. Shape: [b, 2]."""
    return torch.stack([batch.n_id[batch.src_index], batch.n_id[batch.dst_pos_index]], 1).numpy()


def same(a: StepBatches, b: StepBatches) -> bool:
    def tensors(batch: Batch | None) -> list[torch.Tensor]:
        if batch is None:
            return []
        hops = [t for hop in batch.hops for t in (hop.indptr, hop.indices, hop.matrix.weight)]
        return [v for v in vars(batch).values() if isinstance(v, torch.Tensor)] + hops

    left, right = (tensors(x.main) + tensors(x.gate) for x in (a, b))
    return a.step == b.step and len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("negatives", ["pairs", "shared", "none"])
def test_the_ranks_shares_are_the_global_batch(
    graph: Graph, world_size: int, negatives: str
) -> None:
    more = {"negatives": negatives, "heldout": heldout_slice(graph, 0.4, 1), "gate_batch_size": 10}
    alone = list(loader(graph, **more).batches(1))
    shares = [list(loader(graph, r, world_size, **more).batches(1)) for r in range(world_size)]
    assert {len(s) for s in shares} == {len(alone)}
    for step, whole in enumerate(alone):
        for kind in ("main", "gate"):
            expected, parts = getattr(whole, kind), [getattr(s[step], kind) for s in shares]
            np.testing.assert_array_equal(
                np.concatenate([pairs_of(p) for p in parts]), pairs_of(expected)
            )
            np.testing.assert_array_equal(expected.pairs.T, pairs_of(expected))
            assert torch.cat([p.input_id for p in parts]).tolist() == expected.input_id.tolist()
            for part in parts:
                assert torch.equal(part.pairs, expected.pairs[:, part.input_id])
                assert part.global_batch_size == len(expected.input_id)
                drawn = part.n_id[part.dst_neg_index]
                assert torch.equal(drawn, expected.n_id[expected.dst_neg_index][part.input_id])
                assert torch.equal(
                    part.n_id[part.shared_index], expected.n_id[expected.shared_index]
                )
                theirs = expected.shared_positive[expected.user_of_pair]
                assert torch.equal(part.shared_positive[part.user_of_pair], theirs[part.input_id])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_epoch_has_every_edge_once_but_the_held_out(graph: Graph, share: float) -> None:
    heldout = heldout_slice(graph, share, 2)
    orders = []
    for epoch in (0, 1):
        found = np.concatenate(
            [pairs_of(s.main) for s in loader(graph, heldout=heldout).batches(epoch)]
        )
        users, items = edge_endpoints(graph, np.flatnonzero(~heldout))
        expected = set(zip(users.tolist(), items.tolist(), strict=True))
        assert len(found) == len(expected)
        assert set(map(tuple, found.tolist())) == expected
        orders.append(found)
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("first", [0, 3, 8])
def test_entering_an_epoch_at_a_step_equals_coming_to_it(graph: Graph, first: int) -> None:
    more: dict[str, Any] = {"heldout": heldout_slice(graph, 0.5, 2), "gate_batch_size": 9}
    whole = list(loader(graph, **more).batches(2))
    entered = list(loader(graph, **more).batches(2, first))
    assert len(entered) == len(whole) - first > 0
    assert all(map(same, entered, whole[first:]))
    assert [s.step for s in entered] == list(range(2 * len(whole) + first, 3 * len(whole)))


def test_fields_are_those_of_pygs_loaders(graph: Graph) -> None:
    step = next(loader(graph, sampler={"negatives": {"num": 2}}).batches(0))
    batch, dense = step.main, adjacency(graph)
    assert batch.batch_size == len(batch.input_id) == batch.global_batch_size == 64
    assert batch.dst_neg_index.shape == (64, 2)
    seeds = torch.cat([batch.src_index, batch.dst_pos_index, batch.dst_neg_index.ravel()]).unique()
    assert seeds.tolist() == list(range(batch.num_seeds))
    assert sum(batch.num_sampled_nodes) == len(batch.n_id) == len(batch.n_id.unique())
    assert batch.num_sampled_nodes[0] == batch.num_seeds
    assert sum(batch.num_sampled_edges) == batch.edge_index.shape[1]
    source, target = batch.n_id[batch.edge_index]
    assert dense[source, target].all()
    assert batch.edge_index[1].max() < batch.hops[-1].num_dst
    assert batch.degree.tolist() == graph.degree[batch.n_id.numpy()].tolist()
    assert batch.to(torch.device("cpu")) is batch


@pytest.mark.parametrize("hide", [True, False])
def test_a_batch_sees_its_own_edges_only_where_it_may(graph: Graph, hide: bool) -> None:
    heldout = heldout_slice(graph, 0.5, 2)
    users, items = edge_endpoints(graph, np.flatnonzero(heldout))
    secret = set(zip(users.tolist(), items.tolist(), strict=True))
    settings = {"hide_batch_edges": hide, "num_neighbors": [-1, -1]}
    seen_own = 0
    for step in loader(graph, sampler=settings, heldout=heldout, gate_batch_size=16).batches(0):
        own = set(map(tuple, pairs_of(step.main).tolist()))
        for batch in (step.main, step.gate):
            assert batch is not None
            seen = {(int(min(e)), int(max(e))) for e in batch.n_id[batch.edge_index].T.tolist()}
            assert not seen & secret
            seen_own += len(seen & own) if batch is step.main else 0
    assert (seen_own == 0) == hide


def test_nodes_count_by_the_degrees_that_the_masked_edges_leave(graph: Graph) -> None:
    heldout = heldout_slice(graph, 0.5, 2, 0.3)
    left = np.array(graph.degree)
    for ends in edge_endpoints(graph, np.flatnonzero(heldout)):
        left -= np.bincount(ends, minlength=graph.num_nodes)
    assert (left < graph.degree).any()
    settings = {"propagation": "full"}
    made = loader(graph, sampler=settings, heldout=heldout, gate_batch_size=9, degree=left)
    steps = list(made.batches(0))
    assert len(steps) == made.steps_per_epoch > 0
    for step in steps:
        assert step.gate is not None
        assert np.array_equal(step.gate.degree.numpy(), left[step.gate.n_id.numpy()])
        assert np.array_equal(step.main.degree.numpy(), left[step.main.n_id.numpy()])


def test_gate_pairs_are_held_out_and_all_of_them_come(graph: Graph) -> None:
    heldout = heldout_slice(graph, 0.5, 2)
    users, items = edge_endpoints(graph, np.flatnonzero(heldout))
    steps = list(loader(graph, heldout=heldout, gate_batch_size=7).batches(0))
    found = [tuple(p) for s in steps if s.gate is not None for p in pairs_of(s.gate).tolist()]
    assert set(found) == set(zip(users.tolist(), items.tolist(), strict=True))
    assert max(map(found.count, found)) - min(map(found.count, found)) <= 1


def test_the_held_out_slice_is_the_newest_edge_of_a_share_of_users(graph: Graph) -> None:
    everybody = heldout_slice(graph, 1.0, 4)
    users, _ = edge_endpoints(graph, np.flatnonzero(everybody))
    degree = graph.degree[:USERS]
    assert users.tolist() == np.flatnonzero(degree >= 2).tolist()  # nobody is emptied
    assert (np.asarray(graph.time_rank)[everybody] == degree[users] - 1).all()
    some, again, other = (heldout_slice(graph, 0.5, seed) for seed in (4, 4, 5))
    assert np.array_equal(some, again)
    assert not np.array_equal(some, other)
    assert 0.25 * everybody.sum() < some.sum() < 0.75 * everybody.sum()
    assert not (some & ~everybody).any()
    assert not heldout_slice(graph, 0.0, 4).any()


def test_more_ranks_than_pairs_are_refused_and_empty_shares_are_served(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size is 2"):
        loader(graph, world_size=3, batch_size=2)
    sizes = {
        loader_step.main.batch_size
        for loader_step in loader(
            graph, 0, 3, batch_size=3, heldout=heldout_slice(graph, 1.0, 1), negatives="shared"
        ).batches(0)
    }
    assert 0 in sizes


def test_pygs_backend_is_refused_where_it_is_not(graph: Graph) -> None:
    if pyg_op_resolves():
        pytest.skip("pyg-lib is here")
    with pytest.raises(ConfigError, match=r"sampler\.backend: pyg"):
        make_sampler(WholeGraph(graph), SamplerSettings(backend="pyg"))


def test_pygs_backend_leaves_torchs_generator_as_it_was(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its op draws from the process's generator; a block still depends on its key only."""

    def drawn(
        self: PygNeighborSampler, frontier: np.ndarray, fan_out: int, masked: np.ndarray
    ) -> Drawn:
        neighbours = torch.randint(len(frontier), (len(frontier),), dtype=torch.int32).numpy()
        ones = np.ones(len(frontier), np.int32)
        return Drawn(ones, ones.astype(np.float32), neighbours, frontier)

    monkeypatch.setattr("recmind_dist.sampling.pyg_sampler.pyg_op_resolves", lambda: True)
    monkeypatch.setattr(PygNeighborSampler, "_hop", drawn)
    sampler, seeds = PygNeighborSampler(graph, (3, 3)), np.arange(5)
    before = torch.get_rng_state()
    first, again, other = (sampler.sample(seeds, key).hops[0].indices for key in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_draws_from_torchs_generator_is_not_sampled_ahead() -> None:
    assert SamplerSettings(backend="pyg").batches_ahead == 0
    assert SamplerSettings(backend="numba").batches_ahead > 0


@pytest.mark.skipif(
    not pyg_op_resolves(),
    reason="pyg-lib's neighbor_sample is not installed (README.md names its index)",
)
@pytest.mark.parametrize("fan_out", [-1, 3])
def test_pygs_backend_samples_the_same_neighbourhoods(graph: Graph, fan_out: int) -> None:
    from recmind_dist.sampling.edge_masks import EdgeMask

    batch_mask = EdgeMask.of_edges(graph, np.arange(0, graph.num_edges, 5))
    seeds = np.arange(graph.num_nodes)[::-1].copy()
    found = PygNeighborSampler(graph, (fan_out, fan_out)).sample(seeds, 3, batch_mask)
    users, items = edge_endpoints(graph, np.arange(0, graph.num_edges, 5))
    visible = adjacency(graph)
    visible[users, items] = visible[items, users] = 0.0
    for hop in found.hops:
        for k in range(hop.num_dst):
            near = found.n_id[hop.indices[int(hop.indptr[k]) : int(hop.indptr[k + 1])].numpy()]
            assert len(set(near.tolist())) == len(near)
            assert visible[found.n_id[k], near].all()
    if fan_out < 0:
        assert len(found.hops[0].indices) == visible.sum()
        hop, degree = found.hops[0], np.maximum(graph.degree, 1)
        row = np.repeat(np.arange(hop.num_dst), hop.indptr.diff())
        expected = (degree[seeds[row]] * degree[found.n_id[hop.indices]]) ** -0.5
        np.testing.assert_allclose(hop.matrix.weight, expected, rtol=1e-6)
