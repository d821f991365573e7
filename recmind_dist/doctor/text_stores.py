"""Reads a whole text store: its description, its ledger, and every shard."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recmind_dist.errors import StoreError
from recmind_dist.storage import content_key
from recmind_dist.text.store import META, SIDES, TextStore, remedy_of

_META_KEYS = {"kind", "schema", "dim", "num_rows", "shard_rows", "chunk_rows", "encoder"}
_ENTRY_KEYS = {"rows", "sha256", "content_key", "textless"}


@dataclass(frozen=True)
class ShardFault:
    """A shard that differs from its ledger entry; `fault` is a sentence that names it."""

    side: str
    shard: int
    fault: str


def audit_text_store(path: Path) -> tuple[TextStore, list[ShardFault]]:
    """Reads every row. Returns the store and its damaged shards.

    Raises:
        StoreError: the fault is not limited to shards.
    """
    store = TextStore.open(path)
    _check_meta(store)
    faults = []
    for side in SIDES:
        for shard in range(store.num_shards(side)):
            try:
                _check_shard(store, side, shard)
            except StoreError as error:
                faults.append(ShardFault(side, shard, str(error)))
    return store, faults


def _check_meta(store: TextStore) -> None:
    meta = store.path / META
    again = f"delete {store.path} and {remedy_of(store.path)}"
    if set(store.meta) != _META_KEYS or set(store.meta["num_rows"]) != set(SIDES):
        raise StoreError(f"{meta}: has the keys {', '.join(sorted(store.meta))}: {again}")
    name = store.path.name.partition("-")[0]  # <encoder key>-<texts' key>
    is_key = len(name) == 12 and set(name) <= set("0123456789abcdef")
    if is_key and content_key(store.meta["encoder"])[:12] != name:
        raise StoreError(
            f"{meta}: describes another encoder than the one the directory is named after: {again}"
        )
    for side in SIDES:
        layout = store.layout(side)
        sizes = (store.num_rows(side), store.shard_rows(side), store.chunk_rows(side))
        expected = tuple((rows, store.dim) for rows in sizes)
        if layout != expected:
            raise StoreError(
                f"{store.path / side}: rows, shards and chunks are {layout}, {META} says "
                f"{expected}: {again}"
            )


def _check_shard(store: TextStore, side: str, shard: int) -> None:
    entry = store.entry(side, shard)
    name = f"{store.path}: shard {shard} of {side}"
    if entry is not None and set(entry) != _ENTRY_KEYS:
        raise StoreError(f"{name} has a damaged ledger entry: {store.shard_remedy}")
    vectors = store.read_shard(side, shard)
    finite = np.isfinite(vectors)
    broken = np.flatnonzero(~finite.all(1) & ~np.isnan(vectors).all(1))
    if len(broken):
        row = store.shard_range(side, shard)[0] + int(broken[0])
        raise StoreError(
            f"{name}: row {row} is neither a finite vector nor empty: {remedy_of(store.path)}"
        )
