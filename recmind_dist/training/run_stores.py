"""What a run is trained on: its prepared stores, and what a checkpoint must have been made from."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.seals import DOCTOR

_KEYS = ("texts_key", "store_key")


@dataclass(frozen=True)
class RunStores:
    """A run's prepared stores, as paths and keys that travel to workers.

    Attributes:
        text: the text store, or item vectors that learn alone, which stand in its place.
        whitening: its map; leaves vectors that learn alone as they are.
        texts: file of all texts, which the warm-up's adapters read.
        texts_key: key of texts and language model.
        store_key: `TextStore.content_key` when the vectors were made.
        item_vectors: a text store of items alone, whitened, which are read in place of `text`'s:
            `item_vectors/learn.py`.
        start: what an update starts from, a directory of `WarmStart`.
    """

    graph: Path
    text: Path | None = None
    whitening: Path | None = None
    texts: Path | None = None
    texts_key: str = ""
    store_key: str = ""
    start: Path | None = None
    item_vectors: Path | None = None

    @property
    def vectors_without_texts(self) -> bool:
        """Whether `text` holds no vector that a language model has made."""
        return self.text is not None and not self.texts_key

    def to_json(self) -> dict[str, str | None]:
        """Plain data, for inputs.json and for workers."""
        return {name: str(value) if value else None for name, value in vars(self).items()}

    @staticmethod
    def from_json(values: Any) -> "RunStores":
        """What `to_json` gave. Raises StoreError for anything else."""
        names = [field.name for field in fields(RunStores)]
        given = [values.get(name) for name in names] if isinstance(values, dict) else [None]
        plain = all(v is None or (isinstance(v, str) and "\0" not in v) for v in given)
        if not given[0] or not plain:
            raise StoreError(f"inputs.json: not the inputs of a run: {DOCTOR}")
        found: dict[str, Any] = {
            name: str(value or "") if name in _KEYS else (Path(value) if value else None)
            for name, value in zip(names, given, strict=True)
        }
        return RunStores(**found)


def run_identity(config: RunConfig, graph_key: str, texts_key: str) -> dict[str, Any]:
    """What a checkpoint must have been made from to be continued."""
    texts = texts_key if config.model.reads_text else ""
    return {"settings": config.identity(), "graph": graph_key, "texts": texts}
