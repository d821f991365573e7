"""The text view: where the network that stands in for a missing text acts, and what it sees."""

import pytest
import torch

from recmind_dist.model import text_view
from recmind_dist.model.text_view import TextRows, TextView

DIM, TEXT = 4, 6


def test_the_fallback_stands_in_exactly_where_text_is_absent() -> None:
    torch.manual_seed(2)
    view = TextView(TEXT, DIM)
    absent = torch.tensor([False, True, False, True])
    text, near = torch.randn(4, TEXT), torch.randn(4, TEXT)
    near[0], near[2] = 0.0, 0.0
    near[:, 1] = torch.tensor([9.0, 0.0, 9.0, 0.0])  # column 1: of nodes with text alone
    z = view(TextRows(text, absent, torch.rand(4), near))
    assert torch.allclose(z[~absent], text[~absent] @ view.projection.weight.T)
    assert torch.allclose(view.project(text)[0], z[0])
    assert not torch.allclose(z[absent], text[absent] @ view.projection.weight.T)
    z[absent].sum().backward()
    assert view.projection.weight.grad is not None
    assert not view.projection.weight.grad.any()
    first = view.fallback[0]
    assert isinstance(first, torch.nn.Linear)
    assert first.weight.grad is not None
    columns = first.weight.grad.abs().sum(0)
    assert columns[2] == 0
    assert bool((columns[[0, 1, *range(3, 1 + TEXT)]] > 0).all())


def test_the_fallback_tells_nodes_apart_by_each_of_its_inputs() -> None:
    torch.manual_seed(2)
    view = TextView(TEXT, DIM)
    base = {"degree_feature": torch.tensor([0.5]), "neighbour_text": torch.ones(1, TEXT)}
    rows = {"text": torch.zeros(1, TEXT), "absent": torch.tensor([True])}
    z = view(TextRows(**rows, **base))
    for name, other in (
        ("degree_feature", torch.tensor([0.9])),
        ("neighbour_text", torch.zeros(1, TEXT)),
    ):
        assert not torch.allclose(z, view(TextRows(**rows, **(base | {name: other}))))


def test_a_hidden_layer_makes_the_projection_bend() -> None:
    torch.manual_seed(2)
    text = torch.randn(2, TEXT)
    straight, bent = TextView(TEXT, DIM), TextView(TEXT, DIM, hidden_dim=5)
    assert torch.allclose(straight.project(-text), -straight.project(text))
    assert not torch.allclose(bent.project(-text), -bent.project(text))


def test_zeros_or_neighbours_stand_in_as_if_they_were_the_text() -> None:
    torch.manual_seed(2)
    text, near = torch.randn(3, TEXT), torch.randn(3, TEXT)
    text[1] = 0.0
    rows = TextRows(text, torch.tensor([False, True, False]), torch.rand(3), near)
    zeros = TextView(TEXT, DIM, hidden_dim=5, missing="zeros")
    torch.testing.assert_close(zeros(rows), zeros.project(text))
    neighbours = TextView(TEXT, DIM, hidden_dim=5, missing="neighbours")
    text[1] = near[1]
    torch.testing.assert_close(neighbours(rows), neighbours.project(text))


@pytest.mark.parametrize("hidden_dim", [0, 5])
def test_many_rows_go_block_by_block_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch, hidden_dim: int
) -> None:
    torch.manual_seed(2)
    view = TextView(TEXT, DIM, hidden_dim).double()
    absent = torch.rand(23) < 0.3
    rows = TextRows(torch.randn(23, TEXT).double(), absent, torch.rand(23), torch.randn(23, TEXT))
    rows = TextRows(rows.text, absent, rows.degree_feature.double(), rows.neighbour_text.double())
    weight = torch.randn(23, DIM).double()

    def forward_and_gradients() -> list[torch.Tensor]:
        view.zero_grad()
        z = view(rows)
        (z * weight).sum().backward()
        with torch.no_grad():
            again = view(rows)
        return [z.detach(), again, *(p.grad for p in view.parameters() if p.grad is not None)]

    at_once = forward_and_gradients()
    monkeypatch.setattr(text_view, "MANY_ROWS", 9)
    monkeypatch.setattr(text_view, "_BLOCK_ROWS", 4)
    calls = []
    view.projection.register_forward_pre_hook(lambda *_: calls.append(1))
    for ours, theirs in zip(forward_and_gradients(), at_once, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(calls) == 3 * 6  # forward, once more in the backward pass, forward
