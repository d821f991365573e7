"""Vectors and states of items that come after training, from text and users, in numpy.

An item takes from its users what a user takes from their items (`fold_in`): a hop needs the users'
sums of states 0..L−1, which users.parquet has. Its row of the table starts from its text as rows
did in training, and moves with its users by the map W that moved the others (training/user_states).
An item without users has the row that training gives an item that nobody has met.

Legend: n items, D dims, T text dims, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.gates import unit_rows
from recmind_dist.recommend.projection import project, stand_in
from recmind_dist.types import BoolArray, FloatArray, Int32Array, IntArray

_INIT_SCALE = 0.1  # as in features/text_features.py


@dataclass(frozen=True)
class NewItems:
    """Rows of n items.

    Attributes:
        vectors: shape [n, C].
        states: by name, rows of the arrays of states.safetensors.
    """

    vectors: FloatArray
    states: dict[str, NDArray[Any]]


class ItemFoldIn:
    """Makes rows of items out of texts and users.

    Raises:
        DataError: the bundle's model folds nobody in.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._users = FoldIn(bundle)
        self._bundle = bundle
        self._settings: dict[str, Any] = bundle.manifest["fold_in"]

    def __call__(
        self,
        users: Sequence[Sequence[int] | Int32Array],
        text_nT: FloatArray | None,
        has_text: BoolArray,
    ) -> NewItems:
        """Rows of the items.

        Args:
            users: rows of each item's users, in any order.
            text_nT: whitened texts, anything where there is none; None: of a model without texts.
            has_text: which have one. Shape: [n].
        """
        edges = _Edges(self._bundle, users)
        if text_nT is not None:
            text_nT = np.where(has_text[:, None], text_nT, np.float32(0))
        graph, base = self._graph(edges, text_nT)
        text, z = self._text(edges, text_nT, has_text)
        content = None if text_nT is None else unit_rows(text_nT)
        vectors = self._vectors(edges, graph, text, content)
        made: dict[str, NDArray[Any] | None] = {
            "degree": edges.degree,
            "base": base,
            "text": z,
            "content": content,
            "texts": text_nT,
            "has_text": has_text[:, None].astype(np.float32),
            "newest.0": unit_rows(graph),
            "newest.1": unit_rows(graph if text is None else text),
            "newest.2": content,
        }
        kept = self._bundle.states
        return NewItems(vectors, {k: x for k, x in made.items() if x is not None and k in kept})

    def _vectors(
        self,
        edges: "_Edges",
        graph: FloatArray,
        text: FloatArray | None,
        content: FloatArray | None,
    ) -> FloatArray:
        kind = self._bundle.manifest["model"]
        if kind == "recmind":
            views = [graph, graph if text is None else text]
            if "content" in {view.name for view in self._bundle.views} and content is not None:
                views.append(content)
            feature = self._users.degree_feature(edges.degree)
            return self._no_higher(self._users.gates.mix("items", views, feature), edges.degree)
        vectors = text if kind == "alpharec" and text is not None else graph
        exponent = float(self._bundle.manifest["norm_exponent"])
        length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.asarray(vectors / length**exponent, np.float32)

    def _no_higher(self, vectors: FloatArray, degree: IntArray) -> FloatArray:
        """With a bias of at most what items of the lowest degree have on average, where the degree
        is lower still: gates have met no such item, and what they say of it is anything.
        """
        known = self._bundle.states["degree"]
        lowest = known.min(initial=np.iinfo(np.int64).max)
        below = degree < lowest
        if below.any():
            most = self._bundle.item_vectors[known == lowest, -1].mean()
            vectors[below, -1] = np.minimum(vectors[below, -1], most)
        return vectors

    def _graph(self, edges: "_Edges", text_nT: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        """Graph views, and sums of the states 0..L−1. Shapes: [n, D]."""
        layers, dim = int(self._settings["num_layers"]), int(self._settings["embedding_dim"])
        own = np.zeros((len(edges.degree), dim), np.float32)
        if text_nT is not None and self._settings["init"] == "text":
            leading = text_nT[:, :dim]
            own[:, : leading.shape[1]] = leading * _INIT_SCALE * np.sqrt(text_nT.shape[1])
        brought = edges.hop("base_state", dim)
        if "item_map" in self._bundle.states:
            own = own + brought @ self._bundle.states["item_map"]
        view = (own + brought) / np.float32(layers + 1)
        return view, own + edges.hop("base_state_before", dim)

    def _text(
        self, edges: "_Edges", text_nT: FloatArray | None, has_text: BoolArray
    ) -> tuple[FloatArray | None, FloatArray | None]:
        """Text views, and sums of their states. Shapes: [n, D]; None without a text view."""
        if text_nT is None or not self._settings.get("text_view"):
            return None, None
        weights, dim = self._bundle.projection, int(self._settings["embedding_dim"])
        # of neighbours' texts, which items without one are given in training, no bundle keeps any
        feature = self._users.degree_feature(edges.degree)
        without = stand_in(weights, feature, np.zeros_like(text_nT))
        z = np.where(has_text[:, None], project(weights, text_nT), without)
        layers = np.float32(int(self._settings["text_layers"]) + 1)
        view = (z + edges.hop("text_state", dim)) / layers
        return view, z + edges.hop("text_state_before", dim)


class _Edges:
    """The users of n items, and what a hop brings from them."""

    def __init__(self, bundle: Bundle, users: Sequence[Sequence[int] | Int32Array]) -> None:
        self._table = bundle.users
        entries = Histories.of(users)
        self.degree = entries.count
        self._rows, at = np.unique(entries.items, return_inverse=True)
        self._entries = Histories(at, entries.count)
        theirs = self._table.degree(self._rows)[at] if len(at) else np.empty(0, np.int64)
        own = entries.count[entries.user]
        product = np.maximum(own, 1) * np.maximum(theirs, 1)
        self._weight = product.astype(np.float32) ** np.float32(-0.5)

    def hop(self, column: str, dim: int) -> FloatArray:
        """Weighted sums of a column of users.parquet; zeros where it has none. Shape: [n, D]."""
        if column not in self._table.columns or not len(self._rows):
            return np.zeros((len(self.degree), dim), np.float32)
        return self._entries.sums(self._table.matrix(self._rows, column), self._weight)
