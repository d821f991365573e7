"""Negative items, drawn by counter: never a training positive of the user."""

from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.kernels.device_draws import ATTEMPTS
from recmind_dist.randomness import integers, mix64, mix64_pair, uniforms
from recmind_dist.sampling.settings import NegativeSettings
from recmind_dist.types import BoolArray, IntArray


class NegativeSampler:
    """Draws items for users.

    Args:
        graph: the training graph; its positives are never drawn.
        settings: distribution and counts.
        rows: rows of all users that will be drawn for. Default: the whole graph.
    """

    def __init__(
        self, graph: Graph, settings: NegativeSettings, rows: EdgeRows | None = None
    ) -> None:
        self.graph, self._rows = graph, rows or EdgeRows.of_graph(graph)
        self.settings = settings

    @cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """Cumulated chances of the items, float64, made at the first draw. Shape: [I]."""
        graph, weights = self.graph, np.ones(self.graph.num_items)
        if self.settings.kind == "popularity":
            degree = np.asarray(graph.degree)[graph.num_users :].astype(np.float64)
            weights = np.maximum(degree, 1.0) ** self.settings.beta
        cumulative = np.cumsum(weights)
        cumulative /= weights.sum()
        return cumulative

    def for_pairs(
        self, users: IntArray, sample_ids: IntArray, key: int, batch_items: IntArray
    ) -> IntArray:
        """Negatives of each pair; draw j of sample s is a function of (key, s, j).

        After 64 draws that each hit a positive, the last is returned: this happens to users who
        have nearly every item.

        Args:
            users: [b] global ids.
            sample_ids: [b] positions in the global batch.
            key: 64-bit stream key of the batch.
            batch_items: [GB] positives of the global batch.

        Returns: [b, num] global item ids.
        """
        in_batch = self.settings.kind == "in_batch" and len(batch_items) > 0
        pool = batch_items if in_batch else np.zeros(0, np.int64)
        drawn: IntArray = _draw(
            self._rows.indptr,
            self._rows.indices,
            self._rows.rows_of(users),
            sample_ids,
            np.uint64(key),
            self.settings.num,
            np.zeros(0) if len(pool) else self.cumulative,
            pool,
            self.graph.num_users,
        )
        return drawn

    def shared(self, key: int, batch_items: IntArray) -> IntArray:
        """Distinct items, ascending, that are negatives of the whole step; at most `num_shared`."""
        counters = np.arange(self.settings.num_shared, dtype=np.int64)
        if self.settings.kind == "in_batch" and len(batch_items):
            return np.unique(batch_items[integers(key, counters, len(batch_items))])
        drawn = np.searchsorted(self.cumulative, uniforms(key, counters), side="right")
        return np.unique(np.minimum(drawn, self.graph.num_items - 1)) + self.graph.num_users

    def positives_among(self, users: IntArray, shared: IntArray) -> BoolArray:
        """Whether each shared item is a training positive of each user. Shape: [U, M]."""
        found: BoolArray = _positives_among(
            self._rows.indptr, self._rows.indices, self._rows.rows_of(users), shared
        )
        return found


@njit(cache=True, nogil=True)
def _draw(indptr, indices, users, sample_ids, key, num, cumulative, pool, num_users):  # type: ignore[no-untyped-def]
    out = np.empty((len(users), num), np.int64)
    for b in range(len(users)):
        row = indices[indptr[users[b]] : indptr[users[b] + 1]]
        base = mix64_pair(key, np.uint64(sample_ids[b]))
        for j in range(num):
            item = 0
            for attempt in range(ATTEMPTS):
                word = mix64(
                    base + np.uint64(j * ATTEMPTS + attempt) * np.uint64(0x9E3779B97F4A7C15)
                )
                u = np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)
                if len(pool):
                    item = pool[min(np.int64(u * len(pool)), len(pool) - 1)]
                else:
                    drawn = np.searchsorted(cumulative, u, side="right")
                    item = min(drawn, len(cumulative) - 1) + num_users
                at = np.searchsorted(row, item)
                if at == len(row) or row[at] != item:
                    break
            out[b, j] = item
    return out


@njit(cache=True, nogil=True)
def _positives_among(indptr, indices, users, shared):  # type: ignore[no-untyped-def]
    out = np.zeros((len(users), len(shared)), np.bool_)
    if len(shared) == 0:
        return out
    low, high = shared[0], shared[-1]
    slot = np.full(high - low + 1, -1, np.int32)
    for s in range(len(shared)):
        slot[shared[s] - low] = s
    for b in range(len(users)):
        for e in range(indptr[users[b]], indptr[users[b] + 1]):
            item = indices[e]
            if low <= item <= high and slot[item - low] >= 0:
                out[b, slot[item - low]] = True
    return out
