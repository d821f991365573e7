"""Batches and graphs as PyG's data: its models learn from them, exactly if all neighbours come."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.nn import LGConv, LightGCN, SAGEConv
from torch_geometric.utils import k_hop_subgraph, trim_to_layer

from recmind_dist import Graph, NeighborLoader
from recmind_dist.errors import ConfigError
from recmind_dist.sampling.settings import SamplerSettings
from tests.graphs import Pairs, make_graph, random_pairs

USERS, ITEMS, TASTES = 80, 64, 4


def split_by_taste() -> tuple[Pairs, Pairs]:
    """Users who like a quarter of the catalogue: each has seven items to train on, two to find."""
    rng, train, test = np.random.default_rng(3), [], []
    for user in range(USERS):
        liked = TASTES * rng.permutation(ITEMS // TASTES)[:9] + user % TASTES
        train += [(user, int(item)) for item in liked[:7]]
        test += [(user, int(item)) for item in liked[7:]]
    return [train[k] for k in rng.permutation(len(train))], test


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    train, test = split_by_taste()
    return make_graph(tmp_path_factory.mktemp("tastes"), train, USERS, ITEMS, test=test)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make_graph(tmp_path_factory.mktemp("graph"), random_pairs(50, 40, 600, seed=3), 50, 40)


def loader(
    graph: Graph,
    num_neighbors: list[int],
    batch_size: int = 64,
    kind: str = "pairs",
    **sampler: Any,
) -> NeighborLoader:
    settings = SamplerSettings.model_validate({"num_neighbors": num_neighbors, **sampler})
    return NeighborLoader(graph, settings, batch_size, kind, seed=5)


def whole(graph: Graph) -> Tensor:
    """All edges both ways, over global ids. Shape: [2, 2E]."""
    return graph.to_hetero_data().to_homogeneous(add_edge_type=False).edge_index


def test_pygs_lightgcn_learns_from_our_batches(tastes: Graph) -> None:
    torch.manual_seed(0)
    model = LightGCN(tastes.num_nodes, 16, num_layers=2, normalize=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for epoch in range(10):
        for step in loader(tastes, [5, 5], 112).batches(epoch):
            data = step.main.to_data()
            items = torch.cat([data.dst_pos_index, data.dst_neg_index])
            pairs = torch.stack([data.src_index.repeat(2), items])
            scores = model(data.n_id[data.edge_index], data.n_id[pairs], data.edge_weight)
            loss = model.recommendation_loss(*scores.chunk(2), node_id=data.n_id[pairs].unique())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 50
    assert losses[0] > 0.9 * math.log(2)  # a guess
    assert np.mean(losses[-5:]) < 0.5 * math.log(2)
    found = share_of_test_items_found(model, tastes, 10)
    assert found > 3 * 10 / ITEMS


def share_of_test_items_found(model: LightGCN, graph: Graph, k: int) -> float:
    """Share of the test items that come among the first k, items trained on left out."""
    data = graph.to_hetero_data(split="test")
    edge_index = whole(graph)
    degree = torch.from_numpy(graph.degree).clamp(min=1)
    with torch.no_grad():
        final = model.get_embedding(edge_index, degree[edge_index].prod(0).rsqrt())
    scores = final[: graph.num_users] @ final[graph.num_users :].T
    user, item = data["user", "rates", "item"].edge_index
    scores[user, item] = -torch.inf
    first = scores.topk(k).indices
    user, item = data["user", "rates", "item"].edge_label_index
    return (first[user] == item[:, None]).any(1).float().mean().item()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_neighbours_give_what_the_whole_graph_gives(graph: Graph, layers: int) -> None:
    torch.manual_seed(1)
    model = LightGCN(graph.num_nodes, 8, num_layers=layers, normalize=True)
    expected = model.get_embedding(whole(graph))
    unnormalised = LightGCN(graph.num_nodes, 8, num_layers=layers, normalize=False)
    unnormalised.load_state_dict(model.state_dict())
    batch = next(loader(graph, [-1] * layers, 8, hide_batch_edges=False).batches(0)).main
    data = batch.to_data()
    found = unnormalised.get_embedding(data.n_id[data.edge_index], data.edge_weight)
    seeds = data.n_id[: batch.num_seeds]
    assert torch.allclose(found[seeds], expected[seeds], atol=1e-6)
    _, edges, _, mask = k_hop_subgraph(seeds, layers, whole(graph), directed=True)
    expected_edges = whole(graph)[:, mask]
    assert edges_of(data.n_id[data.edge_index]) == edges_of(expected_edges)
    assert data.edge_index.shape == edges.shape


def edges_of(edge_index: Tensor) -> set[tuple[int, int]]:
    return {(int(source), int(target)) for source, target in edge_index.T}


def test_few_neighbours_give_it_on_average(graph: Graph) -> None:
    x = torch.randn(graph.num_nodes, 1, generator=torch.Generator().manual_seed(2))
    exact, sample = LGConv()(x, whole(graph)), LGConv(normalize=False)
    off: list[list[float]] = [[] for _ in range(graph.num_nodes)]
    for epoch in range(60):
        for step in loader(graph, [2, 3], 100, hide_batch_edges=False).batches(epoch):
            data = step.main.to_data()
            found = sample(x[data.n_id], data.edge_index, data.edge_weight)
            for k, node in enumerate(data.n_id[: step.main.num_seeds].tolist()):
                off[node].append(found[k].item() - exact[node].item())
    often = [values for values in off if len(values) > 30]
    counts, means, spreads = (np.array([f(o) for o in often]) for f in (len, np.mean, np.std))
    assert len(counts) > 60
    assert spreads.mean() > 0.05  # they are samples
    z = means / np.maximum(spreads, 1e-6) * np.sqrt(counts)
    assert abs(z).max() < 4.5
    assert np.sqrt((z**2).mean()) < 1.3


def test_layers_may_be_trimmed_to_their_hops(graph: Graph) -> None:
    torch.manual_seed(4)
    convs = [SAGEConv(6, 6), SAGEConv(6, 6)]
    batch = next(loader(graph, [3, 3], 4).batches(0)).main
    data = batch.to_data()
    assert sum(data.num_sampled_nodes) == data.num_nodes
    assert sum(data.num_sampled_edges) == data.num_edges
    x = torch.randn(data.num_nodes, 6)
    trimmed, edge_index = x, data.edge_index
    for layer, conv in enumerate(convs):
        trimmed, edge_index, _ = trim_to_layer(
            layer, data.num_sampled_nodes, data.num_sampled_edges, trimmed, edge_index
        )
        trimmed = conv(trimmed, edge_index)
    first_hop = data.edge_index[:, : data.num_sampled_edges[0]]
    untrimmed = convs[1](convs[0](x, data.edge_index), first_hop)
    assert torch.allclose(trimmed[: batch.num_seeds], untrimmed[: batch.num_seeds], atol=1e-6)


@pytest.mark.parametrize(("num", "shape"), [(1, (64,)), (3, (64, 3))])
def test_fields_are_those_of_pygs_loader(graph: Graph, num: int, shape: tuple[int, ...]) -> None:
    batch = next(loader(graph, [4, 3], negatives={"num": num}).batches(0)).main
    data = batch.to_data()
    assert data.validate()
    assert data.batch_size == len(data.input_id) == 64
    assert data.dst_neg_index.shape == shape
    assert "shared_index" not in data
    edges = data.n_id[data.edge_index]
    assert edges_of(edges) <= edges_of(whole(graph))
    assert len(edges_of(edges)) == data.num_edges
    assert edges_of(edges) == edges_of(batch.n_id[batch.edge_index])
    user, item = data.n_id[data.src_index], data.n_id[data.dst_pos_index]
    assert (user < graph.num_users).all()
    assert torch.equal(torch.stack([user, item]), batch.pairs)


def test_shared_negatives_come_by_their_own_name(graph: Graph) -> None:
    data = next(loader(graph, [2], kind="shared").batches(0)).main.to_data()
    assert (data.n_id[data.shared_index] >= graph.num_users).all()
    assert "dst_neg_index" not in data


def test_a_batch_without_sampled_edges_is_refused(graph: Graph) -> None:
    batch = next(loader(graph, [2], propagation="full").batches(0)).main
    with pytest.raises(ConfigError, match=r"no sampled edges.*Graph\.to_hetero_data"):
        batch.to_data()


def test_a_graph_is_pygs_both_ways_with_its_degrees(tastes: Graph) -> None:
    data = tastes.to_hetero_data()
    assert data.validate()
    assert data.node_types == ["user", "item"]
    assert data.edge_types == [("user", "rates", "item"), ("item", "rev_rates", "user")]
    train, _ = split_by_taste()
    assert edges_of(data["user", "rates", "item"].edge_index) == set(train)
    edges, reverse = data["user", "rates", "item"], data["item", "rev_rates", "user"]
    assert torch.equal(reverse.edge_index, edges.edge_index.flip(0))
    for kind, row in (("user", 0), ("item", 1)):
        counted = edges.edge_index[row].bincount(minlength=data[kind].num_nodes)
        assert torch.equal(data[kind].degree, counted)
    source = np.repeat(np.arange(tastes.num_nodes), tastes.degree).tolist()
    assert edges_of(whole(tastes)) == set(zip(source, tastes.indices.tolist(), strict=True))
    place = {pair: at for at, pair in enumerate(train)}
    for user in range(3):
        mine = edges.edge_index[0] == user
        in_time = edges.edge_index[1][mine][edges.time_rank[mine].argsort()].tolist()
        assert in_time == sorted(in_time, key=lambda item: place[user, item])


def test_held_out_edges_are_labels_and_opened_only_when_asked_for(tmp_path: Path) -> None:
    train, test = split_by_taste()
    graph = make_graph(tmp_path, train, USERS, ITEMS, test=test)
    edges = graph.to_hetero_data(split="test")["user", "rates", "item"]
    assert edges_of(edges.edge_label_index) == set(test)
    assert edges.edge_label.tolist() == [1.0] * len(test)
    assert edges_of(edges.edge_index) == set(train)
    (graph.path / "test_indices.npy").unlink()
    assert "edge_label_index" not in graph.to_hetero_data()["user", "rates", "item"]
    with pytest.raises(ValueError, match="split 'dev': valid or test"):
        graph.to_hetero_data(split="dev")


def test_pyg_is_imported_only_by_who_asks_for_it() -> None:
    code = (
        "import sys; from recmind_dist import Graph, NeighborLoader, LightGCN\n"
        "print([m for m in sys.modules if m.startswith('torch_geometric')])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, timeout=200, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_code_of_the_page_runs(graph: Graph) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pyg.md").read_text(encoding="utf-8")
    opening, *blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "graph = Graph.open(" in opening
    names: dict[str, Any] = {"graph": graph}
    for block in blocks:
        exec(block, names)
    assert names["scores"].shape == (names["step"].main.batch_size,)
    assert names["whole"].num_edges == 2 * graph.num_edges
