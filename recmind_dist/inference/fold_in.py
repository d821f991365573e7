"""Folding in: final vectors of users from their items as they stand, without training.

Items' states and vectors stay as trained; a user's views, newest items' means and gates are made
anew at the length of the history (docs/model.md). A user's row of the table moves with the items,
as rows of users do over the training graph: E⁰_u ≈ s_u W, where s_u is the sum of what hops bring
and W the least-squares map. Of a new user that is all; a known user keeps what W leaves of theirs.

Legend: u users, n rows of this rank, i items of this rank, D dims, C columns.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.features.text_features import degree_feature
from recmind_dist.graph import EdgeRows
from recmind_dist.inference.item_states import item_states
from recmind_dist.model.mf import MF
from recmind_dist.model.models import Model
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.text_view import TextRows, TextView
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.histories import Histories, HistoryGraph, ItemPlaces
from recmind_dist.types import IntArray

_RIDGE = 1e-6  # of the mean square, so that the map exists where states span less than D dims

_BLOCK_ROWS = 65_536


class FoldIn:
    """Final vectors of this rank's users, or of new ones, from any history. Collective: every rank
    must build one, and call it, with users of its own or none.

    Args:
        rows: edges, of this rank's users at least.
        e_nD, z_nD, text_nT: as for `final_embeddings`.
    Raises:
        ConfigError: the model reads no histories.
    """

    def __init__(
        self,
        operator: FullPropagation,
        rows: EdgeRows,
        model: Model,
        e_nD: Tensor,
        z_nD: Tensor | None,
        text_nT: Tensor | None,
    ) -> None:
        if not reads_histories(model):
            raise ConfigError(
                "model.kind: mf, and a model of model.num_layers: 0, have a vector for each user, "
                "whatever their items: nothing can be folded in: train another model"
            )
        self._operator, self._rows, self._model = operator, rows, model
        self.own_nD, self.z_nD = e_nD, z_nD
        self._places: ItemPlaces | None = None
        if operator.context.world_size > 1:
            self._places = ItemPlaces.of(rows.graph, operator.bounds, operator.context)
        self.items = item_states(operator, rows.graph, model, e_nD, z_nD, text_nT)
        self.map_DD: Tensor | None = None
        if self.items.base_states is not None:
            at = self._users
            histories = Histories.of_graph(self._rows, self._user_nodes)
            s_uD = self._graph(histories).hop(self.items.base_states)
            self.map_DD = least_squares(s_uD, e_nD[at], operator.context)
            self.own_nD = e_nD.index_add(0, at, s_uD @ self.map_DD, alpha=-1)

    @torch.no_grad()
    def __call__(self, histories: Histories, rows: Tensor | None = None) -> Tensor:
        """Final vectors. Shape: [u, C]. Collective: every rank must call.

        Args:
            rows: [u] the users' rows of this rank; None: new users.
        """
        model, items, graph = self._model, self.items, self._graph(histories)
        beside: dict[str, Any] = {}
        if isinstance(model, RecMind):
            decay, content = model.settings.recent_decay, items.content
            means = partial(histories.item_means, places=self._places)
            beside["recent"] = [means(view, decay) for view in items.newest]
            if content is not None:
                beside["content"] = [means(content)]
        e, z = self._base(graph, rows), self._text(graph, histories, rows)
        final: Tensor = model(graph, e, z, **beside).final
        return final

    @torch.no_grad()
    def with_validation_items(self, final_nC: Tensor) -> Tensor:
        """Final vectors of this rank's nodes, ascending; those of users with validation items are
        made anew, with these in the histories. Shape: [n, C]. Collective: every rank must call.

        Args:
            final_nC: without these items, as `FinalEmbeddings.final`.
        """
        nodes, valid = self._user_nodes, self._rows.graph.held_out("valid")
        newer = np.diff(valid.indptr)[nodes] > 0
        histories = Histories.of_graph(self._rows, nodes[newer], with_valid=True)
        folded = self(histories, self._users[torch.from_numpy(newer).to(final_nC.device)])
        at = np.searchsorted(np.sort(nodes), nodes[newer])
        return final_nC.index_copy(0, torch.from_numpy(at).to(folded.device), folded)

    @property
    def _users(self) -> Tensor:
        """This rank's rows that are users'."""
        return self._operator.is_user.nonzero().squeeze(1)

    @property
    def _user_nodes(self) -> IntArray:
        """Whose rows they are."""
        nodes: IntArray = self._operator.own_nodes[self._users.cpu().numpy()]
        return nodes

    def _graph(self, histories: Histories) -> HistoryGraph:
        items = self.items
        feature = degree_feature(torch.from_numpy(histories.degree), items.max_degree)
        device = self.own_nD.device
        return HistoryGraph(
            histories, items.degree, feature.to(device), items.messages, self._places
        )

    def _base(self, graph: HistoryGraph, rows: Tensor | None) -> Tensor:
        """States 0 of the users, then what `mean_of_states` wants of their items. Shape: [u + m,
        D], or [u, D] of a model that acts between hops.
        """
        items, own_uD = self.items, _at(rows, self.own_nD, graph.num_users)
        if items.base_states is None or self.map_DD is None:
            return own_uD
        own_uD = own_uD + graph.hop(items.base_states) @ self.map_DD
        return own_uD if items.messages else graph.with_items(own_uD, items.base_states)

    def _text(
        self, graph: HistoryGraph, histories: Histories, rows: Tensor | None
    ) -> Tensor | None:
        """The same of the text views. A new user's own is that of a user without text."""
        items = self.items
        if self.z_nD is None:
            return None
        z_uD = _at(rows, self.z_nD, graph.num_users)
        if rows is None and items.texts is not None and items.has_text is not None:
            text_view = self._model.text_view
            assert isinstance(text_view, TextView)
            means = partial(histories.item_means, places=self._places)
            means_uT = means(items.texts) / means(items.has_text).clamp(min=1e-9)
            absent = torch.ones(len(means_uT), dtype=torch.bool, device=means_uT.device)
            feature = graph.select(graph.degree_feature)
            z_uD = text_view(TextRows(torch.zeros_like(means_uT), absent, feature, means_uT))
        return z_uD if items.text_states is None else graph.with_items(z_uD, items.text_states)


