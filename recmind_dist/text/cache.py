"""Lists the text stores of a cache and removes one. Nothing else removes stores: runs need them."""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from recmind_dist.errors import StoreError
from recmind_dist.storage import directory_lock
from recmind_dist.storage.atomic import PARTIAL
from recmind_dist.text.store import META, SIDES, TextStore


@dataclass(frozen=True)
class StoreSummary:
    """One text store.

    Attributes:
        num_rows: of items and users together, as are the shards.
        num_done: shards in the ledger.
        written: unix seconds at which the newest shard was finished, or the store made.
        fault: why the store cannot be opened, if so.
    """

    path: Path
    num_rows: int
    num_done: int
    num_shards: int
    num_bytes: int
    written: float
    fault: str = ""


def list_stores(cache_dir: Path) -> list[StoreSummary]:
    """All text stores below a cache directory, newest first. Raises StoreError if it is absent."""
    if not cache_dir.is_dir():
        raise StoreError(f"{cache_dir}: no such directory: give a run's cache_dir")
    found = [_summary(meta.parent) for meta in cache_dir.glob(f"*/text/*/{META}")]
    return sorted(found, key=lambda one: (-one.written, one.path))


def remove_store(path: Path) -> None:
    """Removes a text store.

    Raises:
        StoreError: `path` holds no text store.
        LockedError: a process extracts into it.
    """
    if path.is_symlink() or not (path / META).is_file():
        raise StoreError(f"{path}: no {META}: not a text store: nothing was removed")
    with directory_lock(path):
        TextStore.open(path)  # refuses what is none
        removed = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-removed-{path.name}")
        path.rename(removed)  # first, so that nobody reads half a store
        shutil.rmtree(removed)


def _summary(path: Path) -> StoreSummary:
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    num_bytes = sum(file.st_size for file in files)
    ledger = [entry.stat().st_mtime for entry in (path / "ledger").glob("*.json")]
    written = max([(path / META).stat().st_mtime, *ledger])
    try:
        store = TextStore.open(path)
    except StoreError as error:
        return StoreSummary(path, 0, len(ledger), 0, num_bytes, written, str(error))
    num_rows = sum(store.num_rows(side) for side in SIDES)
    num_shards = sum(store.num_shards(side) for side in SIDES)
    return StoreSummary(path, num_rows, len(ledger), num_shards, num_bytes, written)
