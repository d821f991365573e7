"""Exact full-graph propagation, layer by layer: each rank computes its own rows from everybody's.

Legend: n rows of this rank, N nodes, D dims. Every rank holds one [N, D] layer at a time, never the edges of others.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.model import GatedLightGCN
from recmind_dist.parallel.exchange import all_gather_rows
from recmind_dist.parallel.ranks import Ranks
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class FinalVectors:
    """Final vectors of all nodes in node order, [N, C], and γ of every layer, [layers, N], empty without gates."""

    h: Tensor
    gamma: Tensor


class FullPropagation:
    """The symmetric propagation operator of the whole training graph, as this rank's rows of it.

    The operator is its own transpose, so the backward of a hop is the same hop applied to the gathered gradients.

    Args:
        bounds: [P + 1] rows of the ranks; degree_feature: [N] d̃ in node order; absent: [E] edges (positions in the user
        half) that nothing passes over; degree: [N] as which nodes count, by default their training degree.
    """

    def __init__(
        self, graph: Graph, bounds: IntArray, ranks: Ranks, degree_feature: Tensor, absent: IntArray | None = None,
        degree: IntArray | None = None,
    ) -> None:  # fmt: skip
        self.ranks, self._graph = ranks, graph
        self.counts = np.diff(bounds).tolist()
        self.row_of_node = torch.from_numpy(np.array(graph.row_of_node))
        node_of_row = np.argsort(graph.row_of_node)
        self._own = node_of_row[bounds[ranks.rank] : bounds[ranks.rank + 1]]
        indptr, indices = _rows_of(graph.indptr, graph.indices, graph.row_of_node, self._own)
        self._indptr, self._indices = indptr, indices
        self._weighted: Tensor | None = None  # kept: page faults of a fresh one cost as much as the product
        if absent is not None and len(absent):
            indices[self.positions(absent)] = graph.num_nodes
        inverse_root = np.maximum(np.asarray(graph.degree) if degree is None else degree, 1).astype(np.float32) ** -0.5
        device = ranks.device
        self._dst_scale = torch.from_numpy(inverse_root[self._own]).to(device)
        self._src_scale = torch.from_numpy(inverse_root[node_of_row]).to(device)
        self.feature = degree_feature.to(device)[torch.from_numpy(self._own).to(device)]
        self.is_user = torch.from_numpy(self._own < graph.num_users).to(device)

    @property
    def own_nodes(self) -> IntArray:
        """[n] global ids of this rank's rows."""
        return self._own

    def positions(self, edges: IntArray) -> IntArray:
        """Where edges (positions in the user half) stand in this rank's rows, in both directions. Ascending."""
        found = self._position_of_edge[:, edges].ravel()
        ascending: IntArray = np.sort(found[found >= 0])
        return ascending

    @cached_property
    def _position_of_edge(self) -> IntArray:
        graph = self._graph
        row = np.full(graph.num_nodes, -1, np.int64)
        row[self._own] = np.arange(len(self._own))
        found: IntArray = _positions_of_edges(
            graph.indptr, graph.indices, graph.num_users, graph.num_edges, row, self._indptr
        )
        return found

    def hop(self, hidden: IntArray | None = None) -> Callable[[Tensor], Tensor]:
        """One hop over all edges but those at `hidden` (see `positions`), inside autograd: [n, D] → [n, D].

        Every rank must call what it returns, in forward and in backward.
        """
        return partial(_apply, self, hidden if hidden is not None else np.zeros(0, np.int64))

    def all_multiply(self, x_nD: Tensor, hidden: IntArray) -> Tensor:
        """This rank's rows of the operator times everybody's rows. Every rank must call."""
        everything = all_gather_rows(x_nD, self.counts, self.ranks)
        weighted = self._weighted
        if weighted is None or weighted.shape[1] != everything.shape[1]:
            weighted = self._weighted = everything.new_zeros(len(everything) + 1, everything.shape[1])
        torch.mul(everything, self._src_scale[:, None], out=weighted[:-1])
        if x_nD.device.type != "cpu":
            return self._sparse(hidden, weighted.device) @ weighted * self._dst_scale[:, None]
        kept = self._indices[hidden]
        self._indices[hidden] = len(everything)  # the row of zeros
        try:
            return torch.from_numpy(_multiply(self._indptr, self._indices, self._dst_scale.numpy(), weighted.numpy()))
        finally:
            self._indices[hidden] = kept

    def _sparse(self, hidden: IntArray, device: torch.device) -> Tensor:
        indices = torch.from_numpy(self._indices).long()
        indices[torch.from_numpy(hidden)] = self._graph.num_nodes
        shape = (len(self._own), self._graph.num_nodes + 1)
        return torch.sparse_csr_tensor(torch.from_numpy(self._indptr), indices, torch.ones(len(indices)), shape).to(
            device
        )

    @torch.no_grad()
    def all_final_vectors(self, model: GatedLightGCN, e_nD: Tensor, z_nD: Tensor | None) -> FinalVectors:
        """Vectors of the current model. Every rank must call.

        Args:
            e_nD: this rank's base rows; z_nD: their text views, None without text.
        """
        views = model.views(e_nD, z_nD, self.is_user, [self.hop()] * model.num_layers, self.feature)
        gates = views.gamma
        if model.mix is not None:
            gates = [*gates, model.mix.weights(views.graph, self.feature, self.is_user)[0]]
        everything = all_gather_rows(torch.cat([views.h, *gates], 1), self.counts, self.ranks)
        in_node_order = everything[self.row_of_node.to(everything.device)]
        dim = views.h.shape[1]
        return FinalVectors(in_node_order[:, :dim].contiguous(), in_node_order[:, dim:].T.contiguous())


