"""Recommendations for all users of a bundle, or a list of them, into a Parquet file.

A row group of users is in memory at a time, however many there are; a list of wanted ids is whole.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from recmind_dist.errors import DataError
from recmind_dist.recommend.recommender import NOTHING_KNOWN, Recommender, Seen
from recmind_dist.recommend.replies import RANKING, ranking_table
from recmind_dist.storage.atomic import PARTIAL
from recmind_dist.types import BoolArray


@dataclass(frozen=True)
class Written:
    """What a file of recommendations has: users, rows, and who was left out and why."""

    num_users: int
    num_rows: int
    left_out: dict[str, str]


def write_recommendations(
    recommender: Recommender,
    out: Path,
    k: int = 10,
    users: Iterable[str] | None = None,
    allowed: BoolArray | None = None,
    seen: Seen = "exclude",
) -> Written:
    """Writes a Parquet file with the columns user, rank (from 1), item, score, in place of what is
    at `out`.

    Args:
        users: external ids; None: all. They are kept in memory, and come in the bundle's order.
        allowed: see `Recommender.allowed`.
    Raises:
        DataError: k is below 1; `out` is a directory, or in none.
        OSError: the file cannot be written.
        StoreError: the bundle is damaged.
    """
    import pyarrow.parquet as pq

    if out.is_dir() or not out.parent.is_dir():
        why = "is a directory" if out.is_dir() else f"there is no directory {out.parent}"
        raise DataError(f"{out}: {why}: give the path of a file to write")
    blocks = _Blocks(recommender, recommender.size(k), allowed, seen)
    temporary = out.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        with temporary.open("xb") as file, pq.ParquetWriter(file, RANKING) as writer:
            for table in blocks.tables(None if users is None else set(users)):
                writer.write_table(table, row_group_size=max(1, len(table)))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return Written(blocks.num_users, blocks.num_rows, blocks.left_out)


class _Blocks:
    """Ranks users a row group at a time, and counts them."""

    def __init__(
        self, recommender: Recommender, k: int, allowed: BoolArray | None, seen: Seen
    ) -> None:
        self._recommender, self._bundle = recommender, recommender.bundle
        self._k, self._allowed, self._seen = k, allowed, seen
        self.num_users = self.num_rows = 0
        self.left_out: dict[str, str] = {}

    def tables(self, wanted: set[str] | None) -> Iterator[pa.Table]:
        """A table a row group of users."""
        item_ids = pa.array(self._bundle.item_ids)
        for ids, vectors, histories in self._bundle.users.blocks():
            finite = np.asarray(np.isfinite(vectors).all(axis=1))
            chosen = [row for row, user_id in enumerate(ids) if wanted is None or user_id in wanted]
            if wanted is not None:
                wanted.difference_update(ids[row] for row in chosen)
            self.left_out |= {ids[row]: NOTHING_KNOWN for row in chosen if not finite[row]}
            rows = [row for row in chosen if finite[row]]
            hidden = [histories[row] for row in rows] if self._seen == "exclude" else None
            found, scores = self._recommender.top_items(
                vectors[rows], self._k, hidden, self._allowed
            )
            table = ranking_table([ids[row] for row in rows], found, scores, item_ids)
            self.num_users += len(rows)
            self.num_rows += len(table)
            yield table
        unknown = f"not in {self._bundle.name}"
        self.left_out |= dict.fromkeys(sorted(wanted or ()), unknown)
