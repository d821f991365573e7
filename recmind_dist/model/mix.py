"""The mixing readout: a node's views side by side, each at unit length, weighed node by node.

s(u, i) = s_u s_i Σ_k γ^k_u γ^k_i ⟨v^k_u, v^k_i⟩ + b_i over the views k: graph, text and, by
setting, content. It is an inner product, so ranking and serving need nothing else. What views are
trained to say of items without edges cannot be learnt from edges the views were trained on; γ, s
and b are few numbers a degree and learn it from held-out ones.

Legend: S nodes, K views of C_k columns each.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.model.settings import GateSettings

_START_WEIGHT = 5.0  # of each view's cosine at the start
_HIDDEN_DIM = 16  # of each side's network


class Mix(nn.Module):
    """γ, scale s and bias b of a node from its degree and the length of its graph view, which grows
    with degree.

    Args:
        settings: degree_input False leaves constants for each side.
        num_views: K, the graph's first; recent: whether users' views are joined by the means of
        their newest items.
    """

    def __init__(self, settings: GateSettings, num_views: int = 2, recent: bool = False) -> None:
        super().__init__()
        self.degree_input, self.num_views, self.recent = settings.degree_input, num_views, recent
        self.users = _network(num_views + 1 + recent * num_views, settings.initial_bias)
        self.items = _network(num_views + 2, settings.initial_bias)

    def forward(
        self,
        views: Sequence[Tensor],
        recent: Sequence[Tensor],
        degree_feature_S: Tensor,
        is_user_S: Tensor,
        trainable: bool = True,
    ) -> Tensor:
        """[s γ^1 v^1 ‖ … ‖ s γ^K v^K ‖ 1] of users, with b in place of 1 of items. Shape: [S, ΣC_k
        + 1].

        A view v^k is the unit vector of the node's own; of users, where `recent` is given, (1 −
        ρ^k) of it and ρ^k of the unit vector of the mean of their newest items' views.

        Args:
            views: K of [S, C_k]; recent: as many, zero rows for items, or none.
        """
        user, item = self._both(views[0], degree_feature_S, trainable)
        gamma, scale, bias = self._weights(user, item, is_user_S)
        units = [functional.normalize(view, dim=1) for view in views]
        if self.recent:
            rho = torch.sigmoid(user[:, self.num_views + 1 :]) * is_user_S[:, None]
            units = [
                unit + rho[:, k : k + 1] * (functional.normalize(newest, dim=1) - unit)
                for k, (unit, newest) in enumerate(zip(units, recent, strict=True))
            ]
        return torch.cat(
            [scale * gamma[:, k : k + 1] * unit for k, unit in enumerate(units)] + [bias], dim=1
        )

    def gamma(self, graph_SD: Tensor, degree_feature_S: Tensor, is_user_S: Tensor) -> Tensor:
        """The weight of the graph among the views, in [0, 1]. Shape: [S, 1]."""
        user, item = self._both(graph_SD, degree_feature_S, True)
        return self._weights(user, item, is_user_S)[0][:, :1]

    def _both(
        self, graph_SD: Tensor, degree_feature_S: Tensor, trainable: bool
    ) -> tuple[Tensor, Tensor]:
        """What the networks of users and of items say of every node."""
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
        start = torch.where(is_user, 0.0, math.log(_START_WEIGHT * k * k))
        gamma = torch.softmax(out[:, :k], 1)
        bias = torch.where(is_user, torch.ones_like(item[:, :1]), item[:, k + 1 :])
        return gamma, torch.exp(start + out[:, k : k + 1]), bias


def _network(outputs: int, initial_bias: float) -> nn.Sequential:
    """Starts at zero but for the graph's logit."""
    last = nn.Linear(_HIDDEN_DIM, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    with torch.no_grad():
        last.bias[0] = initial_bias
    return nn.Sequential(nn.Linear(3, _HIDDEN_DIM), nn.Tanh(), last)


def _run(layers: nn.Sequential, x: Tensor, trainable: bool) -> Tensor:
    if trainable:
        out: Tensor = layers(x)
        return out
    rested: Tensor = torch.func.functional_call(
        layers, {n: p.detach() for n, p in layers.named_parameters()}, (x,)
    )
    return rested
