"""What one rank owns: its rows of the table, its text vectors and all that the text view needs of
its nodes.

Legend: n rows of this rank, T text dims, D embedding dims.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional

from recmind_dist.errors import StoreError
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.model.settings import ModelSettings
from recmind_dist.model.text_view import TextRows
from recmind_dist.randomness import normals, stream_key, uniforms
from recmind_dist.sampling.edge_masks import EdgeMask
from recmind_dist.text import TextStore, Whitening
from recmind_dist.text.store import HalfArray
from recmind_dist.types import BoolArray, FloatArray, IntArray

_BLOCK_ROWS = 65_536
INIT_SCALE = 0.1
"""Root mean square of an entry of E⁰ at the start."""


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
        hide_share: float = 0.0,
        key: int = 0,
        nodes: Tensor | None = None,
    ) -> TextRows:
        """The rows at `local_rows`; with hide_share some that have text are treated as if they had
        none.

        Args:
            key: stream key of the step; nodes: global ids of the rows, on which the hiding depends.
        """
        r = self.rows
        absent = r.absent[local_rows]
        if hide_share and nodes is not None:
            hidden = uniforms(stream_key(key, "hide-text"), nodes.cpu().numpy()) < hide_share
            absent = absent | torch.from_numpy(hidden).to(absent.device)
        return TextRows(
            r.text[local_rows].float(),
            absent,
            r.degree_feature[local_rows],
            r.neighbour_text[local_rows],
        )


def degree_feature(degree: Tensor, max_degree: int) -> Tensor:
    """d̃ = log(1 + degree) / log(1 + max degree), float32. Shape: as `degree`."""
    whole = float(np.log1p(max(max_degree, 1)))
    if (
        degree.device.type == "cpu"
    ):  # in the sampler's thread too, where a parallel operation takes the cores from training
        return torch.from_numpy(np.log1p(degree.numpy().astype(np.float32)) / np.float32(whole))
    return torch.log1p(degree.to(torch.float32)) / whole


def load_text_features(
    rows: EdgeRows,
    store: TextStore,
    whitening: Whitening,
    nodes: IntArray,
    device: torch.device,
    held_out: EdgeMask,
) -> TextFeatures:
    """Reads this rank's text vectors from the store, once, and derives what the fallback needs.

    Args:
        rows: edges, of these nodes at least; nodes: [n] global ids in row order; held_out: edges
        from which the gates learn:
        they stay out of the means.
    """
    graph = rows.graph
    weight = np.ones(len(rows.indices), np.float32)
    weight[held_out.in_csr(rows)] = 0.0
    text, absent = _own_vectors(graph, store, whitening, nodes)
    features = degree_feature(
        torch.from_numpy(np.asarray(graph.degree)[nodes]), int(graph.degree.max())
    )
    own = TextRows(
        torch.from_numpy(text).to(device),
        torch.from_numpy(absent).to(device),
        features.to(device),
        torch.from_numpy(_neighbour_means(rows, store, whitening, nodes, weight)).to(device),
    )
    return TextFeatures(own)


@dataclass(frozen=True)
class ContentViews:
    """Content views of this rank's rows: an item's text vector at unit length, of a user the mean
    of their items', and the mean in which newer items count more.

    Attributes (u users of this rank, at least one row):
        text: [n, T] text vectors.
        is_user: [n] bool.
        user_of_row: [n] position of a user's row in the means.
        means: [u, T].
        newest: [u, T], None without decay.
    """

    text: Tensor
    is_user: Tensor
    user_of_row: Tensor
    means: Tensor
    newest: Tensor | None

    def select(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The content view of these rows, and what the newest items of users say: zero for items,
        nothing without decay. Shapes: [len(rows), T].
        """
        is_user, at = self.is_user[rows][:, None], self.user_of_row[rows]
        unit = functional.normalize(self.text[rows].float(), dim=1)
        view = torch.where(is_user, self.means[at].float(), unit)
        if self.newest is None:
            return view, []
        return view, [self.newest[at].float() * is_user]


