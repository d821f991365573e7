"""PyG's own sampler (pyg-lib's op) behind the same interface.

It differs from numba's: draws come from torch's generator, which is one for the whole process. So a
block depends on the rank that builds it, and batches are made in the training thread. Masked edges
are dropped after the draw: a node whose draws are all masked gets an empty sum. Parity across ranks
needs numba.
Source: https://github.com/pyg-team/pyg-lib, `torch.ops.pyg.neighbor_sample`.
"""

import numpy as np
import torch

from recmind_dist.errors import ConfigError
from recmind_dist.graph import Graph
from recmind_dist.randomness import torch_seeded
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask, are_among
from recmind_dist.sampling.neighbor_sampler import Drawn, SampledHops, hops_of
from recmind_dist.types import IndexArray, IntArray


def pyg_op_resolves() -> bool:
    """Whether pyg-lib's op exists; PyG's flags only say that a package of the name is installed."""
    try:
        import pyg_lib  # type: ignore[import-not-found]  # noqa: F401  # registers the op
    except (ImportError, OSError):
        return False
    try:
        return bool(torch.ops.pyg.neighbor_sample)
    except (AttributeError, RuntimeError):
        return False


class PygNeighborSampler:
    """See `NeighborSampler`. Hops are drawn one by one: layers do not share neighbourhoods."""

    def __init__(
        self,
        graph: Graph,
        num_neighbors: tuple[int, ...],
        heldout: EdgeMask = NOTHING_MASKED,
        degree: IndexArray | None = None,
    ) -> None:
        if not pyg_op_resolves():
            raise ConfigError(
                "sampler.backend: pyg, but pyg-lib's neighbor_sample is not installed: "
                "install pyg-lib from PyG's wheel index (README.md), or set sampler.backend: numba"
            )
        self.graph = graph
        self.num_neighbors = num_neighbors
        self._colptr = torch.from_numpy(np.array(graph.indptr))
        self._row = torch.from_numpy(np.asarray(graph.indices).astype(np.int64))
        self._heldout = heldout.in_csr(graph)
        self._degree: IndexArray = np.asarray(graph.degree) if degree is None else degree

    def sample(
        self, seeds: IntArray, key: int, batch_mask: EdgeMask = NOTHING_MASKED
    ) -> SampledHops:
        masked = np.union1d(self._heldout, batch_mask.in_csr(self.graph))
        n_id, hops = seeds.astype(np.int64), list[Drawn]()
        with torch_seeded(key):  # the op takes no generator
            for fan_out in self.num_neighbors:
                hops.append(self._hop(n_id, fan_out, masked))
                n_id = hops[-1].n_id
        degree = self._degree[n_id].astype(np.int64, copy=False)
        return SampledHops(n_id, degree, hops_of(hops, degree))

    def _hop(self, frontier: IntArray, fan_out: int, masked: IntArray) -> Drawn:
        # csc=False: row is the frontier's node, col its neighbour; with PyG's True it is reversed
        row, col, node, edge, _, _ = torch.ops.pyg.neighbor_sample(
            self._colptr,
            self._row,
            torch.from_numpy(frontier),
            [fan_out],
            None,
            None,
            None,
            None,
            False,
            False,
            True,
            False,
            "uniform",
            True,
        )
        visible = ~are_among(edge.numpy(), masked)
        dst, src_node = row.numpy()[visible], node.numpy()[col.numpy()[visible]]
        order = np.argsort(dst, kind="stable")
        dst, src_node = dst[order], src_node[order]
        new = src_node[~np.isin(src_node, frontier)]
        n_id = np.concatenate([frontier, new[np.sort(np.unique(new, return_index=True)[1])]])
        by_id = np.argsort(n_id)
        local = by_id[np.searchsorted(n_id[by_id], src_node)]
        counts = np.bincount(dst, minlength=len(frontier))
        starts, stops = self.graph.indptr[frontier], self.graph.indptr[frontier + 1]
        hidden = np.searchsorted(masked, stops) - np.searchsorted(masked, starts)
        root = np.sqrt(self._degree[frontier].astype(np.float64))
        scale = np.divide(
            stops - starts - hidden, counts * root, out=np.zeros(len(frontier)), where=counts > 0
        )
        return Drawn(
            counts.astype(np.int32), scale.astype(np.float32), local.astype(np.int32), n_id
        )
