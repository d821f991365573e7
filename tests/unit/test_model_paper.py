"""Who takes gradient, what the readouts and variants are, where the fallback stands in."""

import pytest
import torch
from torch import Tensor

from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.model import (
    FallbackSettings,
    GatedLightGCN,
    GateSettings,
    ModelSettings,
    NodeEmbeddings,
    TextRows,
    TextView,
    Trainable,
    score,
)
from recmind_dist.model.gate import Gate

DIM, TEXT, LAYERS, NODES, USERS = 4, 6, 2, 7, 3
# users 0..2, items 3..6; item 6 has no edge
ROWS = ((3, 4), (4, 5), (3,), (0, 2), (0, 1), (1,), ())


def block() -> Hop:
    degree = torch.tensor([len(row) for row in ROWS])
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
    indices = torch.tensor([u for row in ROWS for u in row], dtype=torch.int32)
    scale = degree.clamp(min=1).float().rsqrt()
    weight = scale.repeat_interleave(degree) * scale[indices.long()]
    return Hop.of(CsrMatrix(indptr.int(), indices, weight, NODES))


def build(**settings: object) -> GatedLightGCN:
    torch.manual_seed(0)
    model = GatedLightGCN(None, DIM, LAYERS, TEXT, ModelSettings.model_validate(settings))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * 0.5)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """e, z, is_user, d̃."""
    generator = torch.Generator().manual_seed(3)
    e, z = (torch.randn(NODES, DIM, generator=generator).requires_grad_() for _ in range(2))
    degree = torch.tensor([len(row) for row in ROWS])
    return (
        e,
        z,
        torch.arange(NODES) < USERS,
        torch.log1p(degree.float()) / torch.log1p(torch.tensor(2.0)),
    )


def run(
    model: GatedLightGCN, trainable: Trainable = "all"
) -> tuple[NodeEmbeddings, Tensor, Tensor]:
    e, z, is_user, d = inputs()
    return model(e, z, is_user, [block()] * LAYERS, d, trainable), e, z


def learners(model: GatedLightGCN, trainable: Trainable) -> set[str]:
    """Which of rows, text views and gates get a gradient that is not zero."""
    views, e, z = run(model, trainable)
    (views.h * torch.linspace(-1, 2, NODES * DIM).view(NODES, DIM)).sum().backward()
    found = {name for name, x in (("e", e), ("z", z)) if x.grad is not None and x.grad.any()}
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.any():
            found.add(name.split(".")[0])
    return found


EVERYTHING = {"e", "z", "gates"}


@pytest.mark.parametrize(
    ("learn", "expected"),
    [("all", EVERYTHING), ("embeddings", {"e", "z"}), ("gates", EVERYTHING - {"e", "z"})],
)
def test_gradient_goes_where_learn_says(trainable: Trainable, expected: set[str]) -> None:
    assert learners(build(), trainable) == expected


def test_what_learns_does_not_change_what_is_computed() -> None:
    model = build()
    for trainable in ("embeddings", "gates"):
        assert torch.equal(run(model, trainable)[0].h, run(model)[0].h)  # type: ignore[arg-type]


def test_resting_gates_still_pass_gradient_to_their_inputs() -> None:
    """The rows' gradient under learn="embeddings" is that of "all": only the gates' own parameters
    rest.
    """
    grads = []
    for trainable in ("all", "embeddings"):
        model = build()
        views, e, _ = run(model, trainable)  # type: ignore[arg-type]
        views.h.square().sum().backward()
        grads.append(e.grad)
    assert grads[0] is not None
    assert torch.equal(*grads)  # type: ignore[arg-type]


def test_readouts_are_what_they_are_called() -> None:
    def h_of(readout: str, **more: object) -> tuple[Tensor, NodeEmbeddings]:
        views = run(build(readout=readout, **more))[0]
        return views.h, views

    h, views = h_of("graph")
    assert torch.equal(h, views.graph)
    h, views = h_of("text")
    assert torch.equal(h, views.text)
    assert torch.equal(h, inputs()[1])
    h, views = h_of("alpha", alpha=0.25)
    assert torch.allclose(h, 0.25 * views.graph + 0.75 * views.text)
    h, views = h_of("concat")
    assert torch.equal(h, torch.cat([views.graph, views.text], 1))


