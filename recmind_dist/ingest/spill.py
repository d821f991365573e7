"""A log on disk that is larger than memory, sorted into blocks of users that are not."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recmind_dist.types import IntArray

MAX_OPEN_FILES = 32  # block files written at once: far below any limit on open files
# of a block while it is worked on: its columns, their sorted copies, orders and masks, texts of its
# ids
BYTES_A_ROW = 240


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
        folder: for its files, which are as large as the log; memory_mb: what one block may take,
        about.
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
            [
                ("user", "<i4"),
                ("item", "<i4"),
                ("time", block.time.dtype.newbyteorder("<")),
                ("row", "<i8"),
            ]
        )
        self._file.write(_packed(block, self._kind).tobytes())
        self.rows += len(block.user)
        counts = np.bincount(block.user)
        if len(counts) > len(self._per_user):
            self._per_user = np.pad(self._per_user, (0, 2 * len(counts) - len(self._per_user)))
        self._per_user[: len(counts)] += counts

    def sort(self, user_of: IntArray, item_of: IntArray) -> None:
        """Deals the rows to blocks of consecutive users, of at most `rows_at_once` rows each.

        The block of a user with more rows than that is larger.

        Args:
            user_of, item_of: final code of each provisional one.
        """
        self._file.close()
        per_user = np.zeros(int(user_of.max(initial=-1)) + 1, np.int64)
        np.add.at(per_user, user_of, self._per_user[: len(user_of)])
        ends = np.cumsum(per_user)
        self.block_of_user = (ends - per_user) // self.rows_at_once
        self.num_blocks = int(self.block_of_user[-1]) + 1 if len(per_user) else 0
        self._deal(self._folder / "log", 0, self.num_blocks, self._in_final_codes(user_of, item_of))

    def _in_final_codes(self, user_of: IntArray, item_of: IntArray) -> Iterator[np.ndarray]:
        for chunk in self._chunks(self._folder / "log"):
            chunk["user"], chunk["item"] = user_of[chunk["user"]], item_of[chunk["item"]]
            yield chunk

    def _deal(self, source: Path, first: int, last: int, chunks: Iterator[np.ndarray]) -> None:
        """Deals the rows of blocks [first, last) to files of their own, and removes `source`.

        More blocks than may be open at once are dealt to files of several blocks first, each of
        which is then dealt in turn: 32 files at once make 1,024 blocks in two passes.
        """
        span = _span(last - first)
        starts = np.arange(first, last, span)
        paths = [
            self._folder / (f"block-{b}" if span == 1 else f"blocks-{b}-{span}") for b in starts
        ]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for chunk in chunks:
                block = self.block_of_user[chunk["user"]]
                chunk = chunk[np.argsort(block, kind="stable")]
                ends = np.searchsorted(np.sort(block), starts[1:])
                for file, part in zip(files, np.split(chunk, ends), strict=True):
                    file.write(part.tobytes())
        source.unlink()
        if span > 1:
            for path, start in zip(paths, starts.tolist(), strict=True):
                self._deal(path, start, min(start + span, last), self._chunks(path))

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
            found["user"].astype(np.int64),
            found["item"].astype(np.int64),
            found["time"].copy(),
            found["row"].copy(),
        )

    def replace(self, b: int, block: Block) -> None:
        """Puts fewer rows in a block's place."""
        assert self._kind is not None
        _packed(block, self._kind).tofile(self._folder / f"block-{b}")

    def _chunks(self, path: Path) -> Iterator[np.ndarray]:
        assert self._kind is not None
        rows = self.rows_at_once // 2 + 1
        with path.open("rb") as file:
            while data := file.read(rows * self._kind.itemsize):
                yield np.frombuffer(
                    bytearray(data), self._kind
                )  # of our own, so that codes can be put in place


def _span(num_blocks: int) -> int:
    """Blocks that share a file so that at most MAX_OPEN_FILES are written at once; 1 if none must."""
    span = 1
    while -(-num_blocks // span) > MAX_OPEN_FILES:
        span *= MAX_OPEN_FILES
    return span


def _packed(block: Block, kind: np.dtype) -> np.ndarray:
    out = np.empty(len(block.user), kind)
    out["user"], out["item"], out["time"], out["row"] = (
        block.user,
        block.item,
        block.time,
        block.row,
    )
    return out
