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
from recmind_dist.types import BoolArray, IntArray

if TYPE_CHECKING:
    from recmind_dist.propagation.full_graph import FullPropagation


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
        graph = rows.graph
        row, position = rows.edges_of(nodes)
        counted = np.ones(len(row), np.bool_) if visible is None else visible
        if decay is not None:
            counted = counted & (nodes < graph.num_users)[row]
        row, position = row[counted].astype(np.int32), position[counted]
        weight = np.ones(len(row))
        if decay is not None:
            time_rank = np.asarray(rows.time_rank[position])
            newest = np.zeros(len(nodes), time_rank.dtype)
            np.maximum.at(newest, row, time_rank)
            weight = np.power(decay, newest[row] - time_rank)
            del time_rank
        weight /= np.bincount(row, weight, len(nodes))[row]
        indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=len(nodes)))]
        del row, counted
        others = rows.indices[position]
        del position
        columns = np.asarray(graph.row_of_node)[others]
        del others
        matrix = CsrMatrix.of_arrays(indptr, columns, weight, graph.num_nodes)
        del columns, weight
        self._matrix = GatheredMatrix(matrix.to(context.device), counts, context)

    @torch.no_grad()
    def means(self, x_nC: Tensor) -> Tensor:
        """Means of the neighbours' rows of x, zero where there are none. Shape: [n, C].

        Collective: every rank must call.
        """
        return self._matrix.gather_matmul(x_nC.contiguous())


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
