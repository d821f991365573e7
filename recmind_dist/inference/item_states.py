"""What users take from items, whatever their histories: kept once, of each item at its owner.

Legend: n rows of this rank, i items of this rank, I of all, D dims, T text dims, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.graph import Graph
from recmind_dist.model.alpharec import AlphaRec
from recmind_dist.model.models import Model, acts_between_hops
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.recmind import RecMind
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class ItemStates:
    """Of this rank's items, ascending; on one rank alone, of all items in their order.

    Attributes:
        degree: [I] of all items, in the training graph.
        max_degree: of any node in training.
        base_states: [i, D] E⁰ + … + E^{L−1}, or the sum of `messages`; None where users take
            nothing of the table.
        text_states: [i, D] text views and what hops make of them, added up in the same way; None
            without a hop.
        messages: [i, D] what items pass on in each hop, of models that act between hops.
        newest: [i, C_k] the views that newest items' means are made of, at unit length.
        content: [i, T] whitened texts at unit length; None without a content view.
        texts: [i, T] whitened texts, zero where absent; None where users' own are not read.
        has_text: [i, 1] one or zero, beside them.
    """

    degree: IntArray
    max_degree: int
    base_states: Tensor | None = None
    text_states: Tensor | None = None
    messages: Sequence[Tensor] = ()
    newest: Sequence[Tensor] = ()
    content: Tensor | None = None
    texts: Tensor | None = None
    has_text: Tensor | None = None


@torch.no_grad()
def item_states(
    operator: FullPropagation,
    graph: Graph,
    model: Model,
    e_nD: Tensor,
    z_nD: Tensor | None,
    text_nT: Tensor | None,
) -> ItemStates:
    """Those of this rank's items, by exact propagation. Collective: every rank must call.

    Args:
        graph: what the operator is of.
        e_nD, z_nD, text_nT: as for `final_embeddings`.
    """
    base_states = text_states = content = texts = None
    items = _items_by_node(operator)
    messages: list[Tensor] = []
    newest: list[Tensor] = []
    if acts_between_hops(model):
        passed = _messages(model, operator, e_nD, z_nD)
        messages = [message.index_select(0, items) for message in passed]
        base_states = torch.stack(messages).sum(0)
    elif model.num_layers and not isinstance(model, AlphaRec):
        sums = sum_of_states(operator, e_nD, model.num_layers)
        base_states = sums.index_select(0, items)
    if isinstance(model, AlphaRec | RecMind | PaperRecMind) and z_nD is not None:
        num_layers, users_have_text = text_layers(model)
        if num_layers:
            sums = sum_of_states(operator, z_nD, num_layers, not users_have_text)
            text_states = sums.index_select(0, items)
        if users_have_text and text_nT is not None:
            texts = text_nT.index_select(0, items).float()
    if isinstance(model, RecMind):
        if model.settings.has_content_view and text_nT is not None:
            content = functional.normalize(text_nT.index_select(0, items).float(), dim=1)
        if model.settings.recent_decay:
            views = model.views(operator.view(model.num_layers), e_nD, z_nD)
            newest = [functional.normalize(view.index_select(0, items), dim=1) for view in views]
            newest += [] if content is None else [content]
    degree = np.asarray(graph.degree)
    return ItemStates(
        degree=degree[graph.num_users :],
        max_degree=int(degree.max()),
        base_states=base_states,
        text_states=text_states,
        messages=messages,
        newest=newest,
        content=content,
        texts=texts,
        has_text=None if texts is None else texts.any(1, keepdim=True).to(texts.dtype),
    )


def _items_by_node(operator: FullPropagation) -> Tensor:
    """This rank's rows that are items', ascending by node. Shape: [i]."""
    order = operator.by_node
    return order[~operator.is_user[order]]


def sum_of_states(
    operator: FullPropagation, x_nD: Tensor, num_layers: int, items_only: bool = False
) -> Tensor:
    """States 0..L−1 added up. Shape: [n, D]. Collective: every rank must call."""
    graph = operator.view(num_layers)
    return graph.mean_of_states(x_nD, num_layers - 1, items_only) * num_layers


def _messages(
    model: Model, operator: FullPropagation, e_nD: Tensor, z_nD: Tensor | None
) -> list[Tensor]:
    """What nodes pass on in each hop: [n, D] each. Collective: every rank must call."""
    made = model(operator.view(model.num_layers), e_nD, z_nD)
    states = made.layers[: model.num_layers]
    if z_nD is None:
        return list(states)
    return [g * x + (1 - g) * z_nD for g, x in zip(made.gamma, states, strict=False)]


def text_layers(model: AlphaRec | RecMind | PaperRecMind) -> tuple[int, bool]:
    """Hops of the text views, and whether users have some of their own: the same on every rank."""
    if isinstance(model, AlphaRec):
        return model.num_layers, False
    return model.settings.text_layers, model.settings.users_have_text
