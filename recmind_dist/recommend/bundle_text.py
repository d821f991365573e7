"""The language model of a bundle: texts to whitened vectors, as in training.

Legend: n texts, T dims of whitened vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recmind_dist.errors import DataError, StoreError, TextError
from recmind_dist.extras import needs_extra
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.projection import whiten
from recmind_dist.storage.keys import sha256_file
from recmind_dist.types import FloatArray

if TYPE_CHECKING:
    from recmind_dist.text import TextEncoder

TEXT_MODEL = "text"
"""The language model's directory in a bundle."""
_OF_ENCODER = ("prompt", "pooling", "max_tokens", "user_max_tokens", "dtype")


class BundleText:
    """Reads texts. The language model is loaded when the first text comes.

    Attributes:
        settings: templates, prompt, pooling and token budgets, as in the run's config.
    Raises:
        DataError: the model reads no texts, or the bundle was exported without its language model.
    """

    def __init__(self, bundle: Bundle) -> None:
        settings = bundle.manifest.get("text")
        if settings is None:
            raise DataError(
                f"{bundle.path}: a model of kind {bundle.manifest['model']} that reads no texts: "
                "give a history, or train model.kind: recmind with item texts"
            )
        if f"{TEXT_MODEL}/config.json" not in bundle.manifest["files"]:
            raise DataError(
                f"{bundle.path}: has no language model to read texts with: run `recmind export` "
                "again with --text-model"
            )
        self.settings: dict[str, Any] = settings
        self._bundle = bundle

    def whitened(self, texts: Sequence[str], side: Literal["users", "items"]) -> FloatArray:
        """Vectors in the coordinates that projection and content view read. Shape: [n, T].

        Args:
            side: whose texts they are, which decides map and token budget.
        Raises:
            TextError: the language model cannot be loaded, or gives NaN.
        """
        budget = self.settings["user_max_tokens" if side == "users" else "max_tokens"]
        vectors = self._encoder.encode(list(texts), int(budget))
        if not np.isfinite(vectors).all():
            raise TextError(
                f"{self._bundle.path}: its language model gave NaN: export the bundle again with "
                "text.dtype=fp32"
            )
        return whiten(self._bundle.projection, side, vectors)

    @cached_property
    def _encoder(self) -> "TextEncoder":
        path = self._bundle.path
        for name, entry in self._bundle.manifest["files"].items():
            if name.startswith(f"{TEXT_MODEL}/") and sha256_file(path / name) != entry["sha256"]:
                raise StoreError(f"{path / name}: damaged: copy or export the bundle again")
        settings = {name: self.settings[name] for name in _OF_ENCODER}
        with needs_extra("text"):
            from recmind_dist.text import TextEncoder, TextSettings

            read = TextSettings.model_validate({"model": str(path / TEXT_MODEL), **settings})
            with _quietly():
                return TextEncoder.load(read)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' warning of a pooling layer, which is not read."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def rendered(template: str, rows: Sequence[Mapping[str, Any]], max_chars: int) -> list[str]:
    """A template's texts, cleaned as in training; empty where a row has none of its fields."""
    with needs_extra("text"):
        from recmind_dist.text.prompts import clean
        from recmind_dist.text.template import Template

    parsed = Template.parse(template)
    found = []
    for row in rows:
        fields = {name: clean(row.get(name), max_chars) for name in parsed.fields}
        found.append((parsed.render(fields) or "")[:max_chars])
    return found
