"""The gate: node by node and layer by layer, how much the graph counts against language."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.model.settings import GateSettings


class Gate(nn.Module):
    """γ_v = σ(w·[E_v ‖ z_v ‖ d̃_v] + b), the weight of the graph. Source: arXiv:2509.06286, gated fusion.

    Args:
        embedding_dim: D. With settings.hidden_dim above 0 a hidden layer stands before w.
    """

    def __init__(self, embedding_dim: int, settings: GateSettings) -> None:
        super().__init__()
        self.degree_input = settings.degree_input
        width = 2 * embedding_dim + int(settings.degree_input)
        self.hidden = nn.Linear(width, settings.hidden_dim) if settings.hidden_dim else None
        self.out = nn.Linear(settings.hidden_dim or width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, settings.initial_bias)

    def forward(self, e_ND: Tensor, z_ND: Tensor, degree_feature_N: Tensor, learn: bool = True) -> Tensor:
        """γ, [N, 1]. With learn=False the gate's own parameters take no gradient; its inputs still do."""
        inputs = [e_ND, z_ND]
        if self.degree_input:
            inputs.append(degree_feature_N[:, None])
        x = torch.cat(inputs, dim=1)
        if self.hidden is not None:
            x = functional.relu(_linear(self.hidden, x, learn))
        return torch.sigmoid(_linear(self.out, x, learn))


def _linear(layer: nn.Linear, x: Tensor, learn: bool) -> Tensor:
    if learn:
        out: Tensor = layer(x)
        return out
    return functional.linear(x, layer.weight.detach(), layer.bias.detach())
