"""Replicas of the hottest rows: read here instead of at their owner, whose gradients they still get.

Why degree decides: a node is met by a sampled block about as often as it has edges. Source of the idea: the power law of
degrees; how many bytes it saves is measured by benchmarks/scale.py.
"""

import numpy as np
import torch
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.parallel.exchange import all_gather_rows
from recmind_dist.parallel.ranks import Ranks
from recmind_dist.parallel.table import ShardedTable
from recmind_dist.types import BoolArray, IntArray


class HotRows:
    """Table rows of the nodes with most training edges, on every rank.

    Args:
        count: rows; every_steps: steps between two copies from the owners: with 1 a replica never differs from its row.
    """

    def __init__(self, graph: Graph, bounds: IntArray, ranks: Ranks, count: int, every_steps: int, dim: int) -> None:
        self._ranks, self.every_steps = ranks, every_steps
        degree = np.asarray(graph.degree)
        hottest = np.lexsort((np.arange(len(degree)), -degree))[:count]
        self.rows = np.sort(np.asarray(graph.row_of_node)[hottest]).astype(np.int64)
        ends = np.searchsorted(self.rows, bounds)
        self._counts = np.diff(ends).tolist()
        own = self.rows[ends[ranks.rank] : ends[ranks.rank + 1]] - bounds[ranks.rank]
        self._own = torch.from_numpy(own).to(ranks.device)
        self.weight = torch.zeros(len(self.rows), dim, device=ranks.device)
        self._age: int | None = None

    def holds(self, rows: IntArray) -> BoolArray:
        """Which table rows have a replica. Shape: as `rows`."""
        found: BoolArray = self.rows[self.slots(rows)] == rows
        return found

    def slots(self, rows: IntArray) -> IntArray:
        """Where the replica of a row stands in `weight`, if it has one. Shape: as `rows`."""
        return np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)

    @torch.no_grad()
    def all_follow(self, table: ShardedTable) -> None:
        """Copies from the owners where it is time to. Every rank must call, before each step."""
        self._age = 0 if self._age is None else (self._age + 1) % self.every_steps
        if self._age == 0:
            own: Tensor = table.weight.index_select(0, self._own)
            self.weight = all_gather_rows(own, self._counts, self._ranks)
