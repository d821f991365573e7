"""Controls of the gates: models that are no options of the package, each trained in place of
RecMind's.

`CONTROLS` names them for `control:` in accuracy_runs.yaml. A control's run directory holds
RecMind's config, so only this file can evaluate it anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from recmind_dist.experiments.runs import train_and_evaluate
from recmind_dist.model import recmind
from recmind_dist.model.node_embeddings import NodeEmbeddings
from recmind_dist.model.recmind import Mix
from recmind_dist.training import alignment


class GraphAlone(Mix):
    """The mixing readout with γ of the graph view at 1: what is left to learn is scale and bias by
    degree.
    """

    def _weights(
        self, user: Tensor, item: Tensor, is_user_S: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gamma, scale, bias = super()._weights(user, item, is_user_S)
        graph_alone = torch.zeros_like(gamma)
        graph_alone[:, 0] = 1.0
        return graph_alone, scale, bias


@contextmanager
def mixed_by(kind: type[Mix]) -> Iterator[None]:
    """Models that are built meanwhile mix their views by `kind`."""
    recmind.Mix = kind  # type: ignore[misc]
    try:
        yield
    finally:
        recmind.Mix = Mix  # type: ignore[misc]


def train_graph_alone(values: dict[str, object]) -> tuple[str, float]:
    """As `train_and_evaluate`, of `GraphAlone`."""
    with mixed_by(GraphAlone):
        return train_and_evaluate(values)


@contextmanager
def still(view: str | None) -> Iterator[None]:
    """Alignment that is trained meanwhile moves the other view alone.

    Args:
        view: "graph" or "text"; None: it moves both, as always.
    """
    views = alignment._views

    def without_gradient(
        embeddings: NodeEmbeddings, users: Tensor, items: Tensor
    ) -> dict[str, Tensor]:
        held = {} if view is None else {view: getattr(embeddings, view).detach()}
        return views(replace(embeddings, **held), users, items)

    alignment._views = without_gradient
    try:
        yield
    finally:
        alignment._views = views


CONTROLS: dict[str | None, Callable[[dict[str, object]], tuple[str, float]]] = {
    None: train_and_evaluate,
    "graph_alone": train_graph_alone,
}
