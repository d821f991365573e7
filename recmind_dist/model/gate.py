"""The gate: node by node and layer by layer, how much the graph counts against language."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.model.settings import GateSettings


class Gate(nn.Module):
    """γ_v = σ(w·[E_v ‖ z_v ‖ d̃_v] + b), the weight of the graph. Source: arXiv:2509.06286, gated
    fusion.

    Args:
        embedding_dim: D.
    """

    def __init__(self, embedding_dim: int, settings: GateSettings) -> None:
        super().__init__()
        self.degree_input = settings.degree_input
        width = 2 * embedding_dim + int(settings.degree_input)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, settings.initial_bias)

    def forward(
        self, e_ND: Tensor, z_ND: Tensor, degree_feature_N: Tensor, trainable: bool = True
    ) -> Tensor:
        """γ, [N, 1]. With learn=False the gate's own parameters take no gradient; its inputs still
        do.
        """
        inputs = [e_ND, z_ND]
        if self.degree_input:
            inputs.append(degree_feature_N[:, None])
        x = torch.cat(inputs, dim=1)
        rested = self.out.weight.detach(), self.out.bias.detach()
        return torch.sigmoid(self.out(x) if trainable else functional.linear(x, *rested))
