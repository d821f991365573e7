"""The mixing readout: graph and text views side by side, each at unit length, weighed node by node.

s(u, i) = s_i (γ_u γ_i cos(z^G_u, z^G_i) + (1 − γ_u)(1 − γ_i) cos(z_u, z_i)) + b_i: an inner product of vectors of 2 D + 1, so
ranking and serving need nothing else. What views are trained to say of items without edges cannot be learnt from edges the
views were trained on; γ, s and b are few numbers a degree and learn it from held-out ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.model.settings import GateSettings

_START_SCALE = 10.0  # 1 / temperature of the cosines at the start


class Mix(nn.Module):
    """γ, scale s and bias b of a node from its degree and the length of its graph view, which grows with degree.

    Args:
        settings: degree_input False leaves three constants a side; fixed: γ of all;
            hidden_dim: width of the hidden layer, 0 means 16.
    """

    def __init__(self, settings: GateSettings) -> None:
        super().__init__()
        self.degree_input, self.fixed = settings.degree_input, settings.fixed
        width = settings.hidden_dim or 16
        self.users = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3))
        self.items = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3))
        for side in (self.users, self.items):
            last = side[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            with torch.no_grad():
                last.bias[0] = settings.initial_bias

    def forward(
        self, graph_SD: Tensor, text_SD: Tensor, degree_feature_S: Tensor, is_user_S: Tensor, learn: bool = True
    ) -> Tensor:
        """[γ ẑ^G ‖ (1 − γ) ẑ ‖ 1] of users, s·[γ ẑ^G ‖ (1 − γ) ẑ ‖ b/s] of items. Shape: [S, 2 D + 1]."""
        gamma, scale, bias = self.weights(graph_SD, degree_feature_S, is_user_S, learn)
        graph, text = functional.normalize(graph_SD, dim=1), functional.normalize(text_SD, dim=1)
        return torch.cat([scale * gamma * graph, scale * (1 - gamma) * text, bias], dim=1)

    def weights(
        self, graph_SD: Tensor, degree_feature_S: Tensor, is_user_S: Tensor, learn: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """γ, s and b, [S, 1] each; s and b of users are 1."""
        d, length = degree_feature_S, graph_SD.detach().norm(dim=1).clamp(min=1e-6).log()
        x = torch.stack([d, d.square(), length], dim=1)
        x = x if self.degree_input else torch.zeros_like(x)
        user, item = (_run(side, x, learn) for side in (self.users, self.items))
        out = torch.where(is_user_S[:, None], user, item)
        one = torch.ones_like(out[:, :1])
        gamma = torch.sigmoid(out[:, :1]) if self.fixed is None else self.fixed * one
        scale = torch.where(is_user_S[:, None], one, _START_SCALE * out[:, 1:2].exp())
        return gamma, scale, torch.where(is_user_S[:, None], one, out[:, 2:])


def _run(layers: nn.Sequential, x: Tensor, learn: bool) -> Tensor:
    if learn:
        out: Tensor = layers(x)
        return out
    rested: Tensor = torch.func.functional_call(layers, {n: p.detach() for n, p in layers.named_parameters()}, (x,))
    return rested
