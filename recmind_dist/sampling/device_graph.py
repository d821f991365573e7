"""The training graph's arrays on a device, and what a loader asks of them there.

Legend: U users, N nodes, E training edges, E' entries of the CSR arrays (2 E).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.types import IndexArray


@dataclass(frozen=True)
class MaskedEntries:
    """Entries of the CSR arrays that nothing passes over.

    Attributes:
        position: [M] ascending positions in `indices`, distinct.
        before: [M] how many entries that are not masked come before each.
    """

    position: Tensor
    before: Tensor

    @staticmethod
    def of(position: Tensor) -> "MaskedEntries":
        """Of ascending positions."""
        place = torch.arange(len(position), device=position.device)
        return MaskedEntries(position, position - place)

    def __len__(self) -> int:
        return len(self.position)

    def merged(self, other: "MaskedEntries") -> "MaskedEntries":
        """Both, which have no entry in common."""
        if not len(self) or not len(other):
            return self if len(self) else other
        a, b = self.position, other.position
        out = torch.empty(len(a) + len(b), dtype=a.dtype, device=a.device)
        out[torch.arange(len(a), device=a.device) + torch.searchsorted(b, a)] = a
        out[torch.arange(len(b), device=a.device) + torch.searchsorted(a, b)] = b
        return MaskedEntries.of(out)

    def of_rows(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """First masked entry of each row, and the one after its last. Shapes: as `start`."""
        return torch.searchsorted(self.position, start), torch.searchsorted(self.position, stop)

    def skipped(self, entry: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """How many masked entries of its row come before each row's k-th visible entry.

        Args:
            entry: [n] start of the row + k.
            first, last: [n] of the row, see `of_rows`.
        """
        found = torch.searchsorted(self.before, entry - first, right=True)
        return torch.minimum(torch.maximum(found, first), last) - first


class DeviceGraph:
    """Twelve bytes an edge and twenty a node on the device, and more while it is made.

    Attributes:
        indptr: [N + 1] int64.
        indices: [E'] int32.
        degree: [N] int64, degrees to normalise by.
        inverse_root: [N] float32, degree^-½ (1 for nodes without edges).

    Args:
        degree: [N] degrees to normalise by; by default those of all training edges.
    """

    def __init__(
        self, graph: Graph, device: torch.device, degree: IndexArray | None = None
    ) -> None:
        self.num_users, self.num_items = graph.num_users, graph.num_items
        self.num_nodes, self.num_edges = graph.num_nodes, graph.num_edges
        counted = np.array(graph.degree if degree is None else degree, np.int64)
        self.indptr = torch.from_numpy(np.array(graph.indptr)).to(device)
        self.indices = torch.from_numpy(np.array(graph.indices)).to(device)
        self.degree = torch.from_numpy(counted).to(device)
        # by numpy, as on the CPU: another device's root may differ in the last bit
        inverse_root = np.maximum(counted, 1).astype(np.float32) ** -0.5
        self.inverse_root = torch.from_numpy(inverse_root).to(device)
        self._twin = self._find_twins()

    @staticmethod
    def bytes_needed(num_nodes: int, num_edges: int) -> int:
        """Most bytes on the device while a graph of this size is put there."""
        return 42 * num_edges + 56 * num_nodes

    def _find_twins(self) -> Tensor:
        """[E] position of each edge of the user half in its item's row."""
        order = torch.argsort(self.indices[: self.num_edges], stable=True)
        twin = torch.empty_like(self.indices[: self.num_edges])
        place = torch.arange(self.num_edges, dtype=twin.dtype, device=twin.device)
        twin[order] = place + self.num_edges
        return twin

    @property
    def device(self) -> torch.device:
        return self.indptr.device

    def users_of(self, edges: Tensor) -> Tensor:
        """Global ids of the users of edges (positions in the user half). Shape: as `edges`."""
        ends = self.indptr[: self.num_users + 1]
        return torch.searchsorted(ends, edges, right=True) - 1

    def items_of(self, edges: Tensor) -> Tensor:
        """Global ids of their items. Shape: as `edges`."""
        return self.indices[edges].long()

    def entries_of(self, edges: Tensor) -> MaskedEntries:
        """Both entries of distinct edges."""
        both = torch.cat([edges, self._twin[edges].long()])
        return MaskedEntries.of(both.sort().values)

    def rows(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of nodes, node after node: place of each entry's node in `nodes`, position
        of the entry. Shapes: [entries]. The host waits.
        """
        start = self.indptr[nodes]
        return expanded(start, self.indptr[nodes + 1] - start)


def expanded(start: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges one after another: the place of each number's range, and the numbers. The host waits.

    Args:
        start, counts: [n] first number and length of each range.
    """
    ends = torch.cumsum(counts, 0)
    total = int(ends[-1]) if len(ends) else 0
    every = torch.arange(len(counts), device=counts.device)
    place = torch.repeat_interleave(every, counts, output_size=total)
    number = torch.arange(total, device=counts.device)
    return place, number + (start - ends + counts)[place]
