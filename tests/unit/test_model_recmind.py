"""RecMind's mix, propagated text views, pair scores: against their formulas, and who takes
gradient.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.pair_scores import pair_scores
from recmind_dist.model import recmind
from recmind_dist.model.node_embeddings import Trainable
from recmind_dist.model.recmind import Mix, RecMind
from recmind_dist.model.settings import GateSettings, RecMindSettings
from recmind_dist.model.subgraph import Subgraph

DIM = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(0.5 * draw(*p.shape, seed=k))


@pytest.mark.parametrize("degree_input", [True, False])
@pytest.mark.parametrize("recent", [True, False])
def test_an_inner_product_of_mixed_vectors_is_the_weighted_sum_of_the_views(
    degree_input: bool, recent: bool
) -> None:
    """Views of other widths, a user's joined by means of her newest items: against the formula,
    user by user.
    """
    mix = Mix(GateSettings(degree_input=degree_input), num_views=3, recent=recent)
    shaken(mix)
    views = [draw(5, width, seed=k) for k, width in enumerate((DIM, DIM, 9))]
    newest = [draw(*view.shape, seed=7 + k) for k, view in enumerate(views)] if recent else []
    d, is_user = torch.linspace(0, 1, 5), torch.tensor([True, True, False, False, False])
    h = mix(views, newest, d, is_user)
    user, item = mix._both(views[0], d, True)
    gamma = torch.softmax(torch.where(is_user[:, None], user[:, :3], item[:, :3]), 1)
    assert torch.allclose(mix.gamma(views[0], d, is_user), gamma[:, :1])
    for u in (0, 1):
        for i in (2, 3, 4):
            total = torch.zeros(())
            for k, view in enumerate(views):
                towards = normalize(view[u], dim=0)
                if recent:
                    rho = torch.sigmoid(user[u, 4 + k])
                    towards = (1 - rho) * towards + rho * normalize(newest[k][u], dim=0)
                total = total + gamma[u, k] * gamma[i, k] * towards @ normalize(view[i], dim=0)
            scale = user[u, 3].exp() * 45 * item[i, 3].exp()
            assert torch.isclose(h[u] @ h[i], scale * total + item[i, 4], atol=1e-4)
    same = gamma[2:, 0].unique().numel() == 1
    assert same is not degree_input  # without the degree every item is weighed alike


@pytest.mark.parametrize("recent", [True, False])
def test_many_nodes_are_mixed_some_at_a_time(recent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = Mix(GateSettings(), num_views=3, recent=recent)
    shaken(mix)
    views = [draw(5, width, seed=k) for k, width in enumerate((DIM, DIM, 9))]
    newest = [draw(*view.shape, seed=7 + k) for k, view in enumerate(views)] if recent else []
    d, is_user = torch.linspace(0, 1, 5), torch.tensor([True, True, False, False, True])
    whole = mix(views, newest, d, is_user)
    monkeypatch.setattr(recmind, "_BLOCK_ROWS", 2)
    with torch.no_grad():
        assert torch.allclose(mix(views, newest, d, is_user), whole, atol=1e-6)


def test_a_resting_mix_passes_gradient_to_its_views_and_takes_none() -> None:
    mix = Mix(GateSettings())
    shaken(mix)
    graph, text = draw(4, DIM).requires_grad_(), draw(4, DIM, seed=1).requires_grad_()
    is_user = torch.tensor([True, False, False, True])
    mix([graph, text], [], torch.rand(4), is_user, trainable=False).square().sum().backward()
    assert all(p.grad is None for p in mix.parameters())
    assert graph.grad is not None


def subgraph() -> Subgraph:
    """User 0 has item 2; item 1 has nobody."""
    indptr, indices = torch.tensor([0, 1, 1, 2]).int(), torch.tensor([2, 0]).int()
    block = Hop.of(CsrMatrix(indptr, indices, torch.tensor([0.5, 0.5]), 3))
    return Subgraph([block], torch.tensor([True, False, False]), torch.tensor([1, 0, 1.0]))


def test_text_views_propagate_beside_the_graph_and_users_without_text_live_off_their_items() -> (
    None
):
    settings = RecMindSettings(embedding_dim=DIM, num_layers=1, text_layers=1)
    z = draw(3, DIM)
    text = RecMind(settings, 3)(subgraph(), draw(3, DIM, seed=1), z).text
    assert torch.allclose(text[0], 0.5 * z[2] / 2)
    assert torch.allclose(text[1], z[1] / 2)  # by its own text alone
    assert torch.allclose(text[2], z[2] / 2)  # what its user brings, nothing


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [("all", {"e", "z", "mix"}), ("embeddings", {"e", "z"}), ("gates", {"mix"})],
)
def test_gradient_goes_where_trainable_says(trainable: Trainable, expected: set[str]) -> None:
    model = RecMind(RecMindSettings(embedding_dim=DIM, num_layers=1), 3)
    shaken(model)
    e, z = draw(3, DIM).requires_grad_(), draw(3, DIM, seed=1).requires_grad_()
    final = model(subgraph(), e, z, trainable).final
    assert torch.equal(final, model(subgraph(), e, z).final)
    final.square().sum().backward()
    learners = {name for name, x in (("e", e), ("z", z)) if x.grad is not None and x.grad.any()}
    found = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learners | found == expected


def test_pair_scores_and_their_gradient_are_those_of_a_gather() -> None:
    rng = np.random.default_rng(0)
    left, right = (torch.from_numpy(rng.integers(0, 9, 40)) for _ in range(2))
    ours, theirs = draw(9, DIM).requires_grad_(), draw(9, DIM).requires_grad_()
    weight = draw(40, seed=2)
    found, expected = pair_scores(ours, left, right), (theirs[left] * theirs[right]).sum(1)
    assert torch.allclose(found, expected, atol=1e-5)
    (weight * found).sum().backward()
    (weight * expected).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
