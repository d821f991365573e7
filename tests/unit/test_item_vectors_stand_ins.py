"""Items without a text stand beside the items of their users before item vectors learn."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recmind_dist.item_vectors import stand_ins
from recmind_dist.item_vectors.learn import Interactions, learn_item_vectors
from recmind_dist.item_vectors.stand_ins import with_stand_ins
from tests.graphs import make_graph

USERS, ITEMS, TEXT_DIM = 30, 40, 12
LACKING, ALONE, UNSEEN = 3, 5, 39
"""Items without a text: with users of other items, with a user of no other, without users."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    rng = np.random.default_rng(0)
    others = [item for item in range(ITEMS) if item not in (ALONE, UNSEEN)]
    drawn = {(user, int(item)) for user in range(1, USERS) for item in rng.choice(others, 5)}
    pairs = sorted({*drawn, (0, ALONE), (7, LACKING), (8, LACKING)})
    graph = make_graph(tmp_path_factory.mktemp("log"), pairs, USERS, ITEMS)
    return Interactions.of(graph, np.ones(graph.num_edges, np.bool_), torch.device("cpu"))


@pytest.fixture(scope="module")
def has_text() -> Tensor:
    has = torch.ones(ITEMS, dtype=torch.bool)
    has[[LACKING, ALONE, UNSEEN]] = False
    return has


@pytest.fixture(scope="module")
def texts(has_text: Tensor) -> Tensor:
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(ITEMS, TEXT_DIM))).float()
    return torch.where(has_text[:, None], vectors, 0.0)


def of_user(log: Interactions, user: int) -> list[int]:
    end = int(log.count_U[: user + 1].sum())
    return log.item_E[end - int(log.count_U[user]) : end].tolist()


def test_a_stand_in_is_the_mean_of_its_users_mean_texts(
    texts: Tensor, has_text: Tensor, log: Interactions
) -> None:
    found, has_vector = with_stand_ins(texts, has_text, log, seed=0)
    means = []
    for user in range(USERS):
        items = of_user(log, user)
        if LACKING in items:
            means.append(texts[[item for item in items if has_text[item]]].mean(0))
    assert len(means) >= 2
    near = torch.stack(means).mean(0)
    length = texts[has_text].norm(dim=1).mean()
    torch.testing.assert_close(found[LACKING], length * near / near.norm())
    assert (has_vector ^ has_text).nonzero().squeeze(1).tolist() == [LACKING, ALONE]
    torch.testing.assert_close(found[has_text], texts[has_text], rtol=0, atol=0)
    assert found[UNSEEN].abs().max() == 0


def test_where_no_text_is_near_the_direction_is_drawn(
    texts: Tensor, has_text: Tensor, log: Interactions
) -> None:
    found, _ = with_stand_ins(texts, has_text, log, seed=0)
    torch.testing.assert_close(found[ALONE].norm(), texts[has_text].norm(dim=1).mean())
    assert with_stand_ins(texts, has_text, log, seed=0)[0].equal(found)
    other, _ = with_stand_ins(texts, has_text, log, seed=1)
    assert not other[ALONE].isclose(found[ALONE]).all()
    assert other[LACKING].equal(found[LACKING])


def test_columns_are_summed_in_parts_where_memory_is_short(
    texts: Tensor, has_text: Tensor, log: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = with_stand_ins(texts, has_text, log, seed=0)
    monkeypatch.setattr(stand_ins, "_NUMBERS", USERS * 5)
    torch.testing.assert_close(with_stand_ins(texts, has_text, log, seed=0)[0], found)


def test_texts_of_all_items_are_handed_back(texts: Tensor, log: Interactions) -> None:
    has_all = torch.ones(ITEMS, dtype=torch.bool)
    found, has_vector = with_stand_ins(texts, has_all, log, seed=0)
    assert found is texts
    assert has_vector is has_all


def test_without_any_text_all_directions_are_drawn_and_learn(log: Interactions) -> None:
    nothing = torch.zeros(ITEMS, TEXT_DIM)
    has_none = torch.zeros(ITEMS, dtype=torch.bool)
    found, has_vector = with_stand_ins(nothing, has_none, log, seed=0)
    torch.testing.assert_close(found[has_vector].norm(dim=1), torch.ones(int(has_vector.sum())))
    assert has_vector.sum() == ITEMS - 1
    learnt = learn_item_vectors(found, log, seed=0, steps=5)
    assert learnt.isfinite().all()
    assert not learnt.isclose(found).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same(texts: Tensor, has_text: Tensor, log: Interactions) -> None:
    there = Interactions(*(x.cuda() for x in (log.item_E, log.count_U, log.degree_I)))
    found, _ = with_stand_ins(texts.cuda(), has_text.cuda(), there, seed=0)
    torch.testing.assert_close(found.cpu(), with_stand_ins(texts, has_text, log, seed=0)[0])
