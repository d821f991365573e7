"""Item vectors learn from the log: what users have together draws near, the rest stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.errors import TrainingError
from recmind_dist.item_vectors.learn import Interactions, learn_item_vectors
from tests.graphs import make_graph

GROUPS, OF_GROUP, TEXT_DIM = 4, 8, 16
ITEMS = GROUPS * OF_GROUP + 3
RARE, UNSEEN, TEXTLESS = ITEMS - 3, ITEMS - 2, ITEMS - 1


def pairs() -> list[tuple[int, int]]:
    """120 users have six items of a group each, which the texts know nothing of; the rare item has
    one of the users.
    """
    rng = np.random.default_rng(0)
    drawn = [
        (user, user % GROUPS * OF_GROUP + int(item))
        for user in range(120)
        for item in rng.permutation(OF_GROUP)[:6]
    ]
    return [*drawn, (0, RARE)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    graph = make_graph(tmp_path_factory.mktemp("log"), pairs(), 120, ITEMS)
    return Interactions.of(graph, np.ones(graph.num_edges, np.bool_), torch.device("cpu"))


@pytest.fixture(scope="module")
def texts() -> Tensor:
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(ITEMS, TEXT_DIM))).float()
    vectors[TEXTLESS] = 0.0
    return vectors / TEXT_DIM**0.5


@pytest.fixture(scope="module")
def learnt(texts: Tensor, log: Interactions) -> Tensor:
    return learn_item_vectors(texts, log, seed=0, steps=80)


def margin(vectors: Tensor) -> float:
    """Mean cosine of two items of a group less that of two items of two groups."""
    unit = functional.normalize(vectors[: GROUPS * OF_GROUP], dim=1)
    cosine, group = unit @ unit.T, torch.arange(GROUPS * OF_GROUP) // OF_GROUP
    same = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool)
    return float(cosine[same].mean() - cosine[group[:, None] != group].mean())


def test_items_of_the_same_users_draw_near(texts: Tensor, learnt: Tensor) -> None:
    assert abs(margin(texts)) < 0.1
    assert margin(learnt) > margin(texts) + 0.2


def test_an_item_without_interactions_keeps_its_text(texts: Tensor, learnt: Tensor) -> None:
    torch.testing.assert_close(learnt[UNSEEN], texts[UNSEEN])
    assert learnt[TEXTLESS].abs().max() == 0


def test_an_item_of_few_interactions_stays_near_its_text(texts: Tensor, learnt: Tensor) -> None:
    cosine = functional.cosine_similarity(texts, learnt, dim=1)
    assert 0.95 < cosine[RARE] < 1.0
    assert cosine[RARE] > cosine[: GROUPS * OF_GROUP].max()


def test_lengths_stay(texts: Tensor, learnt: Tensor) -> None:
    torch.testing.assert_close(learnt.norm(dim=1), texts.norm(dim=1))


def test_a_seed_decides(texts: Tensor, log: Interactions, learnt: Tensor) -> None:
    state = torch.random.get_rng_state()
    assert learn_item_vectors(texts, log, seed=0, steps=80).equal(learnt)
    assert not learn_item_vectors(texts, log, seed=1, steps=80).equal(learnt)
    assert torch.random.get_rng_state().equal(state)


def test_learning_shows_how_far_it_is(
    texts: Tensor, log: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    learn_item_vectors(texts, log, seed=1, steps=2)
    assert "item vectors  step 2/2" in capsys.readouterr().err


def test_what_may_not_teach_is_not_read(tmp_path: Path, texts: Tensor) -> None:
    graph = make_graph(tmp_path, pairs(), 120, ITEMS)
    allowed = np.asarray(graph.indices[: graph.num_edges]) - graph.num_users >= OF_GROUP
    log = Interactions.of(graph, allowed, torch.device("cpu"))
    assert log.degree_I[:OF_GROUP].sum() == 0
    assert log.count_U.sum() == len(log.item_E) == allowed.sum()
    found = learn_item_vectors(texts, log, seed=0, steps=20)
    torch.testing.assert_close(found[:OF_GROUP], texts[:OF_GROUP])
    assert not found[OF_GROUP : 2 * OF_GROUP].isclose(texts[OF_GROUP : 2 * OF_GROUP]).all()


def test_users_with_one_item_teach_nothing(tmp_path: Path, texts: Tensor) -> None:
    graph = make_graph(tmp_path, [(user, user % 5) for user in range(20)], 20, ITEMS)
    log = Interactions.of(graph, np.ones(graph.num_edges, np.bool_), torch.device("cpu"))
    assert learn_item_vectors(texts, log, seed=0) is texts


def test_a_user_of_all_items_is_no_error(tmp_path: Path, texts: Tensor) -> None:
    everything = [(user, item) for user in range(9) for item in range(ITEMS - 1)]
    graph = make_graph(tmp_path, everything, 9, ITEMS)
    log = Interactions.of(graph, np.ones(graph.num_edges, np.bool_), torch.device("cpu"))
    assert learn_item_vectors(texts, log, seed=0, steps=5).isfinite().all()


def test_vectors_that_are_not_finite_are_refused(texts: Tensor, log: Interactions) -> None:
    odd = texts.clone()
    odd[0] = float("nan")
    with pytest.raises(TrainingError, match=r"train with model\.item_offsets: false"):
        learn_item_vectors(odd, log, seed=0, steps=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_learns_the_same(texts: Tensor, log: Interactions, learnt: Tensor) -> None:
    there = Interactions(*(x.cuda() for x in (log.item_E, log.count_U, log.degree_I)))
    found = learn_item_vectors(texts.cuda(), there, seed=0, steps=80)
    torch.testing.assert_close(found.cpu(), learnt, rtol=1e-2, atol=1e-3)
