"""A graph out of a data set larger than memory: the same files as `prepare_graph` makes, block of
users by block of users.

Legend: U users, I items, E training edges. Held in memory are ids, degrees and offsets of nodes,
and one block (`dataset.memory_mb`); the items' half is placed for as many items at a time as fit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as arrow_parquet
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph import splits
from recmind_dist.graph.csr import edge_order
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.splits import TEST, TRAIN, VALID, Interactions, Labels
from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.spill import Block, Spill
from recmind_dist.types import IntArray


class GraphWriter:
    """Takes blocks by ascending user and writes the arrays of a graph directory but for its
    partition.

    Args:
        work: the directory; folder: for what is as large as the log while it is worked on.
    """

    def __init__(
        self, work: Path, num_users: int, num_items: int, settings: GraphSettings, memory_mb: int
    ) -> None:
        self._work, self._settings, self._bytes = work, settings, max(memory_mb, 1) << 20
        self.num_users, self.num_items = num_users, num_items
        self.counts = {
            "num_edges": 0,
            "num_valid": 0,
            "num_withheld": 0,
            "num_test": 0,
            "users_without_test": 0,
        }
        self._degree = np.zeros(num_users + num_items, np.int64)
        self._held = {split: np.zeros(num_users, np.int64) for split in ("valid", "test")}
        self._raw = {
            name: (work / f".{name}").open("wb") for name in ("items", "time_rank", "valid", "test")
        }

    def add(self, block: Block) -> None:
        """Splits and sorts one block of consecutive users, and appends what becomes of it."""
        log = Interactions(block.user, block.item, block.time, block.row)
        labels = self._label(log)
        tested = np.unique(log.user[labels == TEST])
        self.counts["users_without_test"] += len(np.unique(log.user)) - len(tested)
        train = _chosen(log, labels == TRAIN)
        first, users = int(log.user.min(initial=self.num_users)), int(log.user.max(initial=-1)) + 1
        order = edge_order(train.user - first, train.item, max(users - first, 0), self.num_items)
        self._degree += np.bincount(train.user, minlength=len(self._degree))
        self._degree += np.bincount(train.item + self.num_users, minlength=len(self._degree))
        self.counts["num_edges"] += len(order)
        self._append("items", train.item[order] + self.num_users)
        self._append("time_rank", splits.rank_in_time(train)[order])
        for split, label in (("valid", VALID), ("test", TEST)):
            held = _chosen(log, labels == label)
            by_user = np.lexsort((held.item, held.user))
            self._append(split, held.item[by_user] + self.num_users)
            self._held[split] += np.bincount(held.user, minlength=self.num_users)
            self.counts[f"num_{split}"] += len(by_user)

    def finish(self) -> IntArray:
        """Writes the .npy files. Returns indptr."""
        from recmind_dist.graph.edge_rows import write_array

        for file in self._raw.values():
            file.close()
        edges = self.counts["num_edges"]
        indptr = np.concatenate([[0], np.cumsum(self._degree)])
        to_item = _mapped(self._work / ".items", edges)
        np.save(self._work / "indptr.npy", indptr)
        write_array(
            self._work / "indices.npy", np.int32, 2 * edges, self._both_halves(to_item, indptr)
        )
        write_array(
            self._work / "time_rank.npy",
            np.int32,
            edges,
            iter([_mapped(self._work / ".time_rank", edges)]),
        )
        for split, held in self._held.items():
            np.save(self._work / f"{split}_indptr.npy", np.concatenate([[0], np.cumsum(held)]))
            count = self.counts[f"num_{split}"]
            found = _mapped(self._work / f".{split}", count)
            write_array(self._work / f"{split}_indices.npy", np.int32, count, iter([found]))
        del to_item
        for name in self._raw:
            (self._work / f".{name}").unlink()
        return indptr

    def _both_halves(self, to_item: np.ndarray, indptr: IntArray) -> Iterator[np.ndarray]:
        step = max(1, self._bytes // 16)
        for start in range(0, len(to_item), step):
            yield to_item[start : start + step]
        users, item_starts = self.num_users, indptr[self.num_users :]
        first = 0
        while first < self.num_items:  # all edges are read once for each run of items that fits
            limit = item_starts[first] + self._bytes // 4
            last = max(first + 1, int(np.searchsorted(item_starts, limit, side="right")) - 1)
            out = np.empty(int(item_starts[last] - item_starts[first]), np.int32)
            _place_users(
                to_item,
                indptr[: users + 1],
                users + first,
                item_starts[first : last + 1] - item_starts[first],
                out,
            )
            yield out
            first = last

    def _label(self, log: Interactions) -> Labels:
        if self._settings.split == "leave-one-out":
            return splits.leave_one_out(log)
        return splits.ratio(log, self._settings.valid_share, self._settings.test_share)

    def _append(self, name: str, values: np.ndarray) -> None:
        self._raw[name].write(values.astype(np.int32).tobytes())


def refuse_unstreamed(settings: GraphSettings) -> None:
    """Raises DataError for what needs the whole log at once."""
    remedy = "set graph.split: leave-one-out or ratio, or unset dataset.memory_mb"
    if settings.split not in ("leave-one-out", "ratio"):
        raise DataError(f"graph.split: {settings.split} is not streamed: {remedy}")
    if settings.withhold_items:
        raise DataError("graph.withhold_items is not streamed: unset it, or dataset.memory_mb")
    if settings.partition == "metis":
        raise DataError(
            "graph.partition: metis holds the whole graph in memory: set fennel, or unset "
            "dataset.memory_mb"
        )


def logged_ids(interactions: Path, side: str) -> pl.Series:
    """Distinct ids of a data set's log, read in batches."""
    codes = IdCodes()
    with arrow_parquet.ParquetFile(interactions) as file:
        for batch in file.iter_batches(1 << 20, columns=[side]):
            codes.of(pl.Series(side, batch.column(0)))
    return codes.names()


def sorted_log(
    interactions: Path, users: pl.Series, items: pl.Series, folder: Path, memory_mb: int
) -> Spill:
    """The log in blocks of users, under the nodes' own codes."""
    spill, of_user, of_item = Spill(folder, memory_mb), IdCodes(users), IdCodes(items)
    with arrow_parquet.ParquetFile(interactions) as file:
        for batch in file.iter_batches(
            max(1, spill.rows_at_once // 4), columns=["user", "item", "time", "row"]
        ):
            frame: Any = pl.from_arrow(batch)
            spill.append(
                Block(
                    of_user.of(frame["user"]),
                    of_item.of(frame["item"]),
                    frame["time"].to_numpy(),
                    frame["row"].to_numpy(),
                )
            )
    spill.sort(np.arange(len(users)), np.arange(len(items)))
    return spill


def _chosen(log: Interactions, mask: np.ndarray) -> Interactions:
    return Interactions(log.user[mask], log.item[mask], log.time[mask], log.row[mask])


def _mapped(path: Path, length: int) -> np.ndarray:
    return np.memmap(path, np.int32, "r", shape=(length,)) if length else np.empty(0, np.int32)


@njit(cache=True, nogil=True)
def _place_users(to_item, user_indptr, first_item, starts, out):  # type: ignore[no-untyped-def]
    """Users of a run of items, ascending within each, out of the users' half."""
    filled = starts[:-1].copy()
    for user in range(len(user_indptr) - 1):
        for e in range(user_indptr[user], user_indptr[user + 1]):
            item = to_item[e] - first_item
            if 0 <= item < len(filled):
                out[filled[item]] = user
                filled[item] += 1
