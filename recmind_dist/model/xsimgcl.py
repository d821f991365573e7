"""XSimGCL: LightGCN with noise in its states and contrasted layers. Source: arXiv:2209.02544."""

from collections.abc import Callable

from torch import Tensor, nn

from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable, mean

NOISE_LENGTH = 0.1
"""Of Δ^l, for each node."""
CONTRASTED_LAYER = 1
"""k of E^k, which is pulled together with z."""
Noise = Callable[[Tensor, int], Tensor]
"""(state, layer) → the state with noise added."""


class XSimGCL(nn.Module):
    """E^{l+1} = Ã E^l + Δ^l, z the mean of E¹..E^L and E⁰; z and E^k are pulled together.

    Args:
        embedding_dim: D.
        num_layers: L.
    """

    def __init__(self, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embedding_dim, self.num_layers = embedding_dim, num_layers

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
        noise: Noise | None = None,
    ) -> NodeEmbeddings:
        """Embeddings of the wanted nodes, their layers among them.

        Args:
            noise: adds Δ^l in training; None: none is added.
        """
        states = [e_ND]
        for layer, hop in enumerate(graph.hops):
            state = hop(states[-1])
            states.append(state if noise is None else noise(state, layer))
        layers = [graph.select(state) for state in states]
        return NodeEmbeddings.of_graph(mean(layers), layers)
