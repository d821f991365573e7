"""Distinct ids against numpy's and torch's own unique, whichever way they are found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.kernels.unique import unique_inverse


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 199), max_size=60), st.integers(200, 300))
def test_ids_by_bits_are_numpys_unique_with_its_inverse(ids: list[int], size: int) -> None:
    found, places = unique_inverse(np.array(ids, np.int64), size)
    expected, inverse = np.unique(np.array(ids, np.int64), return_inverse=True)
    assert found.tolist() == expected.tolist()
    assert places.tolist() == inverse.tolist()


def test_the_edges_of_words_are_kept() -> None:
    ids = np.array([64, 63, 0, 127, 128, 191, 63])
    found, places = unique_inverse(ids, 192)
    assert found.tolist() == [0, 63, 64, 127, 128, 191]
    assert found[places].tolist() == ids.tolist()


@pytest.mark.parametrize("ids", [0, 1, 3, 500])
@pytest.mark.parametrize("size", [7, 100_000, 3_000_000])
def test_few_ids_of_many_and_many_of_few_are_torchs_unique(ids: int, size: int) -> None:
    drawn = np.random.default_rng(ids).integers(0, size, ids)
    found, places = unique_inverse(drawn, size)
    expected, inverse = torch.unique(torch.from_numpy(drawn), return_inverse=True)
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(places, inverse.numpy())
