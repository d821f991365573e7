"""The text view z: the owner's projection of a node's text vector, or of what is known of a node without text."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recmind_dist.model.settings import FallbackSettings


@dataclass(frozen=True)
class TextRows:
    """What an owner knows of some of its nodes.

    Shapes:
        text: [n, T] whitened vectors, zero where absent; absent: [n] bool; degree_feature: [n] d̃;
        category: [n] bucket ids; neighbour_text: [n, T] mean text vector of the node's training neighbours.
    """

    text: Tensor
    absent: Tensor
    degree_feature: Tensor
    category: Tensor
    neighbour_text: Tensor

    def select(self, rows: Tensor) -> "TextRows":
        """Those of some rows."""
        fields = (self.text, self.absent, self.degree_feature, self.category, self.neighbour_text)
        return TextRows(*(x.index_select(0, rows) for x in fields))


class TextView(nn.Module):
    """z_v = W_proj e_v, or a small MLP over (d̃_v, category, mean neighbour text) where v has no text.

    Args:
        text_dim: T; embedding_dim: D; hidden_dim: of the projection, 0 for a linear one.
    Source: arXiv:2509.06286 (projection); the fallback is this project's own.
    """

    def __init__(self, text_dim: int, embedding_dim: int, fallback: FallbackSettings, hidden_dim: int = 0) -> None:
        super().__init__()
        self.projection: nn.Module = nn.Linear(text_dim, embedding_dim, bias=False)
        if hidden_dim:
            layers = nn.Linear(text_dim, hidden_dim), nn.LeakyReLU(), nn.Linear(hidden_dim, embedding_dim)
            self.projection = nn.Sequential(*layers)
        self.category_buckets = fallback.category_buckets
        inputs = 1 + text_dim + fallback.category_buckets
        self.fallback = nn.Sequential(
            nn.Linear(inputs, fallback.hidden_dim), nn.ReLU(), nn.Linear(fallback.hidden_dim, embedding_dim)
        )

    def forward(self, rows: TextRows) -> Tensor:
        """z of each row. Shape: [n, D]. Both branches run whatever the rows, so that every rank's graph is the same."""
        inputs = [rows.degree_feature[:, None], rows.neighbour_text]
        if self.category_buckets:
            inputs.append(nn.functional.one_hot(rows.category, self.category_buckets).to(rows.text.dtype))
        z_fallback: Tensor = self.fallback(torch.cat(inputs, dim=1))
        z_text: Tensor = self.projection(rows.text)
        return torch.where(rows.absent[:, None], z_fallback, z_text)

    def project(self, text_nT: Tensor) -> Tensor:
        """z of text vectors fresh from the language model. Shape: [n, D]."""
        z: Tensor = self.projection(text_nT)
        return z
