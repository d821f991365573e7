"""Sampled propagation with all neighbours is the dense operator, forward and backward, and PyG's
LightGCN.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import LightGCN

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.model import GatedLightGCN, GateSettings, ModelSettings
from recmind_dist.model.propagation import with_rows
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler
from recmind_dist.training.text_features import degree_feature
from tests.graphs import make_graph, normalised, random_pairs

DIM, TEXT = 8, 5


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """60 users and 40 items, the last of each without an edge."""
    return make_graph(tmp_path_factory.mktemp("graph"), random_pairs(59, 39, 420, seed=1), 60, 40)


def whole(graph: Graph) -> Hop:
    """The whole graph as one block in node order."""
    degree = np.maximum(graph.degree, 1).astype(np.float32)
    weight = np.repeat(degree, graph.degree) ** -0.5 * degree[np.array(graph.indices)] ** -0.5
    return Hop.of(CsrMatrix.of_arrays(graph.indptr, graph.indices, weight, graph.num_nodes))


def features(graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Degrees, d̃ and is_user of all nodes."""
    degree = torch.from_numpy(np.array(graph.degree))
    return (
        degree,
        degree_feature(degree, int(degree.max())),
        torch.arange(graph.num_nodes) < graph.num_users,
    )


def shaken(model: GatedLightGCN, seed: int) -> GatedLightGCN:
    """All parameters away from zero, so that no term drops out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator))
    return model


def dense_forward(
    model: GatedLightGCN, e: Tensor, z: Tensor, operator: Tensor, d: Tensor, is_user: Tensor
) -> Tensor:
    """DESIGN's formulas word for word, over dense matrices in float64: the mean of the fused
    states.
    """
    states, fused = [e], []
    for layer in range(model.num_layers + 1):
        x, gamma = states[-1], torch.ones(len(e), 1, dtype=e.dtype)
        if len(model.gates):
            gate = model.gates[layer]
            assert gate.hidden is None
            gamma = torch.sigmoid(
                torch.cat([x, z, d[:, None]], 1) @ gate.out.weight.T.to(e) + gate.out.bias.to(e)
            )
            if model.settings.gate.sides == "items":
                gamma = torch.where(is_user[:, None], 1.0, gamma)
        fused.append(gamma * x + (1 - gamma) * z if len(model.gates) else x)
        states.append(operator @ fused[-1])
    return torch.stack(fused).mean(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hop_is_the_dense_operator_both_ways(graph: Graph, dtype: torch.dtype) -> None:
    operator = torch.from_numpy(normalised(graph))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, 5, generator=generator).to(dtype).requires_grad_()
    out = whole(graph)(x)
    torch.testing.assert_close(out.double(), operator @ x.double(), rtol=1e-5, atol=1e-6)
    weight = torch.randn(out.shape, generator=generator).to(dtype)
    (out * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), operator.T @ weight.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["off", "both", "items"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_fan_out_minus_one_equals_dense_full_graph_propagation(
    graph: Graph, gate: str, layers: int
) -> None:
    _, d, is_user = features(graph)
    settings = ModelSettings(
        num_layers=layers,
        gate=GateSettings(enabled=gate != "off", sides="items" if gate == "items" else "both"),
    )
    model = shaken(GatedLightGCN(None, DIM, layers, TEXT, settings), seed=layers)
    generator = torch.Generator().manual_seed(7)
    e, z = (torch.randn(graph.num_nodes, DIM, generator=generator) for _ in range(2))
    operator = torch.from_numpy(normalised(graph))
    expected = dense_forward(model, e.double(), z.double(), operator, d.double(), is_user)

    seeds = np.array([0, 17, 59, 60, 75, 99], dtype=np.int64)
    sampled = NumbaNeighborSampler(graph, (-1,) * layers).sample(seeds, key=5)
    n_id = torch.from_numpy(sampled.n_id)
    views = model(e[n_id], z[n_id], is_user[n_id], sampled.hops, d[n_id])
    found = views.h[: len(seeds)]
    assert torch.allclose(found.double(), expected[seeds], atol=1e-5)

    propagation = FullPropagation(graph, row_bounds(graph, 1), DistContext.alone(), d)
    node_of_row = np.argsort(graph.row_of_node)
    final = propagation.final_embeddings(model, e[node_of_row], z[node_of_row])
    assert torch.allclose(final.h.double(), expected, atol=1e-5)
    if gate != "off":
        assert final.gamma.shape == (layers + 1, graph.num_nodes)
        assert bool((final.gamma[:, : graph.num_users] == 1).all()) == (gate == "items")


def test_a_plain_model_is_pygs_lightgcn(graph: Graph) -> None:
    theirs = LightGCN(graph.num_nodes, DIM, num_layers=3)
    ours = GatedLightGCN(graph.num_nodes, DIM, 3, settings=ModelSettings(use_text=False))
    assert isinstance(ours.embedding, nn.Embedding)
    with torch.no_grad():
        ours.embedding.weight.copy_(theirs.embedding.weight)
    source = torch.from_numpy(np.repeat(np.arange(graph.num_nodes), graph.degree))
    expected = theirs.get_embedding(
        torch.stack([source, torch.from_numpy(np.array(graph.indices)).long()])
    )
    _, d, is_user = features(graph)
    found = ours.get_embedding(None, is_user, whole(graph), d)
    assert torch.allclose(found, expected, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert ours.embedding.weight.grad is not None
    assert theirs.embedding.weight.grad is not None
    assert torch.allclose(ours.embedding.weight.grad, theirs.embedding.weight.grad, atol=1e-5)


def test_an_isolated_node_keeps_its_own_vector_in_the_first_layer_alone(graph: Graph) -> None:
    model = GatedLightGCN(None, DIM, 2, settings=ModelSettings(use_text=False))
    _, d, is_user = features(graph)
    e = torch.ones(graph.num_nodes, DIM)
    h = model(e, None, is_user, [whole(graph)] * 2, d).h
    assert torch.allclose(h[59], torch.full((DIM,), 1 / 3))
    assert torch.isfinite(h).all()


def test_the_head_of_a_state_gives_its_gradient_as_a_slice_does(graph: Graph) -> None:
    weight = torch.randn(graph.num_nodes, DIM, generator=torch.Generator().manual_seed(3))
    found = []
    for head in (lambda x, rows: with_rows(x, slice(rows)), lambda x, rows: (x, x[:rows])):
        x = torch.randn(
            graph.num_nodes, DIM, generator=torch.Generator().manual_seed(4), requires_grad=True
        )
        state, first = head(x, 7)
        ((whole(graph)(state) * weight).sum() + (first * weight[:7]).sum()).backward()
        assert x.grad is not None
        found.append(x.grad)
    assert torch.equal(*found)
