"""Every kind of model against its formula in dense float64, sampled with all neighbours and in
full, and LightGCN against PyG's.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch_geometric.nn import LightGCN as PyGLightGCN

from recmind_dist.distributed.context import DistContext
from recmind_dist.features.text_features import degree_feature
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.inference.final_embeddings import final_embeddings
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.model.layer_gate import LayerGate
from recmind_dist.model.lightgcn import LightGCN
from recmind_dist.model.models import Model, build_model
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.settings import MODELS, AnyModelSettings
from recmind_dist.model.subgraph import Subgraph
from recmind_dist.model.with_rows import with_rows
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler
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


def features(graph: Graph) -> tuple[Tensor, Tensor]:
    """d̃ and is_user of all nodes."""
    degree = torch.from_numpy(np.array(graph.degree))
    d = degree_feature(degree, int(degree.max()))
    return d, torch.arange(graph.num_nodes) < graph.num_users


def build(kind: str, layers: int, **settings: Any) -> Model:
    """With all parameters away from zero, so that no term drops out."""
    values = {"kind": kind, "embedding_dim": DIM, **settings}
    if kind != "mf":
        values["num_layers"] = layers
    model = build_model(TypeAdapter(AnyModelSettings).validate_python(values), TEXT)
    generator = torch.Generator().manual_seed(layers)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator))
    return model


def mean_of_states(operator: Tensor, x: Tensor, layers: int) -> Tensor:
    states = [x]
    for _ in range(layers):
        states.append(operator @ states[-1])
    return torch.stack(states).mean(0)


def mixed(model: RecMind, graph: Tensor, text: Tensor, d: Tensor, is_user: Tensor) -> Tensor:
    """[s γ v^G ‖ s (1 − γ) v^T ‖ b], views of length 1; s 1 and b 1 at the start on users, s 20 on
    items.
    """
    x = torch.stack([d, d**2, graph.norm(dim=1).clamp(min=1e-6).log()], 1)
    mix = deepcopy(model.mix).double()
    user, item = mix.users(x), mix.items(x)
    rows = []
    for node in range(len(d)):
        out, start = (user, 1.0) if is_user[node] else (item, 20.0)
        gamma, scale = torch.softmax(out[node, :2], 0), start * torch.exp(out[node, 2])
        views = [normalize(view[node], dim=0) for view in (graph, text)]
        bias = torch.ones(1, dtype=x.dtype) if is_user[node] else item[node, 3:]
        rows.append(torch.cat([scale * gamma[0] * views[0], scale * gamma[1] * views[1], bias]))
    return torch.stack(rows)


def papers(
    model: PaperRecMind, e: Tensor, z: Tensor, text: Tensor, operator: Tensor, d: Tensor, u: Tensor
) -> Tensor:
    """DESIGN's formulas word for word."""
    states, fused = [e], []
    for layer in range(model.num_layers + 1):
        x, gamma = states[-1], torch.ones(len(e), 1, dtype=e.dtype)
        if len(model.gates):
            gate = model.gates[layer]
            assert isinstance(gate, LayerGate)
            weight, bias = gate.out.weight.T.to(e), gate.out.bias.to(e)
            gamma = torch.sigmoid(torch.cat([x, z, d[:, None]], 1) @ weight + bias)
            if model.settings.gate.sides == "items":
                gamma = torch.where(u[:, None], 1.0, gamma)
        fused.append(gamma * x + (1 - gamma) * z)
        states.append(operator @ fused[-1])
    view = torch.stack(states[:-1]).mean(0)
    return {
        "fused": torch.stack(fused).mean(0),
        "graph": view,
        "text": text,
        "concat": torch.cat([view, text], 1),
        "alpha": (view + text) / 2,
    }[model.settings.readout]


def dense(model: Model, e: Tensor, z: Tensor, operator: Tensor, d: Tensor, u: Tensor) -> Tensor:
    """What the formulas say of all nodes, from e, z and d̃ in float64."""
    if isinstance(model, RecMind | PaperRecMind):
        z = z if model.settings.users_have_text else z * ~u[:, None]
        text = mean_of_states(operator, z, model.settings.text_layers)
        if isinstance(model, RecMind):
            return mixed(model, mean_of_states(operator, e, model.num_layers), text, d, u)
        return papers(model, e, z, text, operator, d, u)
    source = z * ~u[:, None] if hasattr(model, "text_view") else e
    return mean_of_states(operator, source, model.num_layers)


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


