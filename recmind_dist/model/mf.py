"""Matrix factorisation: a table and nothing else. Source: arXiv:1205.2618."""

from torch import Tensor, nn

from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable


class MF(nn.Module):
    """z = E⁰.

    Args:
        embedding_dim: D.
    """

    num_layers = 0

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
    ) -> NodeEmbeddings:
        """The wanted nodes' rows of the table, as they are."""
        return NodeEmbeddings.of_graph(graph.select(e_ND))
