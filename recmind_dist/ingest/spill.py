"""A log on disk that is larger than memory, sorted into blocks of users that are not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recmind_dist.types import IntArray

BYTES_A_ROW = (
    240  # of a block while it is worked on: its columns, their sorted copies, orders and masks, texts of its ids
)


@dataclass(frozen=True)
class Block:
    """All rows of consecutive users. Shapes: all [rows], user and item are codes."""

    user: IntArray
    item: IntArray
    time: np.ndarray
    row: IntArray

    def __getitem__(self, chosen: np.ndarray) -> "Block":
        return Block(self.user[chosen], self.item[chosen], self.time[chosen], self.row[chosen])


class Spill:
    """Rows appended in any order, then handed out user block by user block.

    Args:
        folder: for its files, which are as large as the log; memory_mb: what one block may take, about.
    """

    def __init__(self, folder: Path, memory_mb: int) -> None:
        folder.mkdir()
        self._folder, self.rows = folder, 0
        self.rows_at_once = max(1, (memory_mb << 20) // BYTES_A_ROW)
        self._kind: np.dtype | None = None
        self._file = (folder / "log").open("wb")
        self._per_user = np.zeros(1024, np.int64)

    def append(self, block: Block) -> None:
        """Adds rows; user and item are provisional codes."""
        self._kind = self._kind or np.dtype(
            [("user", "<i4"), ("item", "<i4"), ("time", block.time.dtype.newbyteorder("<")), ("row", "<i8")]
        )
        self._file.write(_packed(block, self._kind).tobytes())
        self.rows += len(block.user)
        counts = np.bincount(block.user)
        if len(counts) > len(self._per_user):
            self._per_user = np.pad(self._per_user, (0, 2 * len(counts) - len(self._per_user)))
        self._per_user[: len(counts)] += counts

    def sort(self, user_of: IntArray, item_of: IntArray) -> None:
        """Deals the rows to files of consecutive users, none of more rows than are worked on at once unless one user has more.

        Args:
            user_of, item_of: final code of each provisional one.
        """
        self._file.close()
        per_user = np.zeros(int(user_of.max(initial=-1)) + 1, np.int64)
        np.add.at(per_user, user_of, self._per_user[: len(user_of)])
        ends = np.cumsum(per_user)
        self.block_of_user = (ends - per_user) // self.rows_at_once
        self.num_blocks = int(self.block_of_user[-1]) + 1 if len(per_user) else 0
        files = [(self._folder / f"block-{b}").open("wb") for b in range(self.num_blocks)]
        for chunk in self._chunks(self._folder / "log", self.rows_at_once // 2 + 1):
            chunk["user"], chunk["item"] = user_of[chunk["user"]], item_of[chunk["item"]]
            block = self.block_of_user[chunk["user"]]
            chunk = chunk[np.argsort(block, kind="stable")]
            for b, part in enumerate(np.split(chunk, np.searchsorted(np.sort(block), np.arange(1, self.num_blocks)))):
                files[b].write(part.tobytes())
        for file in files:
            file.close()
        (self._folder / "log").unlink()

    def blocks(self) -> Iterator[Block]:
        """Blocks by ascending user; rows within one in no order."""
        assert self._kind is not None
        for b in range(self.num_blocks):
            yield self.block(b)

    def block(self, b: int) -> Block:
        """One block."""
        assert self._kind is not None
        found = np.frombuffer((self._folder / f"block-{b}").read_bytes(), self._kind)
        return Block(
            found["user"].astype(np.int64), found["item"].astype(np.int64), found["time"].copy(), found["row"].copy()
        )

    def replace(self, b: int, block: Block) -> None:
        """Puts fewer rows in a block's place."""
        assert self._kind is not None
        _packed(block, self._kind).tofile(self._folder / f"block-{b}")

    def _chunks(self, path: Path, rows: int) -> Iterator[np.ndarray]:
        assert self._kind is not None
        with path.open("rb") as file:
            while data := file.read(rows * self._kind.itemsize):
                yield np.frombuffer(bytearray(data), self._kind)  # of our own, so that codes can be put in place


def _packed(block: Block, kind: np.dtype) -> np.ndarray:
    out = np.empty(len(block.user), kind)
    out["user"], out["item"], out["time"], out["row"] = block.user, block.item, block.time, block.row
    return out
