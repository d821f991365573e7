"""Means over neighbours, each rank those of its rows; of a user's items the newer may count more.

Legend: n rows of this rank, N nodes, E' edges of this rank's rows, C columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix
from recmind_dist.types import BoolArray, FloatArray, Int32Array, IntArray

if TYPE_CHECKING:
    from recmind_dist.propagation.full_graph import FullPropagation

_EDGES_AT_ONCE = 1 << 23


class NeighbourMeans:
    """Σ_k w_k x_k / Σ_k w_k over the visible neighbours of a node.

    Args:
        rows: edges of this rank's nodes, or of all.
        nodes: [n] this rank's, in the order of their rows.
        visible: which of their edges count, [E'] in that order; None: all.
        counts: [P] rows of each rank.
        decay: w of a user's item is decay^k, k the steps in time back from the newest that counts,
            and items have no mean; 1: all alike; None: of items too, all alike.
    """

    def __init__(
        self,
        rows: EdgeRows,
        nodes: IntArray,
        visible: BoolArray | None,
        counts: list[int],
        context: DistContext,
        decay: float | None = None,
    ) -> None:
        indptr, columns, weights = _weighted_entries(rows, nodes, visible, decay)
        matrix = CsrMatrix.of_arrays(indptr, columns, weights, rows.graph.num_nodes)
        self._matrix = GatheredMatrix(matrix.to(context.device), counts, context, fixed=True)

    @torch.no_grad()
    def means(self, x_nC: Tensor) -> Tensor:
        """Means of the neighbours' rows of x, zero where there are none. Shape: [n, C].

        Collective: every rank must call.
        """
        return self._matrix.gather_matmul(x_nC.contiguous())


def _weighted_entries(
    rows: EdgeRows, nodes: IntArray, visible: BoolArray | None, decay: float | None
) -> tuple[IntArray, Int32Array, FloatArray]:
    """Row starts, columns (table rows) and weights of the means, made some edges at a time: what
    they are made of takes many times their memory.
    """
    graph = rows.graph
    ends = np.cumsum(rows.degrees_of(nodes))
    sizes, columns, weights = [], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    start = 0
    while start < len(nodes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + _EDGES_AT_ONCE, side="right"))
        part = slice(start, max(stop, start + 1))
        start, own = part.stop, nodes[part]
        row, position = rows.edges_of(own)
        counted = np.ones(len(row), np.bool_)
        if visible is not None:
            counted = visible[before : before + len(row)]
        if decay is not None:
            counted = counted & (own < graph.num_users)[row]
        row, position = row[counted], position[counted]
        weight = np.ones(len(row))
        if decay is not None:
            time_rank = np.asarray(rows.time_rank[position])
            newest = np.zeros(len(own), time_rank.dtype)
            np.maximum.at(newest, row, time_rank)
            weight = np.power(decay, newest[row] - time_rank)
        weight /= np.bincount(row, weight, len(own))[row]
        sizes.append(np.bincount(row, minlength=len(own)))
        columns.append(np.asarray(graph.row_of_node)[rows.indices[position]].astype(np.int32))
        weights.append(weight.astype(np.float32))
    indptr = np.r_[0, np.cumsum(np.concatenate([np.empty(0, np.int64), *sizes]))]
    return indptr, np.concatenate(columns), np.concatenate(weights)


@torch.no_grad()
def content_view(
    operator: "FullPropagation", text: Tensor, decay: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The content view of this rank's rows, [n, T], and its recent means: a list of one each, the
    second empty without decay.

    Collective: every rank must call.

    Args:
        text: [n, T] text vectors of this rank's rows, or of its items alone.
    """
    unit = functional.normalize(text.float(), dim=1)
    if len(unit) == len(operator.is_user):
        unit = unit.index_select(0, operator.items)
    items = unit.new_zeros(len(operator.is_user), unit.shape[1]).index_copy(0, operator.items, unit)
    return [items + operator.item_means(1.0).means(items)], newest_item_views(
        operator, [items], decay
    )


@torch.no_grad()
def newest_item_views(
    operator: "FullPropagation", views: Sequence[Tensor], decay: float
) -> list[Tensor]:
    """Users' recent means of their items' views at unit length, zero for items; nothing without
    decay.

    Collective: every rank must call.

    Args:
        views: [n, C] each, of which items' rows are read.
    """
    if not decay:
        return []
    together = torch.cat([functional.normalize(view, dim=1) for view in views], 1)
    means = operator.item_means(decay).means(together)
    return list(torch.split(means, [view.shape[1] for view in views], dim=1))
