"""The paper's model: who takes gradient, what the readouts are, which nodes the gates reach."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.model.layer_gate import LayerGate
from recmind_dist.model.node_embeddings import NodeEmbeddings, Trainable, score
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.settings import PaperSettings
from recmind_dist.model.subgraph import Subgraph

DIM, TEXT, LAYERS, NODES, USERS = 4, 6, 2, 7, 3
# users 0..2, items 3..6; item 6 has no edge
ROWS = ((3, 4), (4, 5), (3,), (0, 2), (0, 1), (1,), ())
DEGREE = torch.tensor([len(row) for row in ROWS])
DEGREE_FEATURE = torch.log1p(DEGREE.float()) / torch.log1p(torch.tensor(2.0))


def graph() -> Subgraph:
    """The whole graph, a block a layer, all its nodes wanted."""
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), DEGREE.cumsum(0)])
    indices = torch.tensor([u for row in ROWS for u in row], dtype=torch.int32)
    scale = DEGREE.clamp(min=1).float().rsqrt()
    weight = scale.repeat_interleave(DEGREE) * scale[indices.long()]
    block = Hop.of(CsrMatrix(indptr.int(), indices, weight, NODES))
    return Subgraph([block] * LAYERS, torch.arange(NODES) < USERS, DEGREE_FEATURE)


def build(**settings: Any) -> PaperRecMind:
    torch.manual_seed(0)
    values = {"embedding_dim": DIM, "num_layers": LAYERS, **settings}
    model = PaperRecMind(PaperSettings.model_validate(values), TEXT)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * 0.5)
    return model


def inputs() -> tuple[Tensor, Tensor]:
    """e, z."""
    generator = torch.Generator().manual_seed(3)
    e, z = (torch.randn(NODES, DIM, generator=generator).requires_grad_() for _ in range(2))
    return e, z


def run(model: PaperRecMind, trainable: Trainable = "all") -> tuple[NodeEmbeddings, Tensor, Tensor]:
    e, z = inputs()
    return model(graph(), e, z, trainable), e, z


def learners(model: PaperRecMind, trainable: Trainable) -> set[str]:
    """Which of rows, text views and gates get a gradient that is not zero."""
    embeddings, e, z = run(model, trainable)
    (embeddings.final * torch.linspace(-1, 2, NODES * DIM).view(NODES, DIM)).sum().backward()
    found = {name for name, x in (("e", e), ("z", z)) if x.grad is not None and x.grad.any()}
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.any():
            found.add(name.split(".")[0])
    return found


EVERYTHING = {"e", "z", "gates"}


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [("all", EVERYTHING), ("embeddings", {"e", "z"}), ("gates", EVERYTHING - {"e", "z"})],
)
def test_gradient_goes_where_trainable_says(trainable: Trainable, expected: set[str]) -> None:
    assert learners(build(), trainable) == expected


def test_what_learns_does_not_change_what_is_computed() -> None:
    model = build()
    for trainable in ("embeddings", "gates"):
        assert torch.equal(run(model, trainable)[0].final, run(model)[0].final)  # type: ignore[arg-type]


def test_resting_gates_still_pass_gradient_to_their_inputs() -> None:
    """Rows' gradient under "embeddings" is that of "all": the gates' own parameters alone rest."""
    grads = []
    for trainable in ("all", "embeddings"):
        model = build()
        embeddings, e, _ = run(model, trainable)  # type: ignore[arg-type]
        embeddings.final.square().sum().backward()
        grads.append(e.grad)
    assert grads[0] is not None
    assert torch.equal(*grads)  # type: ignore[arg-type]


def test_readouts_are_what_they_are_called() -> None:
    found = run(build(readout="graph"))[0]
    assert torch.equal(found.final, found.graph)
    found = run(build(readout="text", text_layers=0))[0]
    assert torch.equal(found.final, found.text)
    assert torch.equal(found.final, inputs()[1])
    found = run(build(readout="alpha"))[0]
    assert torch.allclose(found.final, (found.graph + found.text) / 2)
    found = run(build(readout="concat"))[0]
    assert torch.equal(found.final, torch.cat([found.graph, found.text], 1))


def test_fused_readout_lets_language_reach_a_node_without_edges() -> None:
    """Item 6 has no neighbour: fused over propagation alone its gate could not act on it."""
    model = build()
    embeddings, _, z = run(model)
    embeddings.final[6].sum().backward()
    assert z.grad is not None
    assert z.grad[6].any()
    gate = model.gates[0]
    assert isinstance(gate, LayerGate)
    assert gate.out.weight.grad is not None
    assert gate.out.weight.grad.any()
    assert not z.grad[:6].any()


def test_gates_for_items_only_leave_users_to_the_graph() -> None:
    embeddings = run(build(gate={"sides": "items"}))[0]
    for gamma in embeddings.gamma:
        assert bool((gamma[:USERS] == 1).all())
        assert bool((gamma[USERS:] < 1).all())
    both = run(build())[0]
    assert not bool((both.gamma[0][:USERS] == 1).any())


@pytest.mark.parametrize("readout", ["fused", "graph"])
def test_without_gates_these_readouts_are_the_graph_view(readout: str) -> None:
    model = build(gate={"sides": "none"}, readout=readout)
    assert not len(model.gates)
    embeddings, _, z = run(model)
    assert torch.equal(embeddings.final, embeddings.graph)
    assert embeddings.gamma == []
    embeddings.final.sum().backward()
    assert z.grad is None or not z.grad.any()


def test_a_gate_starts_with_graph_and_language_alike_whatever_its_input() -> None:
    model = PaperRecMind(PaperSettings(embedding_dim=DIM), TEXT)
    assert len(model.gates) == 3
    for gate in model.gates:
        assert torch.equal(gate(*inputs(), DEGREE_FEATURE), torch.full((NODES, 1), 0.5))


def test_a_gate_without_degree_input_does_not_see_the_degree() -> None:
    e, z = inputs()
    for seen in (True, False):
        torch.manual_seed(1)
        gate = LayerGate(DIM, degree_input=seen)
        torch.nn.init.normal_(gate.out.weight)
        same = torch.equal(gate(e, z, DEGREE_FEATURE), gate(e, z, DEGREE_FEATURE + 1))
        assert same == (not seen)


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_score_divides_by_the_items_norm_to_the_exponent(exponent: float) -> None:
    users, items = torch.randn(3, DIM), torch.randn(5, DIM)
    expected = torch.stack(
        [torch.stack([u @ i / i.norm() ** exponent for i in items]) for u in users]
    )
    assert torch.allclose(score(users, items, exponent), expected, atol=1e-6)
    assert torch.isfinite(score(users, torch.zeros(1, DIM), exponent)).all()
