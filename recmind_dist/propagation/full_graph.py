"""Exact full-graph propagation, layer by layer: each rank computes its own rows from everybody's.

Legend: n rows of this rank, N nodes, E' entries of this rank's rows, u wanted rows, D dims. Every
rank holds its own rows of a layer and those of one other rank, never the edges of others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.kernels.edge_arrays import edge_weights, edges_to, positions_of_edges, rows_of
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.full_graph_gradients import apply_hop, apply_mean
from recmind_dist.propagation.gathered_matrix import GatheredMatrix, columns_at_once
from recmind_dist.propagation.histories import Histories, ItemPlaces
from recmind_dist.propagation.item_means import NeighbourMeans
from recmind_dist.propagation.one_sided import OneSidedPropagation
from recmind_dist.types import IndexArray, IntArray

MeanOfStates = Callable[[Tensor, int, bool], Tensor]
"""(x, L, whether x is of items alone) → mean of x and of what 1..L hops make of it."""

_FEW = 0.4  # if the wanted rows have less than this share of the edges, a hop reads only theirs


class FullPropagation:
    """The symmetric propagation operator A of the whole training graph, as this rank's rows of it.

    A is its own transpose, so the backward of a hop is the same hop applied to the gathered
    gradients.

    Args:
        bounds: [P + 1] rows of the ranks.
        degree_feature: [N] d̃ in node order.
        absent: [E] edges (positions in the user half) that nothing passes over.
        degree: [N] degrees to normalise by; by default those of all training edges.
        rows: edges of this rank's nodes, by default all. Of a partitioned graph's `absent` must be
            None.
        fixed: it hides no edges, and takes no more memory than one matrix needs: states of one side
            pass over the whole one.
    """

    def __init__(
        self,
        graph: Graph,
        bounds: IntArray,
        context: DistContext,
        degree_feature: Tensor,
        absent: IntArray | None = None,
        degree: IndexArray | None = None,
        rows: EdgeRows | None = None,
        fixed: bool = False,
    ) -> None:
        self.context, self._graph, self.is_fixed = context, graph, fixed
        self.bounds, self.counts = bounds, np.diff(bounds).tolist()
        assert absent is None or rows is None or rows.whole, (
            "edges of a partitioned graph are left out by sampling alone"
        )
        rows = rows or EdgeRows.of_graph(graph)
        assert not (fixed and absent is not None and len(absent)), "a fixed operator has all edges"
        self._rows = rows
        row_of_node = np.asarray(graph.row_of_node)
        self._own = rows.nodes
        if rows.whole:
            # a copy: a view would keep the order of all nodes
            first, last = bounds[context.rank : context.rank + 2]
            self._own = np.argsort(row_of_node)[first:last].copy()
        self._indptr, indices = rows_of(
            rows.indptr, rows.indices, graph.row_of_node, rows.rows_of(self._own)
        )
        inverse_root = (
            np.maximum(np.asarray(graph.degree) if degree is None else degree, 1).astype(np.float32)
            ** -0.5
        )
        of_rows = np.empty_like(inverse_root)
        of_rows[row_of_node] = inverse_root
        weight = edge_weights(self._indptr, indices, inverse_root[self._own], of_rows)
        if absent is not None and len(absent):
            entries = self._find_edges()[:, absent]
            weight[entries[entries >= 0]] = 0.0
        device = context.device
        matrix = CsrMatrix.of_arrays(self._indptr, indices, weight, graph.num_nodes).to(device)
        self._matrix = GatheredMatrix(matrix, self.counts, context, fixed)
        self._lacks_edges = absent is not None and len(absent) > 0
        self._item_means: dict[float, NeighbourMeans] = {}
        self.feature = degree_feature.to(device)[torch.from_numpy(self._own).to(device)]
        self.is_user = torch.from_numpy(self._own < graph.num_users).to(device)
        self.everywhere = torch.arange(len(self._own), device=device)
        self._nothing = torch.empty(0, dtype=torch.int64, device=device)
        self.items = (~self.is_user).nonzero().squeeze(1)

    def histories(self, users: IntArray) -> tuple[Histories, ItemPlaces | None]:
        """Training items of users of this rank, and where ranks' items are, of several ranks."""
        places = None
        if self.context.world_size > 1:
            places = ItemPlaces.of(self._graph, self.bounds, self.context)
        return Histories.of_graph(self._rows, users), places

    @property
    def own_nodes(self) -> IntArray:
        """[n] global ids of this rank's rows."""
        return self._own

    @cached_property
    def by_node(self) -> Tensor:
        """[n] this rank's rows, ascending by node. Of one rank: the row of each node."""
        return torch.from_numpy(np.argsort(self._own)).to(self.context.device)

    def item_means(self, decay: float) -> NeighbourMeans:
        """Means of users' items over the edges that are not absent, made once."""
        if decay not in self._item_means:
            visible = None
            if self._lacks_edges:
                weight = self._matrix.whole().weight
                assert weight is not None
                visible = weight.cpu().numpy() != 0
            self._item_means[decay] = NeighbourMeans(
                self._rows, self._own, visible, self.counts, self.context, decay
            )
        return self._item_means[decay]

    def positions(self, edges: Tensor) -> Tensor:
        """Where edges (positions in the user half) stand in this rank's rows, in both directions.
        Ascending, int64.
        """
        found = self._position_of_edge[:, edges].flatten()
        if self.context.world_size > 1:
            found = found[found >= 0]
        return found.sort().values.long()

    @cached_property
    def _position_of_edge(self) -> Tensor:
        found = self._find_edges()
        fits = 2 * self._graph.num_edges <= torch.iinfo(torch.int32).max
        there = torch.from_numpy(found.astype(np.int32) if fits else found)
        return there.to(self.context.device)

    def _find_edges(self) -> IntArray:
        """[2, E] where each edge stands in this rank's rows, -1 if it does not."""
        graph = self._graph
        row = np.full(graph.num_nodes, -1, np.int64)
        row[self._own] = np.arange(len(self._own))
        found: IntArray = positions_of_edges(
            graph.indptr, graph.indices, graph.num_users, graph.num_edges, row, self._indptr
        )
        return found

    def hop(self, hidden: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """One hop over all edges but those at `hidden` (see `positions`), inside autograd: [n, D] →
        [n, D].

        Collective: every rank must call what it returns, in forward and in backward.
        """
        return partial(apply_hop, self, self._or_nothing(hidden))

    def mean(
        self,
        hidden: Tensor | None = None,
        rows: Tensor | None = None,
        edges: CsrMatrix | None = None,
    ) -> MeanOfStates:
        """Rows of (1 + A + … + A^L) x / (L + 1), inside autograd.

        Collective: every rank must call what it returns, in forward and in backward.

        Args:
            hidden: as `hop`.
            rows: [u] distinct rows of this rank that are wanted, by default all.
            edges: what `edges_from` says of them.
        """
        rows = self.everywhere if rows is None else rows
        return partial(apply_mean, self, self._or_nothing(hidden), rows, edges)

    def _or_nothing(self, hidden: Tensor | None) -> Tensor:
        return self._nothing if hidden is None else hidden

    def edges_from(self, rows: Tensor) -> CsrMatrix | None:
        """A with the edges from these rows alone, all that the first hop of a gradient passes over.

        Any thread may ask, of an operator that hides nothing. None where it is not worth while: for
        many rows, of several ranks, or off the CPU.
        """
        if (
            self.context.world_size > 1
            or self.context.device.type != "cpu"
            or not self._are_few(rows)
        ):
            return None
        return self._edges_from(rows)

    def _edges_from(self, rows: Tensor) -> CsrMatrix:
        matrix = self._matrix.whole()
        assert matrix.weight is not None
        arrays = matrix.indptr.numpy(), matrix.indices.numpy(), matrix.weight.numpy()
        indptr, indices, weight = edges_to(*arrays, rows.numpy())
        return CsrMatrix.of_arrays(indptr, indices, weight, matrix.num_cols)

    def _are_few(self, rows: Tensor) -> bool:
        """Whether so few rows are wanted that finding their edges beats a pass over all."""
        if rows.device.type != "cpu" or len(rows) == len(self._own):
            return False  # on a GPU a whole hop costs less than finding the edges of some rows
        own = rows.numpy()
        return int((self._indptr[own + 1] - self._indptr[own]).sum()) < _FEW * int(self._indptr[-1])

    @contextmanager
    def _hiding(self, hidden: Tensor) -> Iterator[GatheredMatrix]:
        """The matrix while the entries at these positions weigh nothing."""
        if not len(hidden):
            yield self._matrix
            return
        with self._matrix.without(hidden):
            yield self._matrix

    def multiply(self, x_nD: Tensor, hidden: Tensor) -> Tensor:
        """This rank's rows of A times everybody's rows. Collective: every rank must call."""
        with self._hiding(hidden) as matrix:
            return matrix.gather_matmul(x_nD)

    def mean_of_states(
        self, x_nD: Tensor, num_layers: int, hidden: Tensor, wanted: Tensor
    ) -> Tensor:
        """Rows `wanted` of (1 + A + … + A^L) x / (L + 1). Shape: [u, D].

        Collective: every rank must call.
        """
        few = self._are_few(wanted)
        every = wanted is self.everywhere
        state, total = x_nD, x_nD.clone() if every else x_nD.index_select(0, wanted)
        with self._hiding(hidden) as matrix:
            for layer in range(num_layers):
                last = layer == num_layers - 1
                state = matrix.gather_matmul(state, wanted=wanted if few and last else None)
                picked = every or len(wanted) == len(state)
                total += state if picked else state.index_select(0, wanted)
        return total.div_(num_layers + 1)

    def mean_backward(
        self,
        grad_uD: Tensor,
        num_layers: int,
        hidden: Tensor,
        wanted: Tensor,
        edges: CsrMatrix | None,
    ) -> Tensor:
        """The gradient of `mean_of_states`'s x, by Horner's rule. Shape: [n, D].

        Collective: every rank must call.

        Args:
            edges: `edges_from(wanted)`, if it is known.
        """
        grad_uD = grad_uD / (num_layers + 1)
        every, state = wanted is self.everywhere, grad_uD
        if not every:
            zeros = grad_uD.new_zeros(len(self._own), grad_uD.shape[1])
            state = zeros.index_copy_(0, wanted, grad_uD)
        alone = num_layers > 0 and self.context.world_size == 1 and wanted.device.type == "cpu"
        with self._hiding(hidden) as matrix:
            if edges is None and alone and self._are_few(wanted):
                edges = self._edges_from(wanted)
            for layer in range(num_layers):
                state = matrix.gather_matmul(state, edges if layer == 0 else None)
                state = state.add_(grad_uD) if every else state.index_add_(0, wanted, grad_uD)
        return state

    @cached_property
    def one_sided(self) -> OneSidedPropagation:
        """The same operator for states of which one side is zero."""
        users_by_row = np.zeros(self._graph.num_nodes, np.bool_)
        users_by_row[np.asarray(self._graph.row_of_node)[: self._graph.num_users]] = True
        return OneSidedPropagation(
            self._matrix.whole(), users_by_row, self.counts, self.is_user, self.context
        )

    def view(
        self,
        num_layers: int,
        hidden: Tensor | None = None,
        rows: Tensor | None = None,
        edges: CsrMatrix | None = None,
    ) -> "FullGraphView":
        """The graph as models see it (`PropagationGraph`).

        Args:
            num_layers: L.
            hidden, rows, edges: as `mean`.
        """
        rows = self.everywhere if rows is None else rows
        return FullGraphView(self, num_layers, hidden, rows, edges)


@dataclass(frozen=True)
class FullGraphView:
    """The whole graph, of which some rows are wanted.

    Attributes:
        hidden: see `FullPropagation.positions`.
        rows: [S] distinct rows of this rank.
        edges: see `FullPropagation.edges_from`.
    """

    operator: FullPropagation
    num_layers: int
    hidden: Tensor | None
    rows: Tensor
    edges: CsrMatrix | None = None

    @property
    def is_user(self) -> Tensor:
        return self.operator.is_user

    @property
    def degree_feature(self) -> Tensor:
        return self.operator.feature

    @property
    def hops(self) -> list[Callable[[Tensor], Tensor]]:
        return [self.operator.hop(self.hidden)] * self.num_layers

    def select(self, x_nD: Tensor) -> Tensor:
        return x_nD if self.rows is self.operator.everywhere else x_nD.index_select(0, self.rows)

    def mean_of_states(self, x: Tensor, num_layers: int, items_only: bool = False) -> Tensor:
        """See `PropagationGraph`; with `items_only` x may hold the items' rows alone.

        Collective: every rank must call, in forward and in backward.
        """
        if items_only and len(x) != len(self.operator.items):
            x = x.index_select(0, self.operator.items)
        if self.operator.is_fixed:
            return self._mean_by_columns(x, num_layers, items_only)
        return self.operator.mean(self.hidden, self.rows, self.edges)(x, num_layers, items_only)

    @torch.no_grad()
    def _mean_by_columns(self, x: Tensor, num_layers: int, items_only: bool) -> Tensor:
        """A few columns at a time where there are many nodes: so little memory do states of all
        nodes take. Shape: [S, D]. Collective: every rank must call.
        """
        operator, out = self.operator, x.new_empty(len(self.rows), x.shape[1])
        columns = columns_at_once(int(operator.bounds[-1]), operator.context.world_size)
        for first in range(0, x.shape[1], columns):
            part = x[:, first : first + columns]
            if items_only:
                zeros = x.new_zeros(len(operator.is_user), part.shape[1])
                part = zeros.index_copy_(0, operator.items, part)
            means = operator.mean(self.hidden, self.rows)(part.contiguous(), num_layers, False)
            out[:, first : first + columns] = means
        return out
