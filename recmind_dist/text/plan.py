"""What an extraction has to do: the shards of a text store that are absent or damaged.

Each set of texts has its own store, named after the encoder and the texts, so no run changes the
vectors that another run reads. The ledger decides: a shard is done if its content key stands there
and its bytes are sound. A shard that another store of the same encoder has is copied from there.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from recmind_dist.errors import StoreError
from recmind_dist.storage import content_key
from recmind_dist.text.adapter import adapter_hash
from recmind_dist.text.columns import Column, num_texts, part_of
from recmind_dist.text.prompts import Texts
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import encoder_content, encoder_key, hidden_size, resolve_model
from recmind_dist.text.store import META, SIDES, TextStore

KEPT = "lower_states"
"""Folder of a data set's cache for states that lower_states.py keeps."""


@dataclass(frozen=True)
class ShardJob:
    """One task: the texts of one shard.

    Attributes:
        texts: read from their file when they are used; a list where they are in memory, as at an
            actor.
        content_key: of encoder and texts; the ledger keeps it.
        max_tokens: budget of each text.
        attempt: workers that died on the shard; each halves the batch.
        nodes_lost: workers whose node left.
    """

    side: str
    shard: int
    texts: Column = field(repr=False)
    content_key: str
    max_tokens: int
    attempt: int = 0
    nodes_lost: int = 0

    @property
    def num_texts(self) -> int:
        """Rows that have a text."""
        return num_texts(self.texts)


def store_path(
    texts: Texts, settings: TextSettings, cache_dir: Path, adapter: Path | None = None
) -> Path:
    """`<cache_dir>/text/<encoder key>-<key of the texts>`, 12 hex digits each."""
    return cache_dir / "text" / f"{encoder_key(settings, adapter)[:12]}-{texts.key[:12]}"


def make_store(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None = None
) -> TextStore:
    """Creates the store if it is absent and copies shards that other stores of the encoder have.

    Only the holder of the store's lock may call.
    """
    encoder = encoder_content(settings, adapter_hash(adapter) if adapter else None)
    num_rows = {"items": len(texts.items), "users": len(texts.users)}
    if (path / META).is_file():  # spares the import of transformers
        dim = TextStore.open(path).dim
    else:
        dim = hidden_size(resolve_model(settings))
    store = TextStore.create(path, encoder, dim, num_rows)
    store.clean()
    absent, _ = plan_shards(texts, settings, path, adapter)
    others = _shards_of_other_stores(path, dim) if absent else {}
    for job in absent:
        if (job.side, job.content_key) in others:
            _copy(job, *others[job.side, job.content_key], store)
    return store


def plan_shards(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None = None
) -> tuple[list[ShardJob], int]:
    """Absent or damaged shards of a store, and its number of shards. Changes nothing."""
    store = TextStore.open(path)
    jobs = list(_jobs(texts, settings, store, adapter))
    return [job for job in jobs if not _is_done(store, job)], len(jobs)


def num_shards_if_complete(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None
) -> int | None:
    """Number of shards of a store that holds all of these texts, else None. Changes nothing."""
    try:
        store = TextStore.open(path)
    except StoreError:
        return None
    if (store.num_rows("items"), store.num_rows("users")) != (len(texts.items), len(texts.users)):
        return None
    if not all(_is_done(store, job) for job in _jobs(texts, settings, store, adapter)):
        return None
    return sum(store.num_shards(side) for side in SIDES)


def _jobs(
    texts: Texts, settings: TextSettings, store: TextStore, adapter: Path | None
) -> Iterator[ShardJob]:
    key = encoder_key(settings, adapter)
    max_tokens = {"items": settings.max_tokens, "users": settings.user_max_tokens}
    rows = {"items": texts.items, "users": texts.users}
    for side in SIDES:
        for shard in range(store.num_shards(side)):
            shard_texts = part_of(rows[side], *store.shard_range(side, shard))
            shard_key = content_key([key, [*shard_texts]])
            yield ShardJob(side, shard, shard_texts, shard_key, max_tokens[side])


def _is_done(store: TextStore, job: ShardJob) -> bool:
    """A damaged shard counts as absent, so that extraction mends it."""
    try:
        entry = store.entry(job.side, job.shard)
        if entry is None or entry.get("content_key") != job.content_key:
            return False
        store.read_shard(job.side, job.shard)
    except StoreError:
        return False
    return True


def _shards_of_other_stores(path: Path, dim: int) -> dict[tuple[str, str], tuple[TextStore, int]]:
    """(side, content key) → (store, shard), over all other stores of the encoder."""
    found: dict[tuple[str, str], tuple[TextStore, int]] = {}
    for other in sorted(path.parent.glob(f"{path.name.partition('-')[0]}*")):
        with suppress(StoreError):  # damaged, or about to be made
            store = TextStore.open(other)
            if other != path and store.dim == dim:
                found |= {(side, key): (store, shard) for side, shard, key in _ledger_keys(store)}
    return found


def _ledger_keys(store: TextStore) -> Iterator[tuple[str, int, str]]:
    """(side, shard, content key) of all readable ledger entries."""
    for side in SIDES:
        for shard in range(store.num_shards(side)):
            with suppress(StoreError):
                key = (store.entry(side, shard) or {}).get("content_key")
                if isinstance(key, str):
                    yield side, shard, key


def _copy(job: ShardJob, source: TextStore, shard: int, store: TextStore) -> None:
    with suppress(StoreError):  # damaged there
        vectors = source.read_shard(job.side, shard)
        if len(vectors) == len(job.texts):
            store.write_shard(job.side, job.shard, vectors, job.content_key)
