"""The newest items of users, newest first, without the edges that no batch may see.

Legend: U users that are asked for.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from recmind_dist.graph import EdgeRows
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask
from recmind_dist.types import FloatArray, Int32Array, IntArray


@dataclass(frozen=True)
class Newest:
    """Items of some users, user after user, newest first.

    Attributes:
        counts: [U] items of each user.
        items: global ids.
        weight: decay^k, k the number of steps in time back from the user's newest item; the
            weights of a user sum to 1.
    """

    counts: Int32Array
    items: Int32Array
    weight: FloatArray


class NewestItems:
    """Looks newest items up in the rows of this process.

    Args:
        rows: those of all users that will be asked for.
        decay: weight of an item against the next newer one, in (0, 1].
        heldout: edges that no batch may see.
    """

    def __init__(self, rows: EdgeRows, decay: float, heldout: EdgeMask = NOTHING_MASKED) -> None:
        self.rows, self.decay, self._heldout = rows, decay, heldout
        self._slot = np.full(len(rows.nodes), -1, np.int32)
        self._slot[heldout.nodes] = np.arange(len(heldout.nodes), dtype=np.int32)

    def of_users(self, users: IntArray, count: int) -> Newest:
        """Their newest items.

        Args:
            users: [U] global ids.
            count: most items of a user; -1 for all.
        """
        rows = self.rows
        found = _newest_of_rows(
            rows.indptr,
            rows.indices,
            rows.time_rank,
            rows.rows_of(users),
            count,
            self.decay,
            self._slot,
            self._heldout.indptr,
            self._heldout.positions,
        )
        return Newest(*found)


@njit(cache=True, nogil=True)
def _newest_of_rows(  # type: ignore[no-untyped-def]
    indptr, indices, time_rank, rows, count, decay, slot, masked_indptr, masked_positions
):
    most = 0
    for i in range(len(rows)):
        degree = indptr[rows[i] + 1] - indptr[rows[i]]
        most += degree if count < 0 else min(degree, count)
    counts = np.zeros(len(rows), np.int32)
    items, weight = np.empty(most, np.int32), np.empty(most, np.float32)
    at = 0
    for i in range(len(rows)):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        age = -time_rank[start:stop].astype(np.int64)
        visible = np.ones(stop - start, np.bool_)
        s = slot[rows[i]]
        if s >= 0:
            visible[masked_positions[masked_indptr[s] : masked_indptr[s + 1]]] = False
        order = np.argsort(age)
        first, total, newest = at, 0.0, np.int64(0)
        for k in order:
            if not visible[k] or (count >= 0 and at - first == count):
                continue
            if at == first:
                newest = age[k]
            items[at] = indices[start + k]
            w = decay ** np.float64(age[k] - newest)
            weight[at] = w
            total += w
            at += 1
        counts[i] = at - first
        weight[first:at] /= np.float32(total) if total > 0 else np.float32(1.0)
    return counts, items[:at], weight[:at]
