"""LightGCN. Source: arXiv:2002.02126."""

import torch
from torch import Tensor, nn

from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable


class LightGCN(nn.Module):
    """E^{l+1} = D^-1/2 A D^-1/2 E^l, and z = (E⁰ + … + E^L) / (L + 1).

    The constructor and `get_embedding` follow PyG's LightGCN. In distributed training the table is
    sharded: the module owns none (`num_nodes=None`), and its rows are handed to `forward`.

    Args:
        num_nodes: rows of a table of its own, or None.
        embedding_dim: D.
        num_layers: L.
    """

    def __init__(self, num_nodes: int | None, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embedding_dim, self.num_layers = embedding_dim, num_layers
        self.embedding = None
        if num_nodes is not None:
            self.embedding = nn.Embedding(num_nodes, embedding_dim)
            nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
    ) -> NodeEmbeddings:
        """Embeddings of the wanted nodes.

        Args:
            graph: what is propagated over.
            e_ND: rows of the table.
            z_ND: not read.
            trainable: not read: there are no gates.
        """
        return NodeEmbeddings.of_graph(graph.mean_of_states(e_ND, self.num_layers))

    @torch.no_grad()
    def get_embedding(self, graph: PropagationGraph) -> Tensor:
        """Final embeddings from the module's own table (PyG's name). Shape: [S, D]."""
        assert self.embedding is not None, "this module owns no table: hand its rows to forward"
        final: Tensor = self(graph, self.embedding.weight).final
        return final
