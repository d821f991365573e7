"""Final embeddings, by exact propagation with the present parameters: each rank has its own nodes'.

Legend: n nodes of this rank, C columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.model.models import Model
from recmind_dist.model.recmind import RecMind
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.histories import Histories, ItemPlaces
from recmind_dist.propagation.item_means import content_view, newest_item_views
from recmind_dist.types import IntArray

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class FinalEmbeddings:
    """Of this rank's nodes, ascending; on one rank alone, of all nodes in their order.

    Attributes:
        nodes: [n] global ids.
        final: [n, C], whose inner products are scores.
        gamma: [layers, n] weight of the graph in each gate, empty without gates.
    """

    nodes: IntArray
    final: Tensor
    gamma: Tensor


@torch.no_grad()
def final_embeddings(
    operator: FullPropagation,
    model: Model,
    e_nD: Tensor,
    z_nD: Tensor | None,
    text_nT: Tensor | None = None,
) -> FinalEmbeddings:
    """Embeddings of the present model. Collective: every rank must call.

    Args:
        e_nD: this rank's rows of the table.
        z_nD: their text views, None without text.
        text_nT: the text vectors themselves, which a content view is made of.
    """
    final, gamma = _in_table_order(operator, model, e_nD, z_nD, text_nT)
    order = operator.by_node
    nodes = operator.own_nodes[order.cpu().numpy()]
    weights = torch.cat([final[:, :0], *gamma], 1)
    return FinalEmbeddings(
        nodes, final.index_select(0, order), weights.index_select(0, order).T.contiguous()
    )


def _in_table_order(
    operator: FullPropagation,
    model: Model,
    e_nD: Tensor,
    z_nD: Tensor | None,
    text_nT: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Final embeddings [n, C] and γ [n, 1] of each gate. Collective: every rank must call."""
    graph = operator.view(model.num_layers)
    if isinstance(model, RecMind):
        decay, views = model.settings.recent_decay, model.views(graph, e_nD, z_nD)
        recent = newest_item_views(operator, views, decay)
        content: list[Tensor] = []
        if model.settings.has_content_view and text_nT is not None:
            content, recent_content = content_view(operator, text_nT, decay)
            recent = [*recent, *recent_content]
        final = model.mix([*views, *content], recent, operator.feature, operator.is_user)
        return final, [model.mix.gamma(views[0], operator.feature, operator.is_user)]
    made = model(graph, e_nD, z_nD)
    return made.final, made.gamma


@torch.no_grad()
def final_embeddings_of(
    users: IntArray,
    operator: FullPropagation,
    model: Model,
    e_nD: Tensor,
    z_nD: Tensor | None,
    text_nT: Tensor | None = None,
) -> FinalEmbeddings:
    """Those of all items and of some users, without the memory that all users' would take, and
    without γ.

    Collective: every rank must call.

    Args:
        users: [U] global ids, of this rank or not.
        e_nD, z_nD, text_nT: as for `final_embeddings`.
    """
    order = operator.by_node
    among = torch.from_numpy(np.isin(operator.own_nodes, users)).to(order.device)
    rows = order[(among | ~operator.is_user)[order]]
    nodes = operator.own_nodes[rows.cpu().numpy()]
    graph = operator.view(model.num_layers, rows=rows)
    if not isinstance(model, RecMind):
        final = model(graph, e_nD, z_nD).final
        return FinalEmbeddings(nodes, final, final.new_zeros(0, len(nodes)))
    settings, is_user = model.settings, graph.select(operator.is_user)
    views = list(model.views(graph, e_nD, z_nD))
    histories, places = operator.histories(nodes[: int(is_user.sum())])
    decay, means = settings.recent_decay, list[Tensor]()
    if decay:
        means = [_newest_item_means(histories, v[~is_user], decay, places) for v in views]
    if settings.has_content_view and text_nT is not None:
        x_iT = functional.normalize(graph.select(text_nT)[~is_user].float(), dim=1)
        views.append(torch.cat([histories.item_means(x_iT, 1.0, places), x_iT]))
        if decay:
            means.append(_newest_item_means(histories, x_iT, decay, places))
    final = torch.empty(len(nodes), sum(v.shape[1] for v in views) + 1, device=is_user.device)
    feature = graph.select(operator.feature)
    for start in range(0, len(nodes), _BLOCK_ROWS):  # what a mix is made of takes thrice its memory
        part = slice(start, start + _BLOCK_ROWS)
        recent = [_rows_or_zeros(x_uC, start, len(is_user[part])) for x_uC in means]
        final[part] = model.mix([v[part] for v in views], recent, feature[part], is_user[part])
    return FinalEmbeddings(nodes, final, final.new_zeros(0, len(nodes)))


def _newest_item_means(
    histories: Histories, x_iC: Tensor, decay: float, places: ItemPlaces | None
) -> Tensor:
    """Users' means of their items' views at unit length, in which newer items count more, [u, C].

    Collective: every rank must call.

    Args:
        x_iC: a view of this rank's items.
    """
    return histories.item_means(functional.normalize(x_iC, dim=1), decay, places)


def _rows_or_zeros(x_uC: Tensor, start: int, count: int) -> Tensor:
    """Rows from `start` on, zero where x has no more. Shape: [count, C]."""
    rows = x_uC[start : start + count]
    return functional.pad(rows, (0, 0, 0, count - len(rows)))
