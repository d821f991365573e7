"""Distinct ids are numpy's, whichever way they are found."""

import numpy as np
import pytest

from recmind_dist.sampling import distinct


@pytest.mark.parametrize("ids", [0, 1, 3, 500])
@pytest.mark.parametrize("count", [7, 100_000])
def test_distinct_ids_and_places(ids: int, count: int) -> None:
    drawn = np.random.default_rng(ids).integers(0, count, ids)
    found, places = distinct(drawn, count)
    expected = np.unique(drawn, return_inverse=True)
    assert np.array_equal(found, expected[0])
    assert np.array_equal(places, expected[1])
