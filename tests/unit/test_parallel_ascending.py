"""Ids by bits against numpy's sort."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.parallel.ascending import ascending


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 199), max_size=60), st.integers(200, 300))
def test_ascending_is_unique_with_its_inverse(ids: list[int], size: int) -> None:
    found, places = ascending(np.array(ids, np.int64), size)
    expected, inverse = np.unique(np.array(ids, np.int64), return_inverse=True)
    assert found.tolist() == expected.tolist()
    assert places.tolist() == inverse.tolist()


def test_the_edges_of_words_are_kept() -> None:
    ids = np.array([64, 63, 0, 127, 128, 191, 63])
    found, places = ascending(ids, 192)
    assert found.tolist() == [0, 63, 64, 127, 128, 191]
    assert found[places].tolist() == ids.tolist()
