"""The paper's gate: node by node and layer by layer, how much the graph counts against language."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerGate(nn.Module):
    """γ_v = σ(w · [E_v ‖ z_v ‖ d̃_v] + b), the weight of the graph. w and b start at zero: graph and
    language count alike.

    Args:
        embedding_dim: D.
        degree_input: whether d̃ is seen.
    Source: arXiv:2509.06286, gated fusion.
    """

    def __init__(self, embedding_dim: int, degree_input: bool) -> None:
        super().__init__()
        self.degree_input = degree_input
        self.out = nn.Linear(2 * embedding_dim + int(degree_input), 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, e_ND: Tensor, z_ND: Tensor, degree_feature_N: Tensor, trainable: bool = True
    ) -> Tensor:
        """γ, [N, 1]. With trainable=False the gate's own parameters take no gradient."""
        inputs = [e_ND, z_ND]
        if self.degree_input:
            inputs.append(degree_feature_N[:, None])
        x, weight, bias = torch.cat(inputs, dim=1), self.out.weight, self.out.bias
        if trainable:
            return torch.sigmoid(functional.linear(x, weight, bias))
        return torch.sigmoid(functional.linear(x, weight.detach(), bias.detach()))
