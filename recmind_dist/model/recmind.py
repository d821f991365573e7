"""RecMind: views of graph and text, whose scores are mixed node by node by gates.

    s(u, i) = s_u s_i Σ_k γ^k_u γ^k_i ⟨v^k_u, v^k_i⟩ + b_i,       Σ_k γ^k = 1

over the views k: graph, text and content (`model.views`). It is one inner product, so ranking and
serving need nothing but vectors. How far a view can be trusted for nodes of few edges cannot be
learnt from edges that have trained the view. So γ, s and b, small networks over the degree, learn
from held-out edges (docs/decisions/0006).

Legend: S nodes, K views of C_k columns each.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable
from recmind_dist.model.settings import GateSettings, RecMindSettings
from recmind_dist.model.text_view import TextView

_START_WEIGHT = 5.0  # of each view's cosine at the start
_HIDDEN_DIM = 16  # of the gates' networks: two or three numbers go in
_BLOCK_ROWS = 65_536  # what a mix is made of takes thrice its memory


class RecMind(nn.Module):
    """The graph view is LightGCN over the table, the text view LightGCN over projected texts.

    Args:
        text_dim: T, width of the text vectors.
    """

    def __init__(self, settings: RecMindSettings, text_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding_dim, self.num_layers = settings.embedding_dim, settings.num_layers
        self.text_view: TextView | None = None
        if settings.has_text_view:
            hidden_dim, missing = settings.projection_hidden_dim, settings.missing_text
            self.text_view = TextView(text_dim, self.embedding_dim, hidden_dim, missing)
        num_views, recent = 2 + settings.has_content_view, settings.recent_decay > 0
        self.mix = Mix(settings.gate, num_views, recent)

    def views(
        self, graph: PropagationGraph, e_ND: Tensor, z_ND: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Graph view and text view of the wanted nodes, the graph view twice where there is no
        text. Shapes: [S, D] each.
        """
        graph_view = graph.mean_of_states(e_ND, self.num_layers)
        if z_ND is None:
            assert self.text_view is None, "this model reads texts"
            return graph_view, graph_view
        items_only = not self.settings.users_have_text
        return graph_view, graph.mean_of_states(z_ND, self.settings.text_layers, items_only)

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
        content: Sequence[Tensor] = (),
        recent: Sequence[Tensor] = (),
    ) -> NodeEmbeddings:
        """Embeddings of the wanted nodes.

        Args:
            e_ND: rows of the table.
            z_ND: text views of the nodes.
            content: the content view [S, T], where the settings have one.
            recent: newest items' means of each view, where the settings have them.
        """
        graph_view, text = self.views(graph, e_ND, z_ND)
        if trainable == "gates":
            graph_view, text = graph_view.detach(), text.detach()
        feature, is_user = graph.select(graph.degree_feature), graph.select(graph.is_user)
        views = [graph_view, text, *content]
        final = self.mix(views, recent, feature, is_user, trainable != "embeddings")
        return NodeEmbeddings(final, graph_view, text)


