"""Ranking of the full catalogue against a plain sort, with ties, masks and blocks of every size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.topk import rank_items, top_k


def brute_force(scores: np.ndarray, k: int, seen: list[set[int]]) -> list[list[int]]:
    ranked = []
    for row, hidden in zip(scores, seen, strict=True):
        unseen = sorted((-score, item) for item, score in enumerate(row) if item not in hidden)
        ids = [item for _, item in unseen[:k]]
        ranked.append(ids + [-1] * (k - len(ids)))
    return ranked


def as_csr(rows: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *map(len, rows)])
    return indptr, np.array([item for row in rows for item in sorted(row)], dtype=np.int32)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[set[int]], int]:
    num_users, num_items = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 1 << 30))
    drawn = np.random.default_rng(seed)
    # small whole numbers: products are exact, and half of the scores tie
    h_users = torch.from_numpy(drawn.integers(-1, 2, (num_users, 3)).astype(np.float32))
    h_items = torch.from_numpy(drawn.integers(-1, 2, (num_items, 3)).astype(np.float32))
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    seen = [set(np.flatnonzero(drawn.random(num_items) < share).tolist()) for _ in range(num_users)]
    return h_users, h_items, seen, draw(st.integers(1, 45))


@settings(max_examples=150, deadline=None)
@given(catalogues(), st.integers(1, 9), st.integers(1, 50))
def test_equals_a_full_sort_whatever_the_blocks(
    catalogue: tuple[torch.Tensor, torch.Tensor, list[set[int]], int],
    user_block: int,
    item_block: int,
) -> None:
    h_users, h_items, seen, k = catalogue
    ids, scores = rank_items(
        h_users, h_items, k, *as_csr(seen), user_block=user_block, item_block=item_block
    )
    full = (h_users @ h_items.T).numpy()
    assert ids.tolist() == brute_force(full, k, seen)
    for row, (row_ids, row_scores) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True)):
        assert row_scores == [full[row, i] if i >= 0 else -np.inf for i in row_ids]


@settings(max_examples=100, deadline=None)
@given(catalogues())
def test_popularity_equals_ranking_by_degree(
    catalogue: tuple[torch.Tensor, torch.Tensor, list[set[int]], int],
) -> None:
    h_users, h_items, seen, k = catalogue
    degree = (h_items[:, 0].numpy() + 1).astype(np.int64) * 3
    expected = brute_force(np.tile(degree, (len(h_users), 1)).astype(float), k, seen)
    assert rank_popular(degree, k, *as_csr(seen)).tolist() == expected


def test_norm_exponent_moves_from_dot_product_to_cosine() -> None:
    user = torch.tensor([[1.0, 0.0]])
    items = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    nothing = (np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert rank_items(user, items, 3, *nothing, norm_exponent=0.0)[0].tolist() == [[0, 1, 2]]
    ids, scores = rank_items(user, items, 3, *nothing, norm_exponent=1.0)
    assert ids.tolist() == [[1, 0, 2]]
    assert scores[0].tolist() == pytest.approx([1.0, 0.6, 0.0])  # cosines; a zero vector scores 0


def test_identical_items_at_the_cut_go_by_id_across_blocks() -> None:
    items = torch.ones(1000, 8)
    nothing = (np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int64))
    for item_block in (7, 64, 1000):
        ids, _ = rank_items(torch.ones(1, 8), items, 20, *nothing, item_block=item_block)
        assert ids.tolist() == [list(range(20))]


def test_top_k_of_tied_and_untied_rows_together() -> None:
    scores = torch.tensor([[1.0, 5.0, 5.0, 5.0, 0.0], [9.0, 1.0, 2.0, 3.0, 4.0]])
    values, columns = top_k(scores, 2)
    assert columns.tolist() == [[1, 2], [0, 4]]
    assert values.tolist() == [[5.0, 5.0], [9.0, 4.0]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(64, 900),
    st.integers(1, 6),
    st.sampled_from([3, 40, 100_000]),
)
def test_wide_rows_equal_a_full_sort_with_few_or_many_ties(
    seed: int, width: int, k: int, distinct: int
) -> None:
    drawn = np.random.default_rng(seed)
    scores = drawn.integers(0, distinct, (5, width)).astype(np.float32)
    values, columns = top_k(torch.from_numpy(scores), k)
    assert columns.tolist() == brute_force(scores, k, [set()] * 5)
    assert values.tolist() == np.take_along_axis(scores, columns.numpy(), 1).tolist()


def test_a_vector_that_is_not_finite_is_named() -> None:
    items = torch.ones(4, 2)
    items[2, 1] = torch.nan
    with pytest.raises(ValueError, match="item 2 is not finite"):
        rank_items(torch.ones(1, 2), items, 2, np.array([0, 0]), np.array([], dtype=np.int64))


def test_a_rank_without_users_gets_an_empty_ranking() -> None:
    ids, _ = rank_items(
        torch.ones(0, 2), torch.ones(4, 2), 3, np.array([0]), np.array([], dtype=np.int64)
    )
    assert ids.shape == (0, 3)
    assert rank_popular(np.arange(4), 3, np.array([0]), np.array([], dtype=np.int64)).shape == (
        0,
        3,
    )


def test_trained_parameters_rank_without_a_gradient() -> None:
    h = torch.ones(2, 2, requires_grad=True)
    _, scores = rank_items(h, h, 1, np.array([0, 0, 0]), np.array([], dtype=np.int64))
    assert not scores.requires_grad
