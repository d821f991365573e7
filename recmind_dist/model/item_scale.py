"""A learnt scale by log-degree on normalised item vectors, so that text and graph scores compare."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ItemScale(nn.Module):
    """h_i ← exp(a + b d̃_i + c d̃_i²) h_i / ‖h_i‖ for items; users pass unchanged. Starts at scale 1."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Linear(2, 1)
        nn.init.zeros_(self.coefficients.weight)
        nn.init.zeros_(self.coefficients.bias)

    def forward(self, h_SD: Tensor, degree_feature_S: Tensor, is_user_S: Tensor, learn: bool = True) -> Tensor:
        """Scaled vectors, [S, D]."""
        d = torch.stack([degree_feature_S, degree_feature_S**2], dim=1)
        if learn:
            log_scale = self.coefficients(d)
        else:
            log_scale = functional.linear(d, self.coefficients.weight.detach(), self.coefficients.bias.detach())
        return torch.where(is_user_S[:, None], h_SD, functional.normalize(h_SD, dim=1) * log_scale.exp())
