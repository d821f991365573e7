"""Exact full-graph propagation, layer by layer: each rank computes its own rows from everybody's.

Legend: n rows of this rank, N nodes, D dims. Every rank holds one [N, D] layer at a time, never the edges of others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.model import GatedLightGCN, MeanOfStates, Views
from recmind_dist.parallel.edge_arrays import EdgesFrom, edges_to, positions_of_edges, rows_of
from recmind_dist.parallel.exchange import all_gather_rows
from recmind_dist.parallel.item_means import ItemMeans, all_content, all_recent
from recmind_dist.parallel.memory import zeros_in_large_pages
from recmind_dist.parallel.ranks import Ranks
from recmind_dist.parallel.row_sums import sum_rows
from recmind_dist.types import Int32Array, IntArray

_FEW = 0.4  # share of the edges below which a hop from some rows first finds their edges


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
        half) that nothing passes over; degree: [N] as which nodes count, by default their training degree; rows: this rank's
        share of a partitioned graph, which has no other edges here and can leave none out.
    """

    def __init__(
        self, graph: Graph, bounds: IntArray, ranks: Ranks, degree_feature: Tensor, absent: IntArray | None = None,
        degree: IntArray | None = None, rows: EdgeRows | None = None,
    ) -> None:  # fmt: skip
        self.ranks, self._graph = ranks, graph
        self.counts = np.diff(bounds).tolist()
        self.row_of_node = torch.from_numpy(np.array(graph.row_of_node))
        node_of_row = np.argsort(graph.row_of_node)
        self._own = node_of_row[bounds[ranks.rank] : bounds[ranks.rank + 1]]
        assert absent is None or rows is None or rows.whole, (
            "edges of a partitioned graph are left out by sampling alone"
        )
        rows = rows or EdgeRows.all_of(graph)
        own_rows = rows.rows_of(self._own)
        self._indptr, self._indices = rows_of(rows.indptr, rows.indices, graph.row_of_node, own_rows)
        self._item_means: dict[float, ItemMeans] = {}
        self._filled: dict[int, Tensor] = {}
        self._states: dict[tuple[str, int], Tensor] = {}  # kept: page faults of a fresh one cost as much as the product
        if absent is not None and len(absent):
            self._indices[self.positions(absent)] = graph.num_nodes
        inverse_root = np.maximum(np.asarray(graph.degree) if degree is None else degree, 1).astype(np.float32) ** -0.5
        device = ranks.device
        self._scale = torch.from_numpy(inverse_root[self._own]).to(device)
        self.feature = degree_feature.to(device)[torch.from_numpy(self._own).to(device)]
        self.is_user = torch.from_numpy(self._own < graph.num_users).to(device)
        self.everywhere = torch.arange(len(self._own), device=device)
        self.items = (~self.is_user).nonzero().squeeze(1)

    @property
    def own_nodes(self) -> IntArray:
        """[n] global ids of this rank's rows."""
        return self._own

    @property
    def edges_of_rows(self) -> tuple[IntArray, Int32Array]:
        """indptr [n + 1] and rows of the other ends, num_nodes where an edge is absent."""
        return self._indptr, self._indices

    def item_means(self, decay: float) -> ItemMeans:
        """Made once."""
        if decay not in self._item_means:
            self._item_means[decay] = ItemMeans(self._graph, self, decay)
        return self._item_means[decay]

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
        found: IntArray = positions_of_edges(
            graph.indptr, graph.indices, graph.num_users, graph.num_edges, row, self._indptr
        )
        return found

    def hop(self, hidden: IntArray | None = None) -> Callable[[Tensor], Tensor]:
        """One hop over all edges but those at `hidden` (see `positions`), inside autograd: [n, D] → [n, D].

        Every rank must call what it returns, in forward and in backward.
        """
        return partial(_apply, self, _or_nothing(hidden))

    def mean(
        self, hidden: IntArray | None = None, rows: Tensor | None = None, edges: EdgesFrom | None = None
    ) -> MeanOfStates:
        """Rows of (1 + A + … + A^L) x / (L + 1), A this operator, inside autograd; see `MeanOfStates`.

        Every rank must call what it returns, in forward and in backward.

        Args:
            hidden: as `hop`; rows: [u] distinct rows of this rank that are wanted, by default all; edges: what `edges_from`
            says of them.
        """
        return partial(_mean, self, _or_nothing(hidden), self.everywhere if rows is None else rows, edges)

    def edges_from(self, rows: Tensor) -> EdgesFrom | None:
        """The edges from these rows alone, which are all that the first hop of a gradient passes over.

        Any thread may ask, of an operator that hides nothing. None where it is not worth while: for many rows, of several
        ranks, or off the CPU.
        """
        return edges_to(self._indptr, self._indices, rows.numpy()) if self._are_few(rows) else None

    def _are_few(self, rows: Tensor) -> bool:
        if self.ranks.world_size > 1 or self.ranks.device.type != "cpu" or len(rows) == len(self._scale):
            return False
        own = rows.numpy()
        return int((self._indptr[own + 1] - self._indptr[own]).sum()) < _FEW * int(self._indptr[-1])

    def all_multiply(self, x_nD: Tensor, hidden: IntArray) -> Tensor:
        """This rank's rows of the operator times everybody's rows. Every rank must call."""
        state = self._scaled(x_nD, self.everywhere)
        out = torch.empty_like(x_nD)
        none = torch.zeros_like(self._scale)
        self._all_hop(state, hidden, self.everywhere, self.everywhere, out, state, none, self._scale)
        return out

    def all_mean(
        self, x: Tensor, num_layers: int, hidden: IntArray, given: Tensor, wanted: Tensor, users_first: bool | None,
        edges: EdgesFrom | None = None,
    ) -> Tensor:  # fmt: skip
        """Rows `wanted` of the mean of x and what 1..L hops make of it. Every rank must call.

        By Horner's rule, in states that are scaled by 1/√degree, so that a hop is one pass: w ← w⁰ + Σ w / degree.

        Args:
            x: content of the rows `given`; all others are zero. users_first: where not None, hops compute users and items
            by turns. Every edge leads from one side to the other, so this gives all where one side of x is zero, if the
            first hop computes that side, and where one side alone is wanted, if the last hop computes it. edges: those from
            the rows `given`, if they are known.
        """
        first, w, share = self._scaled(x, given), self._state("even", x.shape[1]), 1.0 / (num_layers + 1)
        ones, square, root = torch.ones_like(self._scale), self._scale.square(), self._scale.reciprocal()
        if num_layers == 0 or users_first is not None:
            w.copy_(first)
            for layer in range(num_layers):
                rows = wanted if layer == num_layers - 1 else self.everywhere
                rows = rows[self.is_user[rows] == (users_first == (layer % 2 == 0))]
                self._all_hop(w, hidden, rows, rows, w, first, ones, square)
            return w.index_select(0, wanted).mul_(share * root[wanted, None])
        w, spare = first, (w, self._state("odd", x.shape[1]))
        sources = given if edges is None and self._are_few(given) else None
        for layer in range(num_layers - 1):
            following = spare[layer % 2]
            self._all_hop(w, hidden, self.everywhere, self.everywhere, following, first, ones, square, edges, sources)
            w, edges, sources = following, None, None
        out = x.new_empty(len(wanted), x.shape[1])
        into = torch.arange(len(wanted), device=wanted.device)
        self._all_hop(w, hidden, wanted, into, out, first, share * root, share * self._scale, edges, sources)
        return out

    def _scaled(self, x: Tensor, given: Tensor) -> Tensor:
        """x / √degree at the rows `given`, zero elsewhere, in an array that is kept. Shape: [n + 1, D]."""
        dim = x.shape[1]
        if len(given) == len(self._scale):
            state = self._state("first", dim)
            torch.mul(x, self._scale[:, None], out=state[:-1])
            return state
        state, before = self._state("first of some", dim), self._filled.get(dim)
        if before is not None:  # all else is zero already
            state.index_fill_(0, before, 0.0)
        self._filled[dim] = given
        return state.index_copy_(0, given, x * self._scale[given, None])

    def _state(self, name: str, dim: int, rows: int | None = None) -> Tensor:
        """A kept array whose last row is zero and stays so: hidden edges lead there."""
        rows = len(self._scale) if rows is None else rows
        if (name, dim) not in self._states:
            self._states[name, dim] = zeros_in_large_pages(rows + 1, dim, self.ranks.device)
        return self._states[name, dim]

    def _all_hop(
        self, state: Tensor, hidden: IntArray, rows: Tensor, into: Tensor, out: Tensor, add: Tensor, alpha: Tensor,
        beta: Tensor, edges: EdgesFrom | None = None, sources: Tensor | None = None,
    ) -> None:  # fmt: skip
        """out[into] = alpha · add + beta · Σ over neighbours of everybody's `state`, at `rows`. Every rank must call.

        Args:
            edges: from all rows whose state is not zero, where nothing is hidden; by default all; sources: those rows, where
            their edges are still to be found.
        """
        x = state
        if self.ranks.world_size > 1:
            x = self._state("everybody", state.shape[1], self._graph.num_nodes)
            x[:-1] = all_gather_rows(state[:-1], self.counts, self.ranks)
        if x.device.type != "cpu":
            sums = (self._sparse(hidden, x.device) @ x)[rows]
            out[into] = alpha[rows, None] * add[rows] + beta[rows, None] * sums
            return
        arrays = [t.numpy() for t in (x, rows, into, out, add, alpha, beta)]
        if edges is not None:
            sum_rows(*edges, *arrays)
            return
        kept = self._indices[hidden]
        self._indices[hidden] = self._graph.num_nodes  # the row of zeros
        try:
            shown = self._indptr, self._indices
            sum_rows(*(shown if sources is None else edges_to(*shown, sources.numpy())), *arrays)
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
    def all_final_vectors(
        self, model: GatedLightGCN, e_nD: Tensor, z_nD: Tensor | None, text_nT: Tensor | None = None
    ) -> FinalVectors:
        """Vectors of the current model. Every rank must call.

        Args:
            e_nD: this rank's base rows; z_nD: their text views, None without text; text_nT: the text vectors themselves,
            which a content view is made of.
        """
        if len(model.gates):
            views = model.views(e_nD, z_nD, self.is_user, [self.hop()] * model.num_layers, self.feature)
        else:
            z = z_nD if z_nD is None or model.settings.users_have_text else z_nD[self.items]
            graph, text = model.smoothed(e_nD, z, self.mean())
            decay = model.settings.recent_decay
            content: list[Tensor] = []
            recent: list[Tensor] = []
            if model.settings.content_view and text_nT is not None:
                content, recent = all_content(self, text_nT, decay)
            recent = [*all_recent(self, [graph, text], decay), *recent]
            h = model.read_out(graph, graph, text, self.feature, self.is_user, content=content, recent=recent)
            views = Views(h, graph, text)
        gates = views.gamma
        if model.mix is not None:
            gates = [*gates, model.mix.gamma(views.graph, self.feature, self.is_user)]
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


