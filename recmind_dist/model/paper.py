"""The paper's model: gates inside the layers, graph and text vectors in one space.

Source: arXiv:2509.06286. It is here to be compared with: on every data set that was tried, gates
inside the layers rank lower than no gates (docs/model.md).
"""

import torch
from torch import Tensor, nn

from recmind_dist.model.layer_gate import LayerGate
from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable, mean
from recmind_dist.model.settings import PaperSettings
from recmind_dist.model.text_view import TextView

ALPHA = 0.5
"""α of the readout α z^G + (1 − α) z. 1 and 0 are the readouts `graph` and `text`."""


class PaperRecMind(nn.Module):
    """Per layer l and node v:

        γ_v^l     = σ(w_l · [E_v^l ‖ z_v ‖ d̃_v] + b_l)
        Ê_v^l     = γ_v^l E_v^l + (1 − γ_v^l) z_v
        E_v^{l+1} = Σ_{u ∈ N(v)} Ê_u^l / √(deg_u deg_v)

    Without gates (`gate.sides: none`) Ê is E, and text enters by the readout alone.

    Args:
        text_dim: T, width of the text vectors.
    """

    def __init__(self, settings: PaperSettings, text_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding_dim, self.num_layers = settings.embedding_dim, settings.num_layers
        hidden_dim, missing = settings.projection_hidden_dim, settings.missing_text
        self.text_view = TextView(text_dim, self.embedding_dim, hidden_dim, missing)
        gate = settings.gate
        self.gates = nn.ModuleList(
            LayerGate(self.embedding_dim, gate.degree_input)
            for _ in range(self.num_layers + 1 if settings.has_gates else 0)
        )

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
    ) -> NodeEmbeddings:
        """Embeddings of the wanted nodes.

        Args:
            e_ND: rows of the table.
            z_ND: text views of the nodes; without gates those of items are enough where users
                have none.
        """
        assert z_ND is not None, "the paper's model reads texts"
        items_only = not self.settings.users_have_text
        if trainable == "gates":
            e_ND, z_ND = e_ND.detach(), z_ND.detach()
        text = graph.mean_of_states(z_ND, self.settings.text_layers, items_only)
        if not len(self.gates):
            graph_view = graph.mean_of_states(e_ND, self.num_layers)
            return NodeEmbeddings(self._read_out(graph_view, graph_view, text), graph_view, text)
        if items_only:
            z_ND = z_ND.masked_fill(graph.is_user[:, None], 0.0)
        states, fused, gamma = [e_ND], [], []
        for layer, gate in enumerate(self.gates):
            assert isinstance(gate, LayerGate)
            x, n = states[-1], len(states[-1])
            gamma.append(self._gamma(gate, x, z_ND[:n], graph, trainable))
            fused.append(gamma[-1] * x + (1 - gamma[-1]) * z_ND[:n])
            if layer < self.num_layers:
                states.append(graph.hops[layer](fused[-1]))
        layers = [graph.select(x) for x in states]
        graph_view, fused_mean = mean(layers), mean([graph.select(x) for x in fused])
        final = self._read_out(graph_view, fused_mean, text)
        return NodeEmbeddings(final, graph_view, text, gamma, layers)

    def _gamma(
        self, gate: nn.Module, x: Tensor, z: Tensor, graph: PropagationGraph, trainable: Trainable
    ) -> Tensor:
        n = len(x)
        gamma: Tensor = gate(x, z, graph.degree_feature[:n], trainable != "embeddings")
        if self.settings.gate.sides == "items":
            gamma = torch.where(graph.is_user[:n, None], torch.ones_like(gamma), gamma)
        return gamma

    def _read_out(self, graph: Tensor, fused: Tensor, text: Tensor) -> Tensor:
        """Final vectors from the mean state z^G, the mean fused state and the text view."""
        match self.settings.readout:
            case "fused":
                return fused
            case "graph":
                return graph
            case "text":
                return text
            case "concat":
                return torch.cat([graph, text], 1)
            case "alpha":
                return ALPHA * graph + (1 - ALPHA) * text
