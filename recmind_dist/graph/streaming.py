"""A graph from a data set larger than memory, in blocks of users: the same files as in memory.

In memory are ids, degrees and offsets of nodes, and one block (`dataset.memory_mb`). The CSR rows
of items are filled for as many items at a time as fit into a block.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as arrow_parquet
from numba import njit

from recmind_dist.errors import DataError
from recmind_dist.graph import splits
from recmind_dist.graph.csr import edge_order
from recmind_dist.graph.edge_rows import write_array
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.splits import TEST, TRAIN, VALID, Interactions, Labels
from recmind_dist.ingest.id_codes import IdCodes
from recmind_dist.ingest.spill import Block, Spill
from recmind_dist.types import IntArray

COUNTS = ("num_edges", "num_valid", "num_withheld", "num_test", "users_without_test")


class GraphWriter:
    """Writes the arrays of a graph, except the partition, from blocks by ascending user.

    Args:
        draws_order: see `prepare.draws_order`.
    """

    def __init__(
        self,
        work: Path,
        num_users: int,
        num_items: int,
        settings: GraphSettings,
        memory_mb: int,
        draws_order: bool = False,
    ) -> None:
        self._draws_order = draws_order
        self._work = work
        self._settings = settings
        self._bytes = max(memory_mb, 1) << 20
        self.num_users = num_users
        self.num_items = num_items
        self.counts = dict.fromkeys(COUNTS, 0)
        self._degree = np.zeros(num_users + num_items, np.int64)
        self._held = {split: np.zeros(num_users, np.int64) for split in ("valid", "test")}
        self._raw = {
            name: (work / f".{name}").open("wb") for name in ("items", "time_rank", "valid", "test")
        }

    def add(self, block: Block) -> None:
        """Splits and sorts one block of consecutive users, and appends its edges to the files."""
        log = Interactions(block.user, block.item, block.time, block.row)
        if self._draws_order:
            log = splits.shuffled(log, self._settings.seed)
        labels = self._label(log)
        tested = np.unique(log.user[labels == TEST])
        self.counts["users_without_test"] += len(np.unique(log.user)) - len(tested)
        train = log[labels == TRAIN]
        first = int(log.user.min(initial=self.num_users))
        block_users = max(int(log.user.max(initial=-1)) + 1 - first, 0)
        order = edge_order(train.user - first, train.item, block_users, self.num_items)
        self._degree += np.bincount(train.user, minlength=len(self._degree))
        self._degree += np.bincount(train.item + self.num_users, minlength=len(self._degree))
        self.counts["num_edges"] += len(order)
        self._append("items", train.item[order] + self.num_users)
        self._append("time_rank", splits.rank_in_time(train)[order])
        for split, label in (("valid", VALID), ("test", TEST)):
            held = log[labels == label]
            by_user = np.lexsort((held.item, held.user))
            self._append(split, held.item[by_user] + self.num_users)
            self._held[split] += np.bincount(held.user, minlength=self.num_users)
            self.counts[f"num_{split}"] += len(by_user)

    def finish(self) -> IntArray:
        """Writes the .npy files. Returns indptr."""
        for file in self._raw.values():
            file.close()
        edges = self.counts["num_edges"]
        indptr = np.concatenate([[0], np.cumsum(self._degree)])
        to_item = _mapped(self._work / ".items", edges)
        np.save(self._work / "indptr.npy", indptr)
        indices = self._both_directions(to_item, indptr)
        write_array(self._work / "indices.npy", np.int32, 2 * edges, indices)
        self._copy("time_rank", "time_rank.npy", edges)
        for split, held in self._held.items():
            np.save(self._work / f"{split}_indptr.npy", np.concatenate([[0], np.cumsum(held)]))
            self._copy(split, f"{split}_indices.npy", self.counts[f"num_{split}"])
        del indices, to_item  # unmaps the file
        for name in self._raw:
            (self._work / f".{name}").unlink()
        return indptr

    def _copy(self, name: str, array: str, length: int) -> None:
        values = _mapped(self._work / f".{name}", length)
        write_array(self._work / array, np.int32, length, iter([values]))

    def _both_directions(self, to_item: np.ndarray, indptr: IntArray) -> Iterator[np.ndarray]:
        """The edges of users, then of items. Users ascend within an item."""
        step = max(1, self._bytes // 16)
        for start in range(0, len(to_item), step):
            yield to_item[start : start + step]
        user_indptr = indptr[: self.num_users + 1]
        first = self.num_users
        while first < len(indptr) - 1:  # reads all edges once for each run of items that fits
            limit = indptr[first] + self._bytes // 4
            last = max(first + 1, int(np.searchsorted(indptr, limit, side="right")) - 1)
            out = np.empty(int(indptr[last] - indptr[first]), np.int32)
            starts = indptr[first : last + 1] - indptr[first]
            _fill_items(to_item, user_indptr, first, starts, out)
            yield out
            first = last

    def _label(self, log: Interactions) -> Labels:
        if self._settings.split == "none":
            return np.full(len(log.user), TRAIN, np.int8)
        if self._settings.split == "leave-one-out":
            return splits.leave_one_out(log)
        return splits.ratio(log, self._settings.valid_share, self._settings.test_share)

    def _append(self, name: str, values: np.ndarray) -> None:
        self._raw[name].write(values.astype(np.int32).tobytes())


def refuse_unstreamed(settings: GraphSettings) -> None:
    """Raises DataError for settings that need the whole log in memory."""
    remedy = "set graph.split: leave-one-out, ratio or none, or unset dataset.memory_mb"
    if settings.split not in ("leave-one-out", "ratio", "none"):
        raise DataError(f"graph.split: {settings.split} is not streamed: {remedy}")
    if settings.withhold_items:
        raise DataError("graph.withhold_items is not streamed: unset it, or dataset.memory_mb")
    if settings.partition == "metis":
        raise DataError(
            "graph.partition: metis holds the whole graph in memory: set fennel, or unset "
            "dataset.memory_mb"
        )


def coded_log(
    interactions: Path, folder: Path, memory_mb: int
) -> tuple[Spill, dict[str, pl.Series]]:
    """The log, read once, with codes in order of first occurrence; the ids of each side in the
    order of their codes.
    """
    spill = Spill(folder, memory_mb)
    user_codes, item_codes = IdCodes(), IdCodes()
    batch_rows = max(1, spill.rows_at_once // 4)
    with arrow_parquet.ParquetFile(interactions) as file, ThreadPoolExecutor(1) as aside:
        for batch in file.iter_batches(batch_rows, columns=["user", "item", "time", "row"]):
            frame: Any = pl.from_arrow(batch)
            item = aside.submit(item_codes.of, frame["item"])
            user = user_codes.of(frame["user"])
            times, rows = frame["time"].to_numpy(), frame["row"].to_numpy()
            spill.append(Block(user, item.result(), times, rows))
    return spill, {"user": user_codes.names(), "item": item_codes.names()}


def _mapped(path: Path, length: int) -> np.ndarray:
    return np.memmap(path, np.int32, "r", shape=(length,)) if length else np.empty(0, np.int32)


@njit(cache=True, nogil=True)
def _fill_items(to_item, user_indptr, first_item, starts, out):  # type: ignore[no-untyped-def]
    """Fills the CSR rows of consecutive items with their users, ascending, from the users' rows."""
    filled = starts[:-1].copy()
    for user in range(len(user_indptr) - 1):
        for e in range(user_indptr[user], user_indptr[user + 1]):
            item = to_item[e] - first_item
            if 0 <= item < len(filled):
                out[filled[item]] = user
                filled[item] += 1
