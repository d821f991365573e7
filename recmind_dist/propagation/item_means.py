"""Means of a user's items, the newer ones counting more: what the mixing readout reads of a user
beside her own views.

Legend: n rows of this rank, N nodes, E' edges of this rank's users, C columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.graph import EdgeRows
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix

if TYPE_CHECKING:
    from recmind_dist.propagation.full_graph import FullPropagation


class ItemMeans:
    """Σ_k decay^k x_k / Σ_k decay^k over the items of a user, k counting back from the newest that
    the operator sees.

    Args:
        rows: edges of this rank's nodes, or of all.
        operator: what is absent from its edges is absent here.
        decay: weight of an item against the next newer one, in (0, 1]; 1: all alike.
    """

    def __init__(self, rows: EdgeRows, operator: "FullPropagation", decay: float) -> None:
        indptr, indices, visible = operator.edges_of_rows
        own, count = operator.own_nodes, np.diff(indptr)
        graph, first = rows.graph, rows.indptr[rows.rows_of(own)]
        count = np.where(own < graph.num_users, count, 0)  # items get no row
        row = np.repeat(np.arange(len(own)), count)
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        item = indices[indptr[row] + place]
        time_rank = np.asarray(rows.time_rank)[first[row] + place]
        visible = visible[indptr[row] + place]
        row, item, time_rank = row[visible], item[visible], time_rank[visible]
        newest = np.zeros(len(own), np.int64)
        np.maximum.at(newest, row, time_rank)
        weight = np.power(decay, newest[row] - time_rank)
        weight /= np.bincount(row, weight, len(own))[row]
        starts = np.r_[0, np.cumsum(np.bincount(row, minlength=len(own)))]
        matrix = CsrMatrix.of_arrays(starts, item, weight, graph.num_nodes)
        self._matrix = GatheredMatrix(
            matrix.to(operator.feature.device), operator.counts, operator.context
        )

    @torch.no_grad()
    def means(self, x_nC: Tensor) -> Tensor:
        """Users' means of their items' rows of x, zero for items, without gradient. Shape: [n, C].

        Collective: every rank must call.
        """
        return self._matrix.gather_matmul(x_nC.contiguous())


@torch.no_grad()
def content_view(
    operator: "FullPropagation", text: Tensor, decay: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The content view of this rank's rows, [n, T], and its recent means: a list of one each, the
    second empty without decay.

    Every rank must call.

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
    decay. Every rank must call.

    Args:
        views: [n, C] each, of which items' rows are read.
    """
    if not decay:
        return []
    together = torch.cat([functional.normalize(view, dim=1) for view in views], 1)
    return list(
        torch.split(
            operator.item_means(decay).means(together), [view.shape[1] for view in views], dim=1
        )
    )