class _Hop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: FullPropagation, hidden: IntArray) -> Tensor:
        ctx.operator, ctx.hidden = operator, hidden
        return operator.all_multiply(x.detach(), hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.operator.all_multiply(grads[0].contiguous(), ctx.hidden), None, None


def _apply(operator: FullPropagation, hidden: IntArray, x: Tensor) -> Tensor:
    out: Tensor = _Hop.apply(x, operator, hidden)  # type: ignore[no-untyped-call]
    return out


def _multiply(indptr: IntArray, indices: np.ndarray, dst_scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sums of rows, a thread of torch's number for each run of rows with like numbers of edges."""
    out = np.empty((len(indptr) - 1, x.shape[1]), np.float32)
    threads = torch.get_num_threads()
    bounds = np.searchsorted(indptr, np.linspace(0, indptr[-1], threads + 1)).astype(np.int64)
    bounds[0], bounds[-1] = 0, len(indptr) - 1
    if threads == 1:
        _sum_rows(indptr, indices, dst_scale, x, out, 0, len(out))
        return out
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(_sum_rows, indptr, indices, dst_scale, x, out, bounds[t], bounds[t + 1]) for t in range(threads)
        ]
        for part in parts:
            part.result()
    return out


@njit(cache=True, nogil=True, fastmath={"contract"})
def _sum_rows(indptr, indices, dst_scale, x, out, first, last):  # type: ignore[no-untyped-def]
    dim = x.shape[1]
    for v in range(first, last):
        row = out[v]
        e, stop = indptr[v], indptr[v + 1]
        for d in range(dim):
            row[d] = 0.0
        while e + 4 <= stop:  # four at once: the sum is read and written a quarter as often
            a, b, c, f = x[indices[e]], x[indices[e + 1]], x[indices[e + 2]], x[indices[e + 3]]
            for d in range(dim):
                row[d] += (a[d] + b[d]) + (c[d] + f[d])
            e += 4
        while e < stop:
            a = x[indices[e]]
            for d in range(dim):
                row[d] += a[d]
            e += 1
        scale = dst_scale[v]
        for d in range(dim):
            row[d] *= scale


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


@njit(cache=True, nogil=True)
def _positions_of_edges(indptr, indices, num_users, num_edges, row, out_indptr):  # type: ignore[no-untyped-def]
    """[2, E]: where user-half edge e stands, from the user's row and from the item's; -1 where the row is not here."""
    out = np.full((2, num_edges), -1, np.int64)
    filled = indptr[num_users:-1].copy()  # rows ascend, so items meet their users in the order of the user half
    for u in range(num_users):
        for e in range(indptr[u], indptr[u + 1]):
            item = indices[e]
            if row[u] >= 0:
                out[0, e] = out_indptr[row[u]] + e - indptr[u]
            if row[item] >= 0:
                out[1, e] = out_indptr[row[item]] + filled[item - num_users] - indptr[item]
            filled[item - num_users] += 1
    return out
