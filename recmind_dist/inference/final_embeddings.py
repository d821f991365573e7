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
from recmind_dist.propagation.item_means import content_view, newest_item_views
from recmind_dist.types import IntArray


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
    graph = operator.view(model.num_layers)
    if isinstance(model, RecMind):
        decay, views = model.settings.recent_decay, model.views(graph, e_nD, z_nD)
        recent = newest_item_views(operator, views, decay)
        content: list[Tensor] = []
        if model.settings.has_content_view and text_nT is not None:
            content, recent_content = content_view(operator, text_nT, decay)
            recent = [*recent, *recent_content]
        final = model.mix([*views, *content], recent, operator.feature, operator.is_user)
        gamma = [model.mix.gamma(views[0], operator.feature, operator.is_user)]
    else:
        made = model(graph, e_nD, z_nD)
        final, gamma = made.final, made.gamma
    order = operator.by_node
    nodes = operator.own_nodes[order.cpu().numpy()]
    weights = torch.cat([final[:, :0], *gamma], 1)
    return FinalEmbeddings(
        nodes, final.index_select(0, order), weights.index_select(0, order).T.contiguous()
    )


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
    newest = [view[~is_user] for view in views]
    if settings.has_content_view and text_nT is not None:
        x_iT = functional.normalize(graph.select(text_nT)[~is_user].float(), dim=1)
        views.append(torch.cat([histories.item_means(x_iT, 1.0, places), x_iT]))
        newest.append(x_iT)
    recent: list[Tensor] = []
    if settings.recent_decay:
        x_iC = torch.cat([functional.normalize(x, dim=1) for x in newest], 1)
        means = histories.item_means(x_iC, settings.recent_decay, places)
        of_nodes = torch.cat([means, torch.zeros_like(x_iC)])
        recent = list(torch.split(of_nodes, [x.shape[1] for x in newest], dim=1))
    final = model.mix(views, recent, graph.select(operator.feature), is_user)
    return FinalEmbeddings(nodes, final, final.new_zeros(0, len(nodes)))
