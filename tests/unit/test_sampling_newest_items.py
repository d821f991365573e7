"""Newest items of users, and the content views made of them, against sums written out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recmind_dist.distributed.context import DistContext
from recmind_dist.features.content_views import make_content_views
from recmind_dist.features.text_features import load_text_features
from recmind_dist.graph import EdgeRows, Graph, prepare_rows, row_bounds
from recmind_dist.propagation.item_means import NeighbourMeans
from recmind_dist.sampling.edge_masks import EdgeMask, heldout_slice
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.newest_items import NewestItems
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings
from recmind_dist.text import TextStore, Whitening
from tests.graphs import make_graph, random_pairs
from tests.training_runs import make_inputs

USERS, ITEMS, DECAY = 60, 40, 0.5


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The last user and the last item have no edge."""
    pairs = random_pairs(USERS - 1, ITEMS - 1, 420, seed=1)
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, USERS, ITEMS)


def newest_first(graph: Graph, user: int, hidden: np.ndarray) -> list[tuple[int, int]]:
    """(time rank, item) of the edges that are not hidden, written out."""
    edges = [e for e in range(graph.indptr[user], graph.indptr[user + 1]) if not hidden[e]]
    return sorted(((int(graph.time_rank[e]), int(graph.indices[e])) for e in edges), reverse=True)


@pytest.mark.parametrize("count", [-1, 1, 3])
def test_the_newest_come_first_and_weigh_most(graph: Graph, count: int) -> None:
    hidden = heldout_slice(graph, 0.5, 3, 0.3)
    rows = EdgeRows.of_graph(graph)
    mask = EdgeMask.of_edges(graph, np.flatnonzero(hidden))
    found = NewestItems(rows, DECAY, mask).of_users(np.arange(USERS), count)
    at = 0
    for user in range(USERS):
        expected = newest_first(graph, user, hidden)[: None if count < 0 else count]
        own = slice(at, at + found.counts[user])
        assert found.items[own].tolist() == [item for _, item in expected], user
        weight = np.array([DECAY ** (expected[0][0] - rank) for rank, _ in expected])
        np.testing.assert_allclose(found.weight[own], weight / max(weight.sum(), 1), rtol=1e-6)
        at += found.counts[user]
    assert at == len(found.items)


@pytest.mark.parametrize("fan_outs", [(-1, -1), (2, 3)])
def test_a_gate_batch_brings_the_newest_items_of_its_users(
    graph: Graph, fan_outs: tuple[int, int]
) -> None:
    hidden = heldout_slice(graph, 0.5, 3)
    loader = NeighborLoader(
        graph,
        SamplerSettings(num_neighbors=fan_outs, negatives=NegativeSettings(num_shared=5)),
        32,
        "shared",
        heldout=hidden,
        gate_batch_size=9,
        newest_decay=DECAY,
    )
    brought = 0
    for step in loader.batches(0):
        assert step.main.newest is None
        assert step.gate is not None
        batch, newest = step.gate, step.gate.newest
        assert newest is not None
        assert batch.num_targets <= batch.num_seeds == newest.num_cols
        assert int(batch.src_index.max()) < batch.num_targets
        dense = newest.matmul(torch.eye(newest.num_cols))
        for row in range(batch.num_targets):
            node, seen = int(batch.n_id[row]), dense[row].nonzero().squeeze(1)
            expected = newest_first(graph, node, hidden) if node < USERS else []
            expected = expected[: None if fan_outs[0] < 0 else fan_outs[0]]
            assert set(batch.n_id[seen].tolist()) == {item for _, item in expected}
            brought += len(expected)
    assert brought > 0


def test_rows_of_a_rank_know_the_order_in_time(graph: Graph) -> None:
    prepare_rows(graph.path)
    bounds = row_bounds(graph, 2)
    for rank in (0, 1):
        share = EdgeRows.share(Graph.open(graph.path, edges=False), bounds, rank)
        for k in np.flatnonzero(share.nodes < USERS):
            own = slice(share.indptr[k], share.indptr[k + 1])
            user = share.nodes[k]
            whole = slice(graph.indptr[user], graph.indptr[user + 1])
            assert np.array_equal(share.time_rank[own], graph.time_rank[whole])