def load_content_views(
    rows: EdgeRows,
    store: TextStore,
    whitening: Whitening,
    nodes: IntArray,
    text: TextRows,
    held_out: EdgeMask,
    decay: float,
) -> ContentViews:
    """Content views without held-out edges, from the store, which is read once or twice.

    Args:
        nodes: [n] global ids in row order.
        text: those of this rank's rows.
        decay: weight of an item against the next newer one; 0: no such means.
    """
    device, is_user = text.text.device, nodes < rows.graph.num_users
    users = nodes[is_user]
    visible = np.ones(len(rows.indices), np.float32)
    visible[held_out.in_csr(rows)] = 0.0
    means = [_neighbour_means(rows, store, whitening, users, visible, unit=True)]
    if decay:
        weight = _recency(rows.indptr, rows.time_rank, rows.rows_of(users), visible, decay)
        means.append(_neighbour_means(rows, store, whitening, users, weight, unit=True))
    if not len(users):
        means = [np.zeros((1, whitening.dim), np.float16) for _ in means]
    on_device = [torch.from_numpy(mean).to(device) for mean in means]
    user_of_row = torch.from_numpy(np.maximum(np.cumsum(is_user) - 1, 0)).to(device)
    newest = on_device[1] if decay else None
    return ContentViews(
        text.text, torch.from_numpy(is_user).to(device), user_of_row, on_device[0], newest
    )


@njit(cache=True, nogil=True)
def _recency(indptr, time_rank, rows, visible, decay):  # type: ignore[no-untyped-def]
    """decay^k, k the steps in time back from a user's newest visible edge."""
    weight = visible.copy()
    for k in range(len(rows)):
        newest = np.int64(-1)
        for e in range(indptr[rows[k]], indptr[rows[k] + 1]):
            if visible[e] > 0:
                newest = max(newest, np.int64(time_rank[e]))
        for e in range(indptr[rows[k]], indptr[rows[k] + 1]):
            weight[e] = visible[e] * decay ** np.float64(newest - time_rank[e])
    return weight


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


def _own_vectors(
    graph: Graph, store: TextStore, whitening: Whitening, nodes: IntArray
) -> tuple[HalfArray, BoolArray]:
    """Whitened vectors of `nodes`, [n, T] float16, and which have no text, [n]."""
    out = np.zeros((len(nodes), whitening.dim), np.float16)
    absent = np.ones(len(nodes), np.bool_)
    for side, start, block in _blocks(graph, store):
        inside = np.flatnonzero((nodes >= start) & (nodes < start + len(block)))
        vectors = block[nodes[inside] - start]
        absent[inside] = np.isnan(vectors[:, 0])
        out[inside] = whitening.apply(side, vectors)
    return out, absent


def _neighbour_means(
    rows: EdgeRows,
    store: TextStore,
    whitening: Whitening,
    nodes: IntArray,
    weight: FloatArray,
    unit: bool = False,
) -> HalfArray:
    """Weighted mean of the whitened vectors of each node's neighbours that have text, zero where
    none has. Shape: [n, T].

    Args:
        weight: of those of `rows.indices`; zero leaves an edge out.
        unit: whether vectors count at unit length.
    """
    total = np.zeros((len(nodes), whitening.dim), np.float32)
    count = np.zeros(len(nodes))
    own = rows.rows_of(nodes)
    for side, start, block in _blocks(rows.graph, store):
        vectors = whitening.apply(side, block)
        if unit:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        present = ~np.isnan(block[:, 0])
        _add_neighbours(
            rows.indptr, rows.indices, own, weight, start, vectors, present, total, count
        )
    return (total / np.where(count > 0, count, 1.0)[:, None]).astype(np.float16)


@njit(cache=True, nogil=True)
def _add_neighbours(indptr, indices, rows, weight, start, vectors, present, total, count):  # type: ignore[no-untyped-def]
    stop = start + len(vectors)
    for k in range(len(rows)):
        first, last = indptr[rows[k]], indptr[rows[k] + 1]
        for e in range(first + np.searchsorted(indices[first:last], start), last):
            u = indices[e]
            if u >= stop:
                break
            if present[u - start] and weight[e] > 0:
                total[k] += weight[e] * vectors[u - start]
                count[k] += weight[e]


def _blocks(graph: Graph, store: TextStore) -> Iterator[tuple[str, int, HalfArray]]:
    """The whole store in blocks: side, global id of the first row, raw vectors."""
    for side, first, rows in (
        ("users", 0, graph.num_users),
        ("items", graph.num_users, graph.num_items),
    ):
        if store.num_rows(side) != rows:
            raise StoreError(
                f"{store.path}: {store.num_rows(side)} {side}, the graph has {rows}: run `recmind "
                "embed`"
            )
        for start in range(0, rows, _BLOCK_ROWS):
            yield side, first + start, store.read(side, start, min(start + _BLOCK_ROWS, rows))
