"""One worker of an extraction: encodes shards and writes them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from recmind_dist import faults
from recmind_dist.errors import TextError
from recmind_dist.text.plan import ShardJob
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.store import TextStore
from recmind_dist.types import BoolArray, FloatArray


class EmbedActor:
    """One worker: loads the model on first use, and is the only writer of each shard it gets.

    Of several shards at once, the language model has one and the others are written.
    """

    def __init__(
        self, settings: TextSettings, path: Path, adapter: Path | None, threads: int, device: str
    ) -> None:
        self.settings = settings
        self.path = path
        self.adapter = adapter
        self.threads = threads
        self.device = device
        self.encoder: Any = None
        self.batch_tokens = 0
        self.encoding = threading.Lock()

    def node(self) -> str:
        """Id of the node that it runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def embed(self, job: ShardJob) -> None:
        """Encodes and writes one shard."""
        with self.encoding:
            if self.encoder is None:
                self._load()  # not in __init__: only the error of a task reaches the user
            # the encoder may have halved it already, for good
            batch_tokens = max(1, self.batch_tokens >> job.attempt)
            self.encoder.batch_tokens = min(self.encoder.batch_tokens, batch_tokens)
            vectors = encode_distinct(self.encoder, job)
        write_vectors(vectors, TextStore.open(self.path), job)

    def _load(self) -> None:
        import torch

        from recmind_dist.text.encoder import TextEncoder

        torch.set_num_threads(self.threads)
        self.encoder = TextEncoder.load(self.settings, self.device, self.adapter)
        self.batch_tokens = self.encoder.batch_tokens


def embed_shard(encoder: Any, store: TextStore, job: ShardJob) -> None:
    """Encodes each distinct text of a shard once and writes it. Raises as `write_vectors`."""
    write_vectors(encode_distinct(encoder, job), store, job)


def encode_distinct(encoder: Any, job: ShardJob) -> FloatArray:
    """Vectors of a shard's distinct texts, in order of their first row. Shape: [distinct, T]."""
    vectors: FloatArray = encoder.encode(list(_distinct(job)), job.max_tokens)
    return vectors


def write_vectors(vectors: FloatArray, store: TextStore, job: ShardJob) -> None:
    """Writes a shard from what `encode_distinct` returns.

    Raises:
        TextError: the vectors are not finite in float16, or not of the store's width.
    """
    index_of = _distinct(job)
    if vectors.shape != (len(index_of), store.dim):
        raise TextError(
            f"text.model: gives vectors of shape {vectors.shape}, the store holds width {store.dim}"
        )
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    is_finite: BoolArray = np.asarray(np.isfinite(half).all(axis=1))
    row = np.flatnonzero([text is not None for text in job.texts])
    index = np.array([index_of[text] for text in job.texts if text is not None], dtype=np.int64)
    if not is_finite.all():
        bad = row[np.argmin(is_finite[index])]
        first_row, _ = store.shard_range(job.side, job.shard)
        raise TextError(
            f"text.model: the vector of row {first_row + bad} of {job.side} is not finite "
            f"(text {str(job.texts[bad])[:40]!r}): the shard is rejected: check the model's "
            "weights and text.dtype"
        )
    rows = np.full((len(job.texts), store.dim), np.nan, dtype=np.float16)
    rows[row] = half[index]
    faults.check("embedded", 0, job.shard)
    store.write_shard(job.side, job.shard, rows, job.content_key)


def _distinct(job: ShardJob) -> dict[str, int]:
    """Each distinct text of a shard, in order of its first row, and its place in that order."""
    texts = dict.fromkeys(text for text in job.texts if text is not None)
    return {text: index for index, text in enumerate(texts)}