def test_fused_readout_lets_language_reach_a_node_without_edges() -> None:
    """Item 6 has no neighbour: fused over propagation alone its gate could not act on it."""
    model = build()
    views, _, z = run(model)
    views.h[6].sum().backward()
    assert z.grad is not None
    assert z.grad[6].any()
    assert model.gates[0].out.weight.grad is not None
    assert model.gates[0].out.weight.grad.any()
    assert not z.grad[:6].any()


def test_gates_for_items_only_leave_users_to_the_graph() -> None:
    views = run(build(gate={"sides": "items"}))[0]
    for gamma in views.gamma:
        assert bool((gamma[:USERS] == 1).all())
        assert bool((gamma[USERS:] < 1).all())
    both = run(build())[0]
    assert not bool((both.gamma[0][:USERS] == 1).any())


def test_without_text_gates_and_readout_play_no_part() -> None:
    e, _, is_user, d = inputs()
    for readout in ("fused", "alpha", "graph", "text"):
        plain = GatedLightGCN(
            None,
            DIM,
            LAYERS,
            0,
            ModelSettings.model_validate({"use_text": True, "readout": readout}),
        )
        assert not list(plain.parameters())
        views = plain(e, None, is_user, [block()] * LAYERS, d)
        assert torch.equal(views.h, views.graph)
        assert views.gamma == []


@pytest.mark.parametrize(("bias", "gamma"), [(0.0, 0.5), (2.0, 0.8807970779778823)])
def test_a_gate_starts_at_its_bias_whatever_its_input(bias: float, gamma: float) -> None:
    gate = Gate(DIM, GateSettings(initial_bias=bias))
    e, z, _, d = inputs()
    assert torch.allclose(gate(e, z, d), torch.full((NODES, 1), gamma))


def test_a_gate_without_degree_input_does_not_see_the_degree() -> None:
    e, z, _, d = inputs()
    for seen in (True, False):
        torch.manual_seed(1)
        gate = Gate(DIM, GateSettings(degree_input=seen))
        torch.nn.init.normal_(gate.out.weight)
        assert torch.equal(gate(e, z, d), gate(e, z, d + 1)) == (not seen)


def test_the_fallback_stands_in_exactly_where_text_is_absent() -> None:
    torch.manual_seed(2)
    view = TextView(TEXT, DIM, FallbackSettings(category_buckets=3, hidden_dim=8))
    absent = torch.tensor([False, True, False, True])
    text, near = torch.randn(4, TEXT), torch.randn(4, TEXT)
    category = torch.tensor([0, 1, 2, 2])
    z = view(TextRows(text, absent, torch.rand(4), category, near))
    assert torch.allclose(z[~absent], text[~absent] @ view.projection.weight.T)
    assert torch.equal(view.project(text)[0], z[0])
    assert not torch.allclose(z[absent], text[absent] @ view.projection.weight.T)
    z[absent].sum().backward()
    assert view.projection.weight.grad is not None
    assert not view.projection.weight.grad.any()
    first = view.fallback[0]
    assert isinstance(first, torch.nn.Linear)
    assert first.weight.grad is not None
    columns = first.weight.grad[:, 1 + TEXT :].abs().sum(0)
    assert columns[0] == 0  # bucket 0 belongs to a node with text
    assert bool((columns[1:] > 0).all())


def test_the_fallback_tells_nodes_apart_by_each_of_its_inputs() -> None:
    torch.manual_seed(2)
    view = TextView(TEXT, DIM, FallbackSettings(category_buckets=3))
    base = {
        "degree_feature": torch.tensor([0.5]),
        "category": torch.tensor([1]),
        "neighbour_text": torch.ones(1, TEXT),
    }
    rows = {"text": torch.zeros(1, TEXT), "absent": torch.tensor([True])}
    z = view(TextRows(**rows, **base))
    for name, other in (
        ("degree_feature", torch.tensor([0.9])),
        ("category", torch.tensor([2])),
        ("neighbour_text", torch.zeros(1, TEXT)),
    ):
        assert not torch.allclose(z, view(TextRows(**rows, **(base | {name: other}))))


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_score_divides_by_the_items_norm_to_the_exponent(exponent: float) -> None:
    users, items = torch.randn(3, DIM), torch.randn(5, DIM)
    expected = torch.stack(
        [torch.stack([u @ i / i.norm() ** exponent for i in items]) for u in users]
    )
    assert torch.allclose(score(users, items, exponent), expected, atol=1e-6)
    assert torch.isfinite(score(users, torch.zeros(1, DIM), exponent)).all()