class _Mean(torch.autograd.Function):
    """Its backward is itself, from the wanted rows to the given ones: powers of a symmetric operator are symmetric."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, operator: FullPropagation, num_layers: int, hidden: IntArray, given: Tensor, wanted: Tensor,
        items_only: bool, edges: EdgesFrom | None,
    ) -> Tensor:  # fmt: skip
        ctx.arguments = operator, num_layers, hidden, given, wanted, items_only, edges
        return operator.all_mean(x.detach(), num_layers, hidden, given, wanted, True if items_only else None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        operator, num_layers, hidden, given, wanted, items_only, edges = ctx.arguments
        users_first = num_layers % 2 == 0 if items_only else None
        back = operator.all_mean(grads[0].contiguous(), num_layers, hidden, wanted, given, users_first, edges)
        return back, None, None, None, None, None, None, None


def _mean(
    operator: FullPropagation, hidden: IntArray, rows: Tensor, edges: EdgesFrom | None, x: Tensor, num_layers: int,
    items_only: bool,
) -> Tensor:  # fmt: skip
    given = operator.items if items_only else operator.everywhere
    out: Tensor = _Mean.apply(  # type: ignore[no-untyped-call]
        x, operator, num_layers, hidden, given, rows, items_only, edges
    )
    return out


def _or_nothing(edges: IntArray | None) -> IntArray:
    return edges if edges is not None else np.zeros(0, np.int64)
