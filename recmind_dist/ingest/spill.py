"""A log on disk that is larger than memory, sorted into blocks of users that fit."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recmind_dist.types import IntArray

MAX_OPEN_FILES = 32  # block files written at once: far below any limit on open files
# memory of a block's row while in use: columns, their sorted copies, orders, masks, texts of ids
BYTES_A_ROW = 240


@dataclass(frozen=True)
class Block:
    """All rows of consecutive users. Shapes: all [rows]; user and item are codes."""

    user: IntArray
    item: IntArray
    time: np.ndarray
    row: IntArray

    def __getitem__(self, chosen: np.ndarray) -> "Block":
        return Block(self.user[chosen], self.item[chosen], self.time[chosen], self.row[chosen])


class Spill:
    """Rows appended in any order, then returned in blocks of consecutive users.

    Args:
        folder: directory of its files, which are as large as the log.
        memory_mb: approximate size of a block in memory.
    """

    def __init__(self, folder: Path, memory_mb: int) -> None:
        folder.mkdir()
        self._folder = folder
        self.rows = 0
        self.rows_at_once = max(1, (memory_mb << 20) // BYTES_A_ROW)
        self._dtype: np.dtype | None = None
        self._file = (folder / "log").open("wb")
        self._per_user = np.zeros(1024, np.int64)

    def append(self, block: Block) -> None:
        """Adds rows; user and item are provisional codes."""
        if self._dtype is None:
            time = block.time.dtype.newbyteorder("<")
            fields = [("user", "<i4"), ("item", "<i4"), ("time", time), ("row", "<i8")]
            self._dtype = np.dtype(fields)
        self._file.write(_packed(block, self._dtype).tobytes())
        self.rows += len(block.user)
        counts = np.bincount(block.user)
        if len(counts) > len(self._per_user):
            self._per_user = np.pad(self._per_user, (0, 2 * len(counts) - len(self._per_user)))
        self._per_user[: len(counts)] += counts

    def sort(self, user_of: IntArray, item_of: IntArray) -> None:
        """Distributes the rows to blocks of consecutive users, of at most `rows_at_once` rows each.

        A user with more rows than that has a larger block.

        Args:
            user_of: final code of each provisional user code.
            item_of: final code of each provisional item code.
        """
        self._file.close()
        per_user = np.zeros(int(user_of.max(initial=-1)) + 1, np.int64)
        rows = self._per_user[: len(user_of)]
        np.add.at(per_user, user_of[: len(rows)], rows)  # users behind them have no row
        ends = np.cumsum(per_user)
        self.block_of_user = (ends - per_user) // self.rows_at_once
        self.num_blocks = int(self.block_of_user[-1]) + 1 if len(per_user) else 0
        log = self._folder / "log"
        self._distribute(log, 0, self.num_blocks, self._recoded(log, user_of, item_of))

    def _recoded(self, log: Path, user_of: IntArray, item_of: IntArray) -> Iterator[np.ndarray]:
        for chunk in self._chunks(log):
            chunk["user"] = user_of[chunk["user"]]
            chunk["item"] = item_of[chunk["item"]]
            yield chunk

    def _distribute(
        self, source: Path, first: int, last: int, chunks: Iterator[np.ndarray]
    ) -> None:
        """Writes the rows of blocks [first, last) to a file for each block, and removes `source`.

        If more blocks than may be open at once are needed, the rows go to files of several blocks
        first, and each of these is distributed in turn: 32 open files make 1,024 blocks in two
        passes.
        """
        span = _blocks_a_file(last - first)
        starts = np.arange(first, last, span)
        names = [f"block-{b}" if span == 1 else f"blocks-{b}-{span}" for b in starts]
        paths = [self._folder / name for name in names]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for chunk in chunks:
                place = (self.block_of_user[chunk["user"]] - first) // span
                chunk = chunk[stable_order(place)]
                ends = np.cumsum(np.bincount(place, minlength=len(files)))[:-1]
                for file, part in zip(files, np.split(chunk, ends), strict=True):
                    file.write(part.tobytes())
        source.unlink()
        if span > 1:
            for path, start in zip(paths, starts.tolist(), strict=True):
                self._distribute(path, start, min(start + span, last), self._chunks(path))

    def blocks(self) -> Iterator[Block]:
        """Blocks by ascending user; rows within one in no order."""
        return (self.block(b) for b in range(self.num_blocks))

    def block(self, b: int) -> Block:
        """Block number `b`."""
        assert self._dtype is not None
        rows = np.frombuffer((self._folder / f"block-{b}").read_bytes(), self._dtype)
        user, item = rows["user"].astype(np.int64), rows["item"].astype(np.int64)
        return Block(user, item, rows["time"].copy(), rows["row"].copy())

    def replace(self, b: int, block: Block) -> None:
        """Overwrites block number `b`."""
        assert self._dtype is not None
        _packed(block, self._dtype).tofile(self._folder / f"block-{b}")

    def _chunks(self, path: Path) -> Iterator[np.ndarray]:
        assert self._dtype is not None
        rows = self.rows_at_once // 2 + 1
        with path.open("rb") as file:
            while data := file.read(rows * self._dtype.itemsize):
                yield np.frombuffer(bytearray(data), self._dtype)  # writable


def stable_order(keys: IntArray) -> IntArray:
    """Stable ascending order of keys that are not negative. Shape: as `keys`.

    By 16 bits at a time: NumPy sorts integers of that width by radix, wider ones by merging.
    """
    order: IntArray = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(keys.max(initial=0)).bit_length(), 16):
        digit = (keys >> shift & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def is_ascending(values: np.ndarray) -> bool:
    """Whether no value is below the one before it."""
    return bool((values[1:] >= values[:-1]).all())


def _blocks_a_file(num_blocks: int) -> int:
    """The smallest power of MAX_OPEN_FILES with which at most MAX_OPEN_FILES files are needed."""
    span = 1
    while -(-num_blocks // span) > MAX_OPEN_FILES:
        span *= MAX_OPEN_FILES
    return span


def _packed(block: Block, dtype: np.dtype) -> np.ndarray:
    out = np.empty(len(block.user), dtype)
    for name in ("user", "item", "time", "row"):
        out[name] = getattr(block, name)
    return out
