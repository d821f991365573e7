"""Text vectors without a language model: each word has a random vector, a text is their sum."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from recmind_dist.text import EmbedReport, Texts, TextSettings, make_store, store_path

SIDES = ("items", "users")


def embed_texts(
    texts: Texts, settings: TextSettings, cache_dir: Path, adapter: Path | None = None, *_: Any
) -> EmbedReport:
    """As `recmind_dist.text.embed_texts`, in this process and in no time."""
    path = store_path(texts, settings, cache_dir, adapter)
    path.mkdir(parents=True, exist_ok=True)
    store = make_store(texts, settings, path, adapter)
    for side in SIDES:
        rows = [vector(text, store.dim) for text in getattr(texts, side)]
        for shard in range(store.num_shards(side)):
            first, last = store.shard_range(side, shard)
            store.write_shard(side, shard, np.stack(rows[first:last]), f"{side}-{shard}")
    return EmbedReport(path, embedded=texts.count, total=texts.count, skipped_shards=0)


def vector(text: str | None, dim: int) -> np.ndarray:
    if text is None:
        return np.full(dim, np.nan, np.float16)
    words = [np.random.default_rng(zlib.crc32(word.encode())) for word in text.lower().split()]
    total = np.sum([word.normal(size=dim) for word in words], axis=0)
    return (total / np.sqrt(len(words))).astype(np.float16)
