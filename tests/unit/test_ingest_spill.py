"""Orders that preparation sorts by, against Python's own sort."""

import numpy as np
import pytest

from recmind_dist.graph.splits import Interactions, chronology
from recmind_dist.ingest.spill import stable_order


@pytest.mark.parametrize("limit", [1, 7, 2**16, 2**16 + 1, 2**31, 2**40])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_keys_of_any_width_are_sorted_and_equal_ones_keep_their_order(
    limit: int, count: int
) -> None:
    keys = np.random.default_rng(limit).integers(0, limit, count)
    keys[: count // 3] = limit - 1
    expected = sorted(range(count), key=lambda i: int(keys[i]))
    assert stable_order(keys).tolist() == expected


@pytest.mark.parametrize("disorder", ["none", "a user", "a time", "a row of one time", "all"])
def test_chronology_is_by_user_then_time_then_row(disorder: str) -> None:
    user = np.repeat(np.arange(9), 4)
    time, row = np.tile([3, 3, 5, 9], 9), np.arange(36)
    at = 17 if disorder != "a row of one time" else 16
    if disorder == "a user":
        user[at] = 0
    elif disorder == "a time":
        time[at] = 1
    elif disorder == "a row of one time":
        row[at], row[at + 1] = row[at + 1], row[at]
    elif disorder == "all":
        mixed = np.random.default_rng(0).permutation(36)
        user, time, row = user[mixed], time[mixed], row[mixed]
    keys = list(zip(user.tolist(), time.tolist(), row.tolist(), strict=True))
    expected = sorted(range(36), key=lambda i: keys[i])
    assert (expected != list(range(36))) == (disorder != "none")
    assert chronology(Interactions(user, user, time, row)).tolist() == expected
