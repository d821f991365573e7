"""The k best items by inner product, with ties, hidden items and filters, against a plain sort."""

from typing import Any

import numpy as np
import pytest

from recmind_dist.recommend import ranking
from recmind_dist.recommend.ranking import top_items


def by_sorting(users: Any, items: Any, k: int, hidden: Any, allowed: Any) -> Any:
    """Positions, by a stable sort of all scores."""
    scores = users @ items.T
    for row, seen in zip(scores, hidden, strict=True):
        row[seen] = -np.inf
    scores[:, ~allowed] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isfinite(np.take_along_axis(scores, order, 1)), order, -1)


@pytest.mark.parametrize("num_items", [7, 100, 1003])
@pytest.mark.parametrize("k", [1, 5, 12])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_best_come_first_and_of_equal_scores_the_lower_position(
    monkeypatch: pytest.MonkeyPatch, num_items: int, k: int, share: float
) -> None:
    monkeypatch.setattr(ranking, "_SCORES_AT_ONCE", 4 * num_items)  # several blocks of users
    rng = np.random.default_rng(num_items + k)
    users = rng.integers(-2, 3, (13, 2)).astype(np.float32)  # few different scores
    items = rng.integers(-2, 3, (num_items, 2)).astype(np.float32)
    hidden = [rng.choice(num_items, rng.integers(0, num_items), replace=False) for _ in users]
    allowed = rng.random(num_items) < share
    found, scores = top_items(users, items, k, hidden, allowed)
    expected = by_sorting(users, items, k, hidden, allowed)
    assert found[:, : expected.shape[1]].tolist() == expected.tolist()
    assert (found[:, expected.shape[1] :] == -1).all()
    shown = found >= 0
    assert np.array_equal(scores[shown], (users @ items.T)[np.nonzero(shown)[0], found[shown]])
    assert (scores[~shown] == -np.inf).all()
