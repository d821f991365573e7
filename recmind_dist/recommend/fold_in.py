"""Folding in: vectors of users from histories, out of a bundle's item states, in numpy.

What inference/fold_in.py computes (docs/model.md has the formulas), which a test holds it to.

states.safetensors has, in the order of items: `degree` [I]; `base` [I, D] the sum of the item's
graph states 0..L−1; `text` [I, D] the same of its text views; `newest.k` [I, C_k] views that newest
items' means are made of; `content` [I, T] texts at unit length; `texts` [I, T] and `has_text`
[I, 1] where users have text views of their own; `base_map` [D, D], which says how a user's row
follows from their items, and `item_map` [D, D] how an item's moves with its users (`new_items`).

Legend: u users, h entries of their histories, D dims, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import DataError, StoreError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.gates import Gates, degree_feature
from recmind_dist.recommend.projection import stand_in
from recmind_dist.types import FloatArray, Int32Array, IntArray

_ENTRIES_AT_ONCE = 1 << 16  # of histories, whose items' rows are in memory


@dataclass(frozen=True)
class Histories:
    """The items of u users.

    Attributes:
        items: positions of the items, each at most once a user, the oldest first. Shape: [h].
        count: items of each user. Shape: [u].
    """

    items: IntArray
    count: IntArray

    @staticmethod
    def of(histories: Sequence[Sequence[int] | Int32Array]) -> "Histories":
        """From one list a user."""
        count = np.array([len(history) for history in histories], np.int64)
        parts = [np.asarray(history, np.int64) for history in histories]
        return Histories(np.concatenate([np.empty(0, np.int64), *parts]), count)

    @cached_property
    def starts(self) -> IntArray:
        """First entry of each user. Shape: [u]."""
        return np.cumsum(self.count) - self.count

    @cached_property
    def user(self) -> IntArray:
        """Whose item an entry is. Shape: [h]."""
        return np.repeat(np.arange(len(self.count)), self.count)

    @cached_property
    def age(self) -> IntArray:
        """How many newer items the user has. Shape: [h]."""
        ages: IntArray = (self.starts + self.count)[self.user] - 1 - np.arange(len(self.items))
        return ages

    def sums(self, x: NDArray[np.floating[Any]], weight: NDArray[np.floating[Any]]) -> FloatArray:
        """Weighted sums of the users' items. Shape: [u, C].

        Args:
            x: [I, C].
            weight: [h].
        """
        out = np.zeros((len(self.count), x.shape[1]), np.float32)
        some = np.flatnonzero(self.count)
        starts = self.starts[some]
        for at in np.split(np.arange(len(some)), _cuts(starts, len(self.items))):
            if not len(at):
                continue
            first, last = starts[at[0]], starts[at[-1]] + self.count[some[at[-1]]]
            rows = x[self.items[first:last]] * weight[first:last, None].astype(np.float32)
            out[some[at]] = np.add.reduceat(rows, starts[at] - first, axis=0)
        return out

    def means(self, x: NDArray[np.floating[Any]], decay: float = 1.0) -> FloatArray:
        """Means of the users' items, each weighing `decay` times the next newer one. Shape: [u, C].

        Args:
            x: [I, C].
        """
        weight = np.power(decay, self.age.astype(np.float64))
        weight /= np.bincount(self.user, weight, len(self.count))[self.user]
        return self.sums(x, weight)


def _width(x: NDArray[Any]) -> int:
    return int(x.shape[1]) if x.ndim > 1 else 0


def _cuts(starts: IntArray, entries: int) -> IntArray:
    """Where to cut users so that a part has about `_ENTRIES_AT_ONCE` entries."""
    return np.unique(np.searchsorted(starts, np.arange(0, entries, _ENTRIES_AT_ONCE))[1:])


class FoldIn:
    """Vectors of users from any histories.

    Raises:
        DataError: the bundle's model folds nobody in.
        StoreError: the states are damaged, or one has another shape than the page above says.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest["fold_in"] is None:
            raise DataError(
                f"{bundle.path}: a model of kind {bundle.manifest['model']} has no states that a "
                "history could be ranked by: rank for the users it knows, or train model.kind: "
                "recmind"
            )
        self._bundle, self._states = bundle, bundle.states
        self._settings: dict[str, Any] = bundle.manifest["fold_in"]
        self._check_shapes()

    def __call__(
        self,
        histories: Histories,
        base: FloatArray | None = None,
        text: FloatArray | None = None,
    ) -> FloatArray:
        """Final vectors. Shape: [u, C].

        Args:
            base, text: [u, D] what known users have of their own (`Users.base`, `Users.text`);
                None: new users.
        """
        kind = self._bundle.manifest["model"]
        if kind == "alpharec":
            return self._text_view(histories, text)
        graph = self._graph_view(histories, base)
        if kind != "recmind":
            return graph
        views = [graph, self._text_view(histories, text) if self._settings["text_view"] else graph]
        decay = float(self._settings["recent_decay"])
        if "content" in self._states:
            views.append(histories.means(self._states["content"]))
        newest = range(len(views)) if decay else ()
        recent = [histories.means(self._states[f"newest.{k}"], decay) for k in newest]
        return self.gates.mix("users", views, self.degree_feature(histories.count), recent)

    def gamma(self, histories: Histories, base: FloatArray | None = None) -> FloatArray:
        """How much each view weighs for a user of RecMind: rows sum to one. Shape: [u, K].

        Args:
            base: as above.
        """
        graph, feature = self._graph_view(histories, base), self.degree_feature(histories.count)
        return self.gates.gamma("users", graph, feature)

    @cached_property
    def gates(self) -> Gates:
        """Those of RecMind."""
        return Gates(
            self._bundle.gates,
            len(self._bundle.views),
            float(self._settings["recent_decay"]) > 0,
            bool(self._settings["degree_input"]),
        )

    def degree_feature(self, degree: IntArray) -> FloatArray:
        """d̃, by the largest degree of training. Shape: as `degree`."""
        return degree_feature(degree, int(self._settings["max_degree"]))

    def hop(self, histories: Histories, x_ID: FloatArray) -> FloatArray:
        """What a hop brings the users. Shape: [u, D]."""
        own, theirs = (
            np.maximum(degree, 1).astype(np.float32) ** -0.5
            for degree in (histories.count, self._states["degree"][histories.items])
        )
        return histories.sums(x_ID, own[histories.user] * theirs)

    def _graph_view(self, histories: Histories, base: FloatArray | None) -> FloatArray:
        layers, states = int(self._settings["num_layers"]), self._states.get("base")
        own = base if base is not None else np.float32(0)
        if states is None:
            return np.zeros((len(histories.count), self._dim), np.float32) + own
        brought = self.hop(histories, states)
        total = own + brought @ self._states["base_map"] + brought
        return np.asarray(total / (layers + 1), np.float32)

    def _text_view(self, histories: Histories, text: FloatArray | None) -> FloatArray:
        layers, states = int(self._settings["text_layers"]), self._states.get("text")
        own: FloatArray | np.float32 = np.float32(0)
        if self._settings["users_have_text"]:
            own = text if text is not None else self._stand_in(histories)
        if states is None:
            return np.zeros((len(histories.count), self._dim), np.float32) + own
        return np.asarray((own + self.hop(histories, states)) / (layers + 1), np.float32)

    def _stand_in(self, histories: Histories) -> FloatArray:
        """The text view of a user without text (model/text_view.py: fallback). Shape: [u, D]."""
        states = self._states
        share = np.maximum(histories.means(states["has_text"]), 1e-9)
        feature, means = self.degree_feature(histories.count), histories.means(states["texts"])
        return stand_in(self._bundle.projection, feature, np.asarray(means / share, np.float32))

    def _check_shapes(self) -> None:
        widths = {"base": self._dim, "text": self._dim, "has_text": 1}
        for k, view in enumerate(self._bundle.views):
            widths[f"newest.{k}"] = view.stop - view.start
            if view.name == "content":
                widths["content"] = view.stop - view.start
        shapes: dict[str, tuple[int, ...]] = {"degree": (self._bundle.num_items,)}
        for name, x in self._states.items():
            if name in ("base_map", "item_map"):
                shapes[name] = (self._dim, self._dim)
            elif name != "degree":
                shapes[name] = (self._bundle.num_items, widths.get(name, _width(x)))
        for name, shape in shapes.items():
            found = self._states[name].shape if name in self._states else "absent"
            if found != shape:
                raise StoreError(
                    f"{self._bundle.path / 'states.safetensors'}: {name} is {found}, not {shape}: "
                    "copy or export the bundle again"
                )

    @property
    def _dim(self) -> int:
        return int(self._settings["embedding_dim"])
