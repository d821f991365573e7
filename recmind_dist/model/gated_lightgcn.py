"""The gated LightGCN: plain torch, no collectives; rows of the table come in, views and scores come
out.

Legend: N sampled nodes, S seeds (a prefix of them), D dims, L layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.kernels.gather_sum import Hop as SampledHop
from recmind_dist.model.gate import Gate
from recmind_dist.model.mix import Mix
from recmind_dist.model.propagation import with_rows
from recmind_dist.model.settings import INIT_SCALE, ModelSettings
from recmind_dist.model.text_view import TextView

Trainable = Literal["all", "embeddings", "gates"]
Hop = Callable[[Tensor], Tensor]
"""States of a hop's source nodes → summed states of its destinations, a prefix of them
(`kernels.Hop`, `FullPropagation`).
"""
MeanOfStates = Callable[[Tensor, int, bool], Tensor]
"""(x, L, whether x is of items alone, users' being zero) → mean of x and of what 1..L hops make of
it (`FullPropagation`).
"""
Perturb = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class NodeEmbeddings:
    """What the model says of the seeds.

    Shapes:
        h: [S, C] final vectors (C is D; 2 D under readout: concat; under mix as `Mix` says); graph:
        [S, D] z^G; text: [S, D] z;
        gamma: per layer [nodes of that layer, 1]; layers: E^0..E^L of the seeds, [S, D] each.
    """

    h: Tensor
    graph: Tensor
    text: Tensor
    gamma: list[Tensor] = field(default_factory=list)
    layers: list[Tensor] = field(default_factory=list)


class GatedLightGCN(nn.Module):
    """RecMind's collaborative side. With gates and text off it is LightGCN (arXiv:2002.02126).

    Per layer l and node v (arXiv:2509.06286): γ = σ(w_l·[E ‖ z ‖ d̃] + b_l), Ê = γ E + (1 − γ) z,
    and E^{l+1}_v = Σ_{u ∈ N(v)} Ê^l_u / √(deg_u deg_v). The constructor follows PyG's LightGCN.

    Args:
        num_nodes: with a number the module owns its table `embedding`, as PyG's; None: rows are
        handed to `forward`
            (the table is sharded).
        embedding_dim: D; num_layers: L; text_dim: T, width of the text vectors, 0 without text;
        settings: the rest.
    """

    def __init__(
        self,
        num_nodes: int | None,
        embedding_dim: int,
        num_layers: int,
        text_dim: int = 0,
        settings: ModelSettings | None = None,
    ) -> None:
        super().__init__()
        settings = settings or ModelSettings(use_text=text_dim > 0)
        self.settings = settings
        self.embedding_dim, self.num_layers = embedding_dim, num_layers
        self.embedding = nn.Embedding(num_nodes, embedding_dim) if num_nodes is not None else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=INIT_SCALE)
        self.uses_text = settings.use_text and text_dim > 0
        self.text_view = (
            TextView(text_dim, embedding_dim, settings.fallback, settings.projection_hidden_dim)
            if self.uses_text
            else None
        )
        gated = self.uses_text and settings.gate.enabled
        self.gates = nn.ModuleList(
            Gate(embedding_dim, settings.gate) for _ in range(num_layers + 1 if gated else 0)
        )
        self.mix = (
            Mix(settings.gate, 2 + settings.content_view, settings.recent_decay > 0)
            if settings.readout == "mix" and self.uses_text
            else None
        )

    def forward(
        self,
        e_ND: Tensor,
        z_ND: Tensor | None,
        is_user_N: Tensor,
        hops: Sequence[SampledHop],
        degree_feature_N: Tensor,
        trainable: Trainable = "all",
    ) -> NodeEmbeddings:
        """Views of the seeds of sampled blocks, whose hops exchange nothing: one rank alone may
        call.

        Args:
            e_ND: base rows E⁰; z_ND: text views; is_user_N: bool; hops: from the seeds outwards, L
            of them; degree_feature_N:
            d̃; learn: as `views`.
        """
        seeds = hops[0].num_dst if hops else None
        return self.views(
            e_ND, z_ND, is_user_N, hops[::-1], degree_feature_N, trainable, seeds=seeds
        )

    def views(
        self,
        e_ND: Tensor,
        z_ND: Tensor | None,
        is_user_N: Tensor,
        hops: Sequence[Hop],
        degree_feature_N: Tensor,
        trainable: Trainable = "all",
        perturb: Perturb | None = None,
        seeds: int | None = None,
    ) -> NodeEmbeddings:
        """Views of what the last hop leaves of the nodes. Where hops exchange rows, every rank must
        call.

        Args:
            e_ND, z_ND, is_user_N, degree_feature_N: as `forward`; hops: in the order of the layers,
            L of them; learn: who
            takes gradient: "embeddings" leaves gates and mix at rest, "gates" all else; perturb:
            what is done to each state that a hop gives (state, layer); seeds: how many nodes the
            last hop leaves, if fewer than all.
        """
        if z_ND is not None and not self.settings.users_have_text:
            z_ND = z_ND.masked_fill(is_user_N[:, None], 0.0)
        if self.settings.base == "text" and z_ND is not None:
            e_ND = z_ND + 0.0 * e_ND  # the table's rows rest, with a gradient of zero
        z_ND = (
            z_ND if z_ND is not None else e_ND.new_zeros(1, 1).expand_as(e_ND)
        )  # without text nothing reads it
        if trainable == "gates":
            e_ND, z_ND = e_ND.detach(), z_ND.detach()
        states, kept, fused, gamma = [e_ND], [], [], []
        alone = (
            not len(self.gates) and perturb is None
        )  # with the next hop: nothing else reads a state
        for layer in range(self.num_layers + 1):
            x, n = states[-1], len(states[-1])
            if seeds is not None and alone and layer < self.num_layers:
                x, head = with_rows(x, slice(seeds))
                kept.append(head)
            fused_x, gamma_x = self.fuse(
                layer, x, z_ND[:n], degree_feature_N[:n], is_user_N[:n], trainable
            )
            fused.append(fused_x)
            gamma.append(gamma_x)
            if layer < self.num_layers:
                state = hops[layer](fused_x)
                states.append(state if perturb is None else perturb(state, layer))
        seeds = len(states[-1])
        kept += [
            x[:seeds] for x in states[len(kept) :]
        ]  # once: the backward of each is as large as the whole state
        graph = _mean(kept)
        z_SD = z_ND[:seeds]
        if self.settings.text_layers and self.uses_text:
            sizes = [len(x) for x in states[self.num_layers - self.settings.text_layers :]]
            z_SD = self._propagate_text(z_ND, hops[-self.settings.text_layers :], sizes)
        d, is_user = degree_feature_N[:seeds], is_user_N[:seeds]
        fused_mean = _mean([x[:seeds] for x in fused]) if len(self.gates) else graph
        h = self.read_out(graph, fused_mean, z_SD, d, is_user, trainable)
        return NodeEmbeddings(h, graph, z_SD, gamma if len(self.gates) else [], kept)

    def smoothed(self, e_ND: Tensor, z: Tensor | None, mean: MeanOfStates) -> tuple[Tensor, Tensor]:
        """Graph and text views, [S, D], where nothing happens to a state between hops: without
        gates, without noise. Where hops exchange rows, every rank must call.

        Args:
            e_ND: base rows; z: text views, of items alone unless users have text; mean: gives the
            wanted rows S of all N.
        """
        assert not len(self.gates), "gates stand between hops"
        items_only = not self.settings.users_have_text
        if z is None:
            graph = mean(e_ND, self.num_layers, False)
            return graph, graph.new_zeros(1, 1).expand_as(graph)  # nothing reads it
        from_text = self.settings.base == "text"
        graph = (
            mean(z, self.num_layers, items_only)
            if from_text
            else mean(e_ND, self.num_layers, False)
        )
        return graph, mean(z, self.settings.text_layers, items_only)

    def _propagate_text(self, z_ND: Tensor, hops: Sequence[Hop], sizes: list[int]) -> Tensor:
        """Mean of the text views' states over the last hops, of which source k has `sizes[k]`
        nodes. Shape: [S, D]. Where hops exchange rows, every rank must call.
        """
        states = [z_ND[: sizes[0]]]
        for hop in hops:
            states.append(hop(states[-1]))
        return _mean([x[: sizes[-1]] for x in states])

    def get_embedding(
        self, z_ND: Tensor | None, is_user_N: Tensor, hop: SampledHop, degree_feature_N: Tensor
    ) -> Tensor:
        """Final vectors of all nodes from the module's own table, over the whole graph (PyG's
        name). Shape: [N, D].
        """
        assert self.embedding is not None, "rows are handed to forward: this module owns no table"
        views: NodeEmbeddings = self(
            self.embedding.weight, z_ND, is_user_N, [hop] * self.num_layers, degree_feature_N
        )
        return views.h

    def fuse(
        self,
        layer: int,
        x: Tensor,
        z: Tensor,
        d: Tensor,
        is_user: Tensor,
        trainable: Trainable = "all",
    ) -> tuple[Tensor, Tensor]:
        """Ê^l and γ^l of nodes from their state, text view and degree feature. Shapes: [n, D], [n,
        1].
        """
        if not len(self.gates):
            return x, x.new_ones(1, 1).expand(len(x), 1)
        gamma = self.gates[layer](x, z, d, trainable != "embeddings")
        if self.settings.gate.sides == "items":
            gamma = torch.where(is_user[:, None], torch.ones_like(gamma), gamma)
        return gamma * x + (1 - gamma) * z, gamma

    def read_out(
        self,
        graph: Tensor,
        fused: Tensor,
        z: Tensor,
        d: Tensor,
        is_user: Tensor,
        trainable: Trainable = "all",
        content: Sequence[Tensor] = (),
        recent: Sequence[Tensor] = (),
    ) -> Tensor:
        """Final vectors h from the mean state z^G, the mean fused state and the text view. Shape:
        [n, D].

        Args:
            content, recent: what `Mix` reads beside graph and text view, by setting.
        """
        kind = self.settings.readout
        if kind == "fused" or not self.uses_text:
            return fused
        if kind == "graph":
            return graph
        if kind == "text":
            return z
        if kind == "concat":
            return torch.cat([graph, z], 1)
        if self.mix is not None:
            mixed: Tensor = self.mix(
                [graph, z, *content], recent, d, is_user, trainable != "embeddings"
            )
            return mixed
        return self.settings.alpha * graph + (1 - self.settings.alpha) * z


def score(h_users: Tensor, h_items: Tensor, norm_exponent: float = 0.0) -> Tensor:
    """s(u, i) = ⟨h_u, h_i⟩ / ‖h_i‖^p for all pairs. Shape: [U, I]."""
    norms = functional.normalize(h_items, dim=1).mul(h_items).sum(1).clamp(min=1e-12)
    return h_users @ (h_items / norms.pow(norm_exponent)[:, None]).T


def _mean(layers: list[Tensor]) -> Tensor:
    total = layers[0]
    for x in layers[1:]:
        total = total + x
    return total / len(layers)
