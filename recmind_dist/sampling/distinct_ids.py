"""Distinct ids of a batch, without sorting where a batch is not small beside the graph."""

import numpy as np
from numba import njit

from recmind_dist.types import IntArray

_DENSE = 16  # a pass over all nodes costs about what sorting a sixteenth as many ids does


def distinct(ids: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """As `np.unique(ids, return_inverse=True)`, of ids in [0, count): distinct ones ascending, the place of each among them."""
    if len(ids) * _DENSE < count:
        found, places = np.unique(ids, return_inverse=True)
        return found.astype(np.int64), places.astype(np.int64)
    place = np.zeros(count, np.int32)
    found, places = _distinct(ids, place)
    return found, places


@njit(cache=True, nogil=True)
def _distinct(ids, place):  # type: ignore[no-untyped-def]
    for k in range(len(ids)):
        place[ids[k]] = 1
    total = 0
    for v in range(len(place)):
        total += place[v]
    found, where = np.empty(total, np.int64), 0
    for v in range(len(place)):
        if place[v]:
            found[where] = v
            place[v] = where
            where += 1
    places = np.empty(len(ids), np.int64)
    for k in range(len(ids)):
        places[k] = place[ids[k]]
    return found, places
