"""The text view z: a projection of a node's text vector, or what stands for a missing text."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recmind_dist.model.settings import MissingText

_FALLBACK_DIM = 64  # hidden layer of the network that stands in for a missing text
MANY_ROWS = 65_536
"""Rows above which a projection goes block by block."""
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class TextRows:
    """What an owner knows of the texts of some of its nodes.

    Attributes:
        text: [n, T] whitened vectors, zero where absent.
        absent: [n] bool.
        degree_feature: [n] d̃.
        neighbour_text: [n, T] mean text vector of the node's training neighbours, or of their
            neighbours where these have none; of any precision, since few of its rows are read.
    """

    text: Tensor
    absent: Tensor
    degree_feature: Tensor
    neighbour_text: Tensor

    def select(self, rows: Tensor) -> "TextRows":
        """Those of some rows."""
        fields = (self.text, self.absent, self.degree_feature, self.neighbour_text)
        return TextRows(*(x.index_select(0, rows) for x in fields))


class TextView(nn.Module):
    """z_v = W_proj e_v, or a small MLP over (d̃_v, mean neighbour text) where v has no text.

    Args:
        text_dim: T.
        embedding_dim: D.
        hidden_dim: of the projection, 0 for a linear one.
        missing: what stands in for a missing text, see `TextModelSettings.missing_text`.
    Source: arXiv:2509.06286 (projection); the fallback is this project's own.
    """

    def __init__(
        self,
        text_dim: int,
        embedding_dim: int,
        hidden_dim: int = 0,
        missing: MissingText = "network",
    ) -> None:
        super().__init__()
        self.missing = missing
        self.projection: nn.Module = nn.Linear(text_dim, embedding_dim, bias=False)
        if hidden_dim:
            layers = nn.Linear(text_dim, hidden_dim), nn.LeakyReLU()
            self.projection = nn.Sequential(*layers, nn.Linear(hidden_dim, embedding_dim))
        self.fallback = nn.Sequential(
            nn.Linear(1 + text_dim, _FALLBACK_DIM),
            nn.ReLU(),
            nn.Linear(_FALLBACK_DIM, embedding_dim),
        )

    def forward(self, rows: TextRows) -> Tensor:
        """z of each row. Shape: [n, D].

        Both branches run whatever the rows, so that every rank's graph is the same.
        """
        text = rows.text
        if self.missing == "neighbours":
            text = torch.where(rows.absent[:, None], rows.neighbour_text.to(text.dtype), text)
        z_text = self._project_many(text)
        if self.missing in ("neighbours", "zeros"):
            return z_text
        if rows.absent.device.type != "cpu":  # where the host would wait for the number of them
            degree, means = rows.degree_feature[:, None], rows.neighbour_text.to(text.dtype)
            stand_in = self.fallback(torch.cat([degree, means], dim=1))
            return torch.where(rows.absent[:, None], stand_in, z_text)
        absent = rows.absent.nonzero().squeeze(1)
        neighbours = rows.neighbour_text.index_select(0, absent).to(rows.text.dtype)
        degree = rows.degree_feature.index_select(0, absent)[:, None]
        z_fallback: Tensor = self.fallback(torch.cat([degree, neighbours], dim=1))
        return z_text.index_copy(0, absent, z_fallback)

    def _project_many(self, text: Tensor) -> Tensor:
        """The projection, of many rows on a CPU block by block: their hidden layer fits the cache,
        and is made anew in the backward pass. Shape: [n, D].

        Not where ZeRO 3 has dealt out the parameters: it takes them away again after the forward
        pass, and what is made anew in the backward pass would miss them.
        """
        dealt = any(hasattr(p, "ds_id") for p in self.projection.parameters())
        if len(text) <= MANY_ROWS or text.device.type != "cpu" or dealt:
            z: Tensor = self.projection(text)
            return z
        blocks = torch.split(text, _BLOCK_ROWS)
        if not torch.is_grad_enabled():
            return torch.cat([self.projection(block) for block in blocks])
        again = partial(checkpoint, self.projection, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(block) for block in blocks])

    def project(self, text_nT: Tensor) -> Tensor:
        """z of text vectors fresh from the language model. Shape: [n, D]."""
        z: Tensor = self.projection(text_nT)
        return z
