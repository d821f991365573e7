"""Vectors of texts that an older store has: only texts that it lacks go through the language model.

Ids that came between others move the rows behind them, so shards cannot be copied whole; here rows
are found by their text.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recmind_dist.storage import directory_lock
from recmind_dist.text.columns import Column
from recmind_dist.text.plan import ShardJob, make_store, plan_shards, store_path
from recmind_dist.text.prompts import Texts
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.store import SIDES, HalfArray, TextStore
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class EmbeddedTexts:
    """Texts, and the store that has their vectors, made by one encoder."""

    texts: Texts
    store: TextStore

    def rows_of(self, side: str) -> dict[str, int]:
        """The first row of each distinct text."""
        rows: dict[str, int] = {}
        for row, text in enumerate(_side(self.texts, side)):
            if text is not None:
                rows.setdefault(text, row)
        return rows


def texts_to_embed(texts: Texts, old: EmbeddedTexts) -> Texts:
    """The distinct texts that `old` lacks, by side."""
    lacking = {}
    for side in SIDES:
        known = old.rows_of(side)
        distinct = dict.fromkeys(text for text in _side(texts, side) if text is not None)
        lacking[side] = [text for text in distinct if text not in known]
    return Texts(items=list(lacking["items"]), users=list(lacking["users"]))


def gather_vectors(
    texts: Texts,
    settings: TextSettings,
    cache_dir: Path,
    sources: list[EmbeddedTexts],
    adapter: Path | None = None,
) -> Path:
    """Makes the store of `texts` from other stores of the same encoder, shard by shard, and returns
    its path. Shards of which a text is nowhere are left for `embed_texts`.

    Raises:
        LockedError: another process extracts into the same store.
        StoreError: a source is damaged, or the disk is full.
    """
    path = store_path(texts, settings, cache_dir, adapter)
    rows = {side: [source.rows_of(side) for source in sources] for side in SIDES}
    with directory_lock(path):
        store = make_store(texts, settings, path, adapter)
        jobs, _ = plan_shards(texts, settings, path, adapter)
        for job in jobs:
            vectors = _vectors(job, store.dim, sources, rows[job.side])
            if vectors is not None:
                store.write_shard(job.side, job.shard, vectors, job.content_key)
    return path


def _vectors(
    job: ShardJob, dim: int, sources: list[EmbeddedTexts], rows: list[dict[str, int]]
) -> HalfArray | None:
    """A shard's vectors, NaN without text; None if a text is nowhere. Shape: [rows, T]."""
    texts = job.texts[:]
    out = np.full((len(texts), dim), np.nan, np.float16)
    missing = np.array([text is not None for text in texts])
    for source, row_of in zip(sources, rows, strict=True):
        found: IntArray = np.array(
            [row_of.get(text, -1) if text is not None else -1 for text in texts], np.int64
        )
        here = np.flatnonzero(missing & (found >= 0))
        if len(here):
            out[here] = source.store.gather(job.side, found[here])
            missing[here] = False
    return None if missing.any() else out


def _side(texts: Texts, side: str) -> Column:
    return texts.items if side == "items" else texts.users