UNGATED = {"sides": "none"}
TWO_VIEWS: dict[str, Any] = {"views": "graph+text", "recent_decay": 0.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("mf", {}),
    ("lightgcn", {}),
    ("xsimgcl", {}),
    ("alpharec", {}),
    ("recmind", {**TWO_VIEWS, "text_layers": 0}),
    ("recmind", {**TWO_VIEWS, "text_layers": 1}),
    ("paper", {"gate": UNGATED}),
    ("paper", {"gate": {"sides": "both"}}),
    ("paper", {"gate": {"sides": "items"}}),
    ("paper", {"readout": "alpha", "text_layers": 1}),
    ("paper", {"readout": "graph", "text_layers": 1}),
    *(("paper", {"readout": r, "gate": UNGATED, "text_layers": 1}) for r in ("concat", "text")),
]


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=[f"{k}-{s}" for k, s in CASES])
def test_every_kind_is_its_formula_sampled_and_in_full(
    graph: Graph, kind: str, settings: dict[str, Any], layers: int
) -> None:
    if settings.get("text_layers", 0) > layers:
        pytest.skip("text views go no further than the graph's")
    if kind == "xsimgcl" and layers == 0:
        pytest.skip("XSimGCL contrasts its first layer")
    model = build(kind, layers, **settings)
    d, is_user = features(graph)
    generator = torch.Generator().manual_seed(7)
    e, z = (torch.randn(graph.num_nodes, DIM, generator=generator) for _ in range(2))
    operator = torch.from_numpy(normalised(graph))
    expected = dense(model, e.double(), z.double(), operator, d.double(), is_user)

    seeds = np.array([0, 17, 59, 60, 75, 99], dtype=np.int64)
    sampled = NumbaNeighborSampler(graph, (-1,) * model.num_layers).sample(seeds, key=5)
    n_id = torch.from_numpy(sampled.n_id)
    subgraph = Subgraph(sampled.hops, is_user[n_id], d[n_id])
    found = model(subgraph, e[n_id], z[n_id]).final
    torch.testing.assert_close(found.double(), expected[seeds], rtol=1e-5, atol=1e-5)

    propagation = FullPropagation(graph, row_bounds(graph, 1), DistContext.alone(), d)
    node_of_row = np.argsort(graph.row_of_node)
    final = final_embeddings(propagation, model, e[node_of_row], z[node_of_row])
    torch.testing.assert_close(final.final.double(), expected, rtol=1e-5, atol=1e-5)
    gates = 1 if kind == "recmind" else layers + 1
    if kind in ("recmind", "paper") and settings.get("gate") != UNGATED:
        assert final.gamma.shape == (gates, graph.num_nodes)
        items_only = settings.get("gate", {}).get("sides") == "items"
        assert bool((final.gamma[:, : graph.num_users] == 1).all()) == items_only
    else:
        assert len(final.gamma) == 0


def test_every_kind_has_a_formula_here() -> None:
    assert {kind for kind, _ in CASES} == set(MODELS)


@pytest.mark.parametrize("kind", ["recmind", "paper", "alpharec"])
def test_texts_of_items_are_enough_where_users_have_none(graph: Graph, kind: str) -> None:
    """Full propagation makes no text views of users whose model reads none."""
    settings = {} if kind == "alpharec" else {"text_layers": 2}
    ungated = {"gate": UNGATED, "readout": "concat"} if kind == "paper" else {}
    model = build(kind, 2, **settings, **ungated)
    d, _ = features(graph)
    operator = FullPropagation(graph, row_bounds(graph, 1), DistContext.alone(), d)
    generator = torch.Generator().manual_seed(7)
    e, z = (torch.randn(graph.num_nodes, DIM, generator=generator) for _ in range(2))
    for rows in (None, torch.tensor([93, 2, 61, 8])):
        view = operator.view(2, rows=rows)
        expected, found = model(view, e, z), model(view, e, z[operator.items])
        assert torch.equal(found.final, expected.final)
        assert torch.equal(found.text, expected.text)


def test_lightgcn_is_pygs(graph: Graph) -> None:
    theirs = PyGLightGCN(graph.num_nodes, DIM, num_layers=3)
    ours = LightGCN(graph.num_nodes, DIM, 3)
    assert isinstance(ours.embedding, nn.Embedding)
    with torch.no_grad():
        ours.embedding.weight.copy_(theirs.embedding.weight)
    source = torch.from_numpy(np.repeat(np.arange(graph.num_nodes), graph.degree))
    expected = theirs.get_embedding(
        torch.stack([source, torch.from_numpy(np.array(graph.indices)).long()])
    )
    d, is_user = features(graph)
    blocks = Subgraph([whole(graph)] * 3, is_user, d)
    assert torch.allclose(ours.get_embedding(blocks), expected, atol=1e-5)
    expected.square().sum().backward()
    ours(blocks, ours.embedding.weight).final.square().sum().backward()
    assert ours.embedding.weight.grad is not None
    assert theirs.embedding.weight.grad is not None
    assert torch.allclose(ours.embedding.weight.grad, theirs.embedding.weight.grad, atol=1e-5)


def test_a_lightgcn_without_a_table_has_nothing_but_rows_that_it_is_given(graph: Graph) -> None:
    model = build("lightgcn", 2)
    assert not list(model.parameters())
    d, is_user = features(graph)
    assert isinstance(model, LightGCN)
    with pytest.raises(AssertionError, match="owns no table"):
        model.get_embedding(Subgraph([whole(graph)] * 2, is_user, d))


def test_an_isolated_node_keeps_its_own_vector_in_the_first_layer_alone(graph: Graph) -> None:
    d, is_user = features(graph)
    e = torch.ones(graph.num_nodes, DIM)
    h = LightGCN(None, DIM, 2)(Subgraph([whole(graph)] * 2, is_user, d), e).final
    assert torch.allclose(h[59], torch.full((DIM,), 1 / 3))
    assert torch.isfinite(h).all()


def test_noise_of_xsimgcl_is_added_to_each_state_that_a_hop_gives(graph: Graph) -> None:
    d, is_user = features(graph)
    e = torch.randn(graph.num_nodes, DIM, generator=torch.Generator().manual_seed(0))
    blocks = Subgraph([whole(graph)] * 2, is_user, d)
    found = build("xsimgcl", 2)(blocks, e, noise=lambda x, layer: x + 10.0**layer)
    operator = torch.from_numpy(normalised(graph))
    first = operator @ e.double() + 1.0
    second = operator @ first + 10.0
    expected = [e.double(), first, second]
    assert len(found.layers) == 3
    for ours, theirs in zip(found.layers, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    mean = torch.stack(expected).mean(0)
    torch.testing.assert_close(found.final.double(), mean, rtol=1e-5, atol=1e-5)


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