def test_withheld_items_keep_few_edges_and_users_keep_one(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(400, 60, 6000, seed=2), 400, 60)
    hidden = heldout_slice(graph, 0.0, 7, withheld_items=0.5)
    both = heldout_slice(graph, 0.3, 7, withheld_items=0.5)
    assert (both == (hidden | heldout_slice(graph, 0.3, 7))).all()
    item = np.asarray(graph.indices[: graph.num_edges]) - graph.num_users
    left = np.bincount(item[~hidden], minlength=60)
    touched = np.bincount(item[hidden], minlength=60) > 0
    assert 15 < touched.sum() < 45
    assert left[touched].mean() < 4
    assert (left[~touched] == graph.degree[400:][~touched]).all()
    user = np.repeat(np.arange(400), graph.degree[:400])
    assert (np.bincount(user[~hidden], minlength=400) > 0).all()


def test_content_is_an_items_own_text_and_the_means_of_a_user(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    assert inputs.text is not None
    assert inputs.whitening is not None
    graph = Graph.open(inputs.graph)
    store, whitening = TextStore.open(inputs.text), Whitening.load(inputs.whitening)
    hidden = heldout_slice(graph, 0.5, 3)
    mask = EdgeMask.of_edges(graph, np.flatnonzero(hidden))
    rows = EdgeRows.of_graph(graph)
    visible = np.ones(len(rows.indices), np.bool_)
    visible[mask.in_csr(rows)] = False
    row_of_node = np.asarray(graph.row_of_node)
    by_row = np.argsort(row_of_node)
    seen_by_row = visible[rows.edges_of(by_row)[1]]
    context, counts = DistContext.alone(), [graph.num_nodes]
    everybody, alike, newer = (
        NeighbourMeans(rows, by_row, seen_by_row, counts, context, decay)
        for decay in (None, 1.0, DECAY)
    )
    loaded = load_text_features(
        rows, store, whitening, by_row, np.array([0, len(by_row)]), everybody, context
    ).rows
    is_user = torch.from_numpy(by_row < graph.num_users)
    content = make_content_views(loaded.text, is_user, alike, newer, 2)
    view, [newest] = content.select(torch.from_numpy(row_of_node))
    text = loaded.select(torch.from_numpy(row_of_node))
    unit = normalize(text.text.float(), dim=1)
    torch.testing.assert_close(view[graph.num_users :], unit[graph.num_users :])
    assert not newest[graph.num_users :].any()
    for user in range(graph.num_users):
        seen = newest_first(graph, user, hidden)
        seen_texts = [(rank, unit[item]) for rank, item in seen if not text.absent[item]]
        if not seen_texts:
            assert not view[user].any()
            continue
        mean = torch.stack([vector for _, vector in seen_texts]).mean(0)
        torch.testing.assert_close(
            normalize(view[user], dim=0), normalize(mean, dim=0), atol=2e-3, rtol=0
        )
        weighted = sum(DECAY ** (seen[0][0] - rank) * vector for rank, vector in seen_texts)
        assert isinstance(weighted, torch.Tensor)
        torch.testing.assert_close(
            normalize(newest[user], dim=0), normalize(weighted, dim=0), atol=2e-3, rtol=0
        )
    means, lacking, nearest = torch.zeros(text.text.shape), [], {}
    for node in range(graph.num_nodes):  # the fallback's mean is over neighbours that have a text
        own = slice(rows.indptr[node], rows.indptr[node + 1])
        nearest[node] = rows.indices[own][visible[own]].tolist()
        near = [u for u in nearest[node] if not text.absent[u]]
        if near:
            means[node] = text.text[near].float().mean(0)
        elif nearest[node]:
            lacking.append(node)
    of_neighbours = {node: means[nearest[node]].mean(0) for node in lacking}
    for node, mean in of_neighbours.items():  # where none of them has, over what theirs say
        means[node] = mean
    torch.testing.assert_close(text.neighbour_text.float(), means, atol=2e-3, rtol=2e-3)