class Mix(nn.Module):
    """γ, scale s and bias b of a node from its degree and the length of its graph view.

    Args:
        settings: `degree_input: false` leaves constants for each side.
        num_views: K. The first is the graph's.
        recent: whether means of their newest items are mixed into users' views.
    """

    def __init__(self, settings: GateSettings, num_views: int = 2, recent: bool = False) -> None:
        super().__init__()
        self.degree_input, self.num_views, self.recent = settings.degree_input, num_views, recent
        self.users = _network(num_views + 1 + recent * num_views)
        self.items = _network(num_views + 2)

    def forward(
        self,
        views: Sequence[Tensor],
        recent: Sequence[Tensor],
        degree_feature_S: Tensor,
        is_user_S: Tensor,
        trainable: bool = True,
    ) -> Tensor:
        """[s γ^1 v^1 ‖ … ‖ s γ^K v^K ‖ 1] of users, with b in place of 1 of items.

        v^k is the node's own view at unit length. With `recent`, a user's v^k is (1 − ρ^k) times
        that plus ρ^k times the mean of their newest items' views, at unit length too.

        Args:
            views: K of [S, C_k].
            recent: as many, zero rows for items, or none.
        Returns: [S, ΣC_k + 1].
        """
        if not torch.is_grad_enabled() and len(degree_feature_S) > _BLOCK_ROWS:
            return self._by_blocks(views, recent, degree_feature_S, is_user_S)
        user, item = self._both(views[0], degree_feature_S, trainable)
        gamma, scale, bias = self._weights(user, item, is_user_S)
        units = [functional.normalize(view, dim=1) for view in views]
        if self.recent:
            rho = torch.sigmoid(user[:, self.num_views + 1 :]) * is_user_S[:, None]
            units = [
                unit + rho[:, k : k + 1] * (functional.normalize(newest, dim=1) - unit)
                for k, (unit, newest) in enumerate(zip(units, recent, strict=True))
            ]
        weighted = [scale * gamma[:, k : k + 1] * unit for k, unit in enumerate(units)]
        return torch.cat([*weighted, bias], dim=1)

    def _by_blocks(
        self,
        views: Sequence[Tensor],
        recent: Sequence[Tensor],
        degree_feature_S: Tensor,
        is_user_S: Tensor,
    ) -> Tensor:
        width = sum(view.shape[1] for view in views) + 1
        out = views[0].new_empty(len(degree_feature_S), width)
        for start in range(0, len(out), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            parts = ([x[block] for x in of_views] for of_views in (views, recent))
            out[block] = self(*parts, degree_feature_S[block], is_user_S[block])
        return out

    def gamma(self, graph_SD: Tensor, degree_feature_S: Tensor, is_user_S: Tensor) -> Tensor:
        """The weight of the graph among the views, in [0, 1]. Shape: [S, 1]."""
        user, item = self._both(graph_SD, degree_feature_S, True)
        return self._weights(user, item, is_user_S)[0][:, :1]

    def _both(
        self, graph_SD: Tensor, degree_feature_S: Tensor, trainable: bool
    ) -> tuple[Tensor, Tensor]:
        """Outputs for every node of the users' network and of the items'; `_weights` picks one."""
        d, length = degree_feature_S, graph_SD.detach().norm(dim=1).clamp(min=1e-6).log()
        x = torch.stack([d, d.square(), length], dim=1)
        x = x if self.degree_input else torch.zeros_like(x)
        return _run(self.users, x, trainable), _run(self.items, x, trainable)

    def _weights(
        self, user: Tensor, item: Tensor, is_user_S: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """γ [S, K], s and b [S, 1]; b of users is 1."""
        k, is_user = self.num_views, is_user_S[:, None]
        out = torch.where(is_user, user[:, : k + 1], item[:, : k + 1])
        # at the start γ is 1 / K on both sides: K² makes up for it, so that each cosine counts 5
        start = torch.where(is_user, 0.0, math.log(_START_WEIGHT * k * k))
        bias = torch.where(is_user, torch.ones_like(item[:, :1]), item[:, k + 1 :])
        return torch.softmax(out[:, :k], 1), torch.exp(start + out[:, k : k + 1]), bias


def _network(outputs: int) -> nn.Sequential:
    """Three inputs, `outputs` outputs, which are zero at the start: all views count alike."""
    last = nn.Linear(_HIDDEN_DIM, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(3, _HIDDEN_DIM), nn.Tanh(), last)


def _run(layers: nn.Sequential, x: Tensor, trainable: bool) -> Tensor:
    """The layers' output. With trainable=False their parameters take no gradient."""
    if trainable:
        trained: Tensor = layers(x)
        return trained
    parameters = {name: p.detach() for name, p in layers.named_parameters()}
    output: Tensor = torch.func.functional_call(layers, parameters, (x,))
    return output
