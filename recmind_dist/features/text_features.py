"""What one rank owns: its rows of the table, its text vectors and all that the text view needs of
its nodes.

Legend: n rows of this rank, T text dims, D embedding dims.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.features.own_vectors import read_own_vectors
from recmind_dist.graph import EdgeRows
from recmind_dist.kernels import random_words
from recmind_dist.model.settings import ModelSettings
from recmind_dist.model.text_view import TextRows
from recmind_dist.propagation.gathered_matrix import columns_at_once
from recmind_dist.propagation.item_means import NeighbourMeans
from recmind_dist.randomness import normals, stream_key, uniforms
from recmind_dist.text import TextStore, Whitening
from recmind_dist.types import IntArray

INIT_SCALE = 0.1
"""Root mean square of an entry of E⁰ at the start."""


HIDDEN_SHARE = 0.1
"""Share of the nodes with text that are treated in a step as if they had none, so that the network
that stands in for a missing text learns.
"""


@dataclass(frozen=True)
class TextFeatures:
    """Whitened text vectors of this rank's rows, in row order, with the fallback's inputs.

    Shapes: as `TextRows`, all [n, …]; vectors are held in float16, and the texts' own handed out in
    float32.
    """

    rows: TextRows

    def select(
        self,
        local_rows: Tensor | slice,
        key: int = 0,
        nodes: Tensor | None = None,
    ) -> TextRows:
        """The rows at `local_rows`; in training, `HIDDEN_SHARE` of those that have text are treated
        as if they had none.

        Args:
            key: stream key of the step.
            nodes: global ids of the rows, on which the hiding depends; None: nothing is hidden.
        """
        r = self.rows
        absent = r.absent[local_rows]
        if nodes is not None:
            absent = absent | (_uniforms(stream_key(key, "hide-text"), nodes) < HIDDEN_SHARE)
        return TextRows(
            r.text[local_rows].float(),
            absent,
            r.degree_feature[local_rows],
            r.neighbour_text[local_rows],
        )


def _uniforms(key: int, nodes: Tensor) -> Tensor:
    """See `randomness.uniforms`: by numpy on a CPU."""
    if nodes.device.type == "cpu":
        return torch.from_numpy(uniforms(key, nodes.numpy()))
    return random_words.uniforms(key, nodes)


def degree_feature(degree: Tensor, max_degree: int) -> Tensor:
    """d̃ = log(1 + degree) / log(1 + max degree), float32. Shape: as `degree`."""
    whole = float(np.log1p(max(max_degree, 1)))
    # by numpy: this runs in the sampler's thread too, where torch's parallel operation would take
    # cores from training
    if degree.device.type == "cpu":
        return torch.from_numpy(np.log1p(degree.numpy().astype(np.float32)) / np.float32(whole))
    return torch.log1p(degree.to(torch.float32)) / whole


def load_text_features(
    rows: EdgeRows,
    store: TextStore,
    whitening: Whitening,
    nodes: IntArray,
    bounds: IntArray,
    neighbours: NeighbourMeans,
    context: DistContext,
    items: TextStore | None = None,
) -> TextFeatures:
    """Takes this rank's text vectors from the store, which ranks read together once, and derives
    what the fallback needs.

    Collective: every rank must call.

    Args:
        rows: edges, of these nodes at least.
        nodes: [n] global ids in row order.
        bounds: [P + 1] table rows of the ranks.
        neighbours: over the edges that the means may see.
        items: a store of whitened item vectors, read in place of the items in `store`.
    """
    graph, device = rows.graph, context.device
    own = read_own_vectors(graph, store, whitening, nodes, bounds, context, items)
    text, absent = (torch.from_numpy(x).to(device) for x in own)
    degree = torch.from_numpy(np.asarray(graph.degree)[nodes])
    features = degree_feature(degree, int(graph.degree.max())).to(device)
    # double precision, so that half precision hides in which order ranks add up
    present = neighbours.means((~absent).double()[:, None])
    means, text_dim = torch.empty_like(text), text.shape[1]
    text_columns = columns_at_once(graph.num_nodes, context.world_size)
    for first in range(0, text_dim, text_columns):
        block = slice(first, first + text_columns)
        of_all = neighbours.means(text[:, block].double())
        one_hop = torch.where(present > 0, of_all / present, 0.0)
        # items whose users have no texts: what their users' other items say
        means[:, block] = torch.where(present > 0, one_hop, neighbours.means(one_hop)).half()
    return TextFeatures(TextRows(text, absent, features, means))


def initial_rows(
    nodes: IntArray, text: TextRows | None, settings: ModelSettings, seed: int
) -> Tensor:
    """E⁰ of these nodes, normal or from texts: the leading whitened components of a node's text, or
    of its neighbours' mean text at the same length where it has none.

    A row depends on its node alone, so any number of ranks makes the same table. Shape: [n, D].
    """
    dim = settings.embedding_dim
    rows = torch.from_numpy(normals(stream_key(seed, "table"), nodes, dim)) * INIT_SCALE
    if text is not None and settings.init == "text":
        present = ~text.absent.cpu()
        leading = text.text[:, :dim].float().cpu()
        rows[present, : leading.shape[1]] = leading[present] * text_scale(text.text.shape[1])
        means = text.neighbour_text[:, :dim].float().cpu()
        length = means.square().mean(1).sqrt()
        known = ~present & (length > 0)
        rows[known, : means.shape[1]] = means[known] / length[known, None] * INIT_SCALE
    return rows


def text_scale(text_dim: int) -> float:
    """What brings a whitened component (mean square 1/T) to the root mean square of a normal entry
    of E⁰.
    """
    return float(INIT_SCALE * np.sqrt(text_dim))
