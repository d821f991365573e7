"""Exact full-graph propagation, layer by layer: each rank computes its own rows from everybody's.

Legend: n rows of this rank, N nodes, D dims. Every rank holds one [N, D] layer at a time, never the edges of others.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.model import GatedLightGCN, propagate
from recmind_dist.parallel import Ranks, all_gather_rows
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class RowBlock:
    """The whole neighbourhood of this rank's rows, CSR over table rows. Satisfies the model's `Block`."""

    indptr: Tensor
    indices: Tensor
    dst_scale: Tensor
    num_src: int

    @property
    def num_dst(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True)
class FinalVectors:
    """Final vectors of all nodes in node order, [N, D], and γ of every layer, [layers, N], empty without gates."""

    h: Tensor
    gamma: Tensor


class FullPropagation:
    """The propagation operator of one rank's rows over the whole training graph.

    Args:
        bounds: [P + 1] rows of the ranks; degree_feature: [N] d̃ in node order.
    """

    def __init__(self, graph: Graph, bounds: IntArray, ranks: Ranks, degree_feature: Tensor) -> None:
        self.ranks, self.num_users = ranks, graph.num_users
        self.counts = np.diff(bounds).tolist()
        self.row_of_node = torch.from_numpy(np.array(graph.row_of_node))
        node_of_row = np.argsort(graph.row_of_node)
        own = node_of_row[bounds[ranks.rank] : bounds[ranks.rank + 1]]
        indptr, indices = _rows_of(graph.indptr, graph.indices, graph.row_of_node, own)
        degree = np.asarray(graph.degree)
        inverse_root = np.maximum(degree, 1).astype(np.float32) ** -0.5
        device = ranks.device
        self.block = RowBlock(
            torch.from_numpy(indptr).to(device), torch.from_numpy(indices).to(device),
            torch.from_numpy(inverse_root[own]).to(device), graph.num_nodes,
        )  # fmt: skip
        self.src_scale = torch.from_numpy(inverse_root[node_of_row]).to(device)
        self.feature = degree_feature.to(device)[torch.from_numpy(own).to(device)]
        self.is_user = torch.from_numpy(own < graph.num_users).to(device)

    @torch.no_grad()
    def all_final_vectors(self, model: GatedLightGCN, e_nD: Tensor, z_nD: Tensor | None) -> FinalVectors:
        """Vectors of the current model. Every rank must call.

        Args:
            e_nD: this rank's base rows; z_nD: their text views, None without text.
        """
        z = z_nD if z_nD is not None else torch.zeros_like(e_nD)
        x, states, fused, gammas = e_nD, [e_nD], [], []
        for layer in range(model.num_layers + 1):
            fused_x, gamma = model.fuse(layer, x, z, self.feature, self.is_user)
            fused.append(fused_x)
            gammas.append(gamma)
            if layer < model.num_layers:
                x = propagate(all_gather_rows(fused_x, self.counts, self.ranks), self.src_scale, self.block)
                states.append(x)
        graph_view, fused_view = torch.stack(states).mean(0), torch.stack(fused).mean(0)
        h = model.read_out(graph_view, fused_view, z, self.feature, self.is_user)
        everything = all_gather_rows(torch.cat([h, *gammas], 1), self.counts, self.ranks)
        in_node_order = everything[self.row_of_node.to(everything.device)]
        dim = h.shape[1]
        gamma = in_node_order[:, dim:].T if len(model.gates) else in_node_order.new_zeros(0, len(in_node_order))
        return FinalVectors(in_node_order[:, :dim].contiguous(), gamma.contiguous())


@njit(cache=True, nogil=True)
def _rows_of(indptr, indices, row_of_node, own):  # type: ignore[no-untyped-def]
    out_indptr = np.zeros(len(own) + 1, np.int64)
    for k in range(len(own)):
        out_indptr[k + 1] = out_indptr[k] + indptr[own[k] + 1] - indptr[own[k]]
    out = np.empty(out_indptr[-1], np.int32)
    for k in range(len(own)):
        start = indptr[own[k]]
        for e in range(out_indptr[k + 1] - out_indptr[k]):
            out[out_indptr[k] + e] = row_of_node[indices[start + e]]
    return out_indptr, out
