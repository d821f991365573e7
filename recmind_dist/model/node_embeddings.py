"""What models take and give: the graph that they propagate over, and its nodes' embeddings.

Legend: N nodes that go in, S nodes that are wanted, D dims.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Trainable = Literal["all", "embeddings", "gates"]
"""Which parameters take gradient: "embeddings" leaves gates at rest, "gates" all else."""


@dataclass(frozen=True)
class NodeEmbeddings:
    """What a model says of the wanted nodes.

    Attributes:
        final: [S, C] whose inner products are scores; C is D, or what `Mix` makes of its views.
        graph: [S, D] the graph view z^G.
        text: [S, D] the text view z; zeros of models without one, the graph view again of RecMind
            without texts. AlphaRec has one view and gives it for graph, text and final alike.
        gamma: γ of each layer [nodes of the layer, 1], empty without gates in the layers.
        layers: E⁰..E^L of the wanted nodes, where the model keeps them.
    """

    final: Tensor
    graph: Tensor
    text: Tensor
    gamma: list[Tensor] = field(default_factory=list)
    layers: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of_graph(graph_SD: Tensor, layers: list[Tensor] | None = None) -> "NodeEmbeddings":
        """Those of a model without text."""
        nothing = graph_SD.new_zeros(1, 1).expand_as(graph_SD)
        return NodeEmbeddings(graph_SD, graph_SD, nothing, layers=layers or [])


class PropagationGraph(Protocol):
    """The graph, or what was sampled of it, as models see it."""

    @property
    def is_user(self) -> Tensor:
        """[N] bool."""
        ...

    @property
    def degree_feature(self) -> Tensor:
        """[N] d̃ = log(1 + degree) / log(1 + max degree)."""
        ...

    @property
    def hops(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Ã by layer, in the order of the layers, for models that do something between hops."""
        ...

    def select(self, x_ND: Tensor) -> Tensor:
        """The wanted nodes' rows of a state. Shape: [S, D]."""
        ...

    def mean_of_states(self, x_ND: Tensor, num_layers: int, items_only: bool = False) -> Tensor:
        """(x + Ã x + … + Ã^L x) / (L + 1) of the wanted nodes. Shape: [S, D].

        Args:
            x_ND: [N, D].
            num_layers: L.
            items_only: whether x is zero on users, which halves the work.
        """
        ...


def mean(layers: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    total = layers[0]
    for x in layers[1:]:
        total = total + x
    return total / len(layers)


def score(users_UC: Tensor, items_IC: Tensor, norm_exponent: float = 0.0) -> Tensor:
    """s(u, i) = ⟨u, i⟩ / ‖i‖^p for all pairs. Shape: [U, I]."""
    norms = torch.linalg.vector_norm(items_IC, dim=1).clamp(min=1e-12)
    scores: Tensor = users_UC @ (items_IC / norms.pow(norm_exponent)[:, None]).T
    return scores