def reads_histories(model: Model) -> bool:
    """Whether a user's vector depends on their items: the same on every rank."""
    if isinstance(model, RecMind):
        settings = model.settings
        if settings.has_content_view or settings.recent_decay:
            return True
    return model.num_layers > 0 and not isinstance(model, MF)


def _at(rows: Tensor | None, x_nD: Tensor, num_users: int) -> Tensor:
    """Rows of x, or zeros. Shape: [u, D]."""
    if rows is None:
        return x_nD.new_zeros(num_users, x_nD.shape[1])
    return x_nD.index_select(0, rows)


def least_squares(x_uD: Tensor, y_uD: Tensor, context: DistContext) -> Tensor:
    """W [D, D] that brings x W nearest to y over all ranks' rows. Collective: every rank must
    call.
    """
    dim = x_uD.shape[1]
    both = torch.zeros(dim, 2 * dim, dtype=torch.float64, device=x_uD.device)
    for x, y in zip(*(torch.split(t, _BLOCK_ROWS) for t in (x_uD, y_uD)), strict=True):
        both += x.double().T @ torch.cat([x, y], 1).double()
    square, product = context.all_reduce(both).chunk(2, dim=1)
    ridge = _RIDGE * square.diagonal().mean() + 1e-12
    identity = torch.eye(len(square), dtype=square.dtype, device=square.device)
    found: Tensor = torch.linalg.solve(square + ridge * identity, product)
    return found.to(x_uD.dtype)
