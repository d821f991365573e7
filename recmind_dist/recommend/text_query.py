"""Texts as queries: vectors that items are ranked by, from the bundle's language model.

Legend: n texts, C columns of final vectors, D embedding dims.
"""

from collections.abc import Sequence

import numpy as np

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.bundle_text import BundleText, rendered
from recmind_dist.recommend.fold_in import FoldIn
from recmind_dist.recommend.gates import unit_rows
from recmind_dist.recommend.projection import project
from recmind_dist.types import FloatArray

_BIAS = 0.5  # of what items score for everybody: all of it lets popular ones cover the rest
_MAX_CHARS = 2000  # of a query; the tokenizer's own clip is tighter


class TextQuery:
    """Vectors of free texts, which stand for users: `query(["a lamp for the garden"])`.

    A text is a user without interactions: their text view is the text's, and so is the content
    view. There is no graph view; the gates read the length of the median user's in its place,
    since they learnt from nobody without one.

    Raises:
        DataError: the model has no view of texts, or the bundle has no language model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._text = BundleText(bundle)
        self._views = [view.name for view in bundle.views]
        if bundle.manifest["fold_in"] is None or not {"text", "content"} & set(self._views):
            raise DataError(
                f"{bundle.path}: a model of kind {bundle.manifest['model']} without a view of "
                "texts: give a history, or train model.kind: recmind with item texts"
            )
        self._bundle, self._fold_in = bundle, FoldIn(bundle)
        self._settings = bundle.manifest["fold_in"]

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Final vectors. Shape: [n, C].

        Raises:
            DataError: a text is empty.
            TextError: the language model cannot be loaded.
        """
        cleaned = rendered("{text}", [{"text": text} for text in texts], _MAX_CHARS)
        if not all(cleaned):
            raise DataError("the text is empty: say in words what to look for")
        item_nT = self._text.whitened(cleaned, "items")
        text = self._text_view(cleaned, item_nT)
        if self._bundle.manifest["model"] == "alpharec":
            return text / np.float32(int(self._settings["text_layers"]) + 1)
        graph = np.zeros((len(texts), int(self._settings["embedding_dim"])), np.float32)
        views = [graph, text if "text" in self._views else graph]
        views += [unit_rows(item_nT)] if "content" in self._views else []
        length = np.full(len(texts), self._settings["graph_length"], np.float32)
        feature = self._fold_in.degree_feature(np.zeros(len(texts), np.int64))
        vectors = self._fold_in.gates.mix("users", views, feature, views, length)
        vectors[:, -1] = _BIAS
        return vectors

    def _text_view(self, texts: Sequence[str], item_nT: FloatArray) -> FloatArray:
        """Shape: [n, D]. Where users have texts of their own, the query is put into such a text."""
        if not self._settings["users_have_text"]:
            return project(self._bundle.projection, item_nT)
        template = self._text.settings["user_template"]
        written = rendered(template, [{"items": text} for text in texts], 2 * _MAX_CHARS)
        return project(self._bundle.projection, self._text.whitened(written, "users"))
