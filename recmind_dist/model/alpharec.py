"""AlphaRec: propagation that starts from texts alone. Source: arXiv:2407.05441."""

from torch import Tensor, nn

from recmind_dist.model.node_embeddings import NodeEmbeddings, PropagationGraph, Trainable
from recmind_dist.model.settings import AlphaRecSettings
from recmind_dist.model.text_view import TextView


class AlphaRec(nn.Module):
    """z = (Z⁰ + Ã Z⁰ + … + Ã^L Z⁰) / (L + 1), where Z⁰ is the text view of items and zero of users.

    Args:
        text_dim: T, width of the text vectors.
    """

    def __init__(self, settings: AlphaRecSettings, text_dim: int) -> None:
        super().__init__()
        self.embedding_dim, self.num_layers = settings.embedding_dim, settings.num_layers
        hidden_dim, missing = settings.projection_hidden_dim, settings.missing_text
        self.text_view = TextView(text_dim, self.embedding_dim, hidden_dim, missing)

    def forward(
        self,
        graph: PropagationGraph,
        e_ND: Tensor,
        z_ND: Tensor | None = None,
        trainable: Trainable = "all",
    ) -> NodeEmbeddings:
        """Embeddings of the wanted nodes.

        Args:
            e_ND: rows of the table, which are not used and rest.
            z_ND: text views of the nodes.
        """
        assert z_ND is not None, "AlphaRec propagates text views"
        final = graph.mean_of_states(z_ND, self.num_layers, items_only=True)
        return NodeEmbeddings(final, final, final)
