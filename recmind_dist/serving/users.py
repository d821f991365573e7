"""Users in memory: a row of a Parquet file costs the decoding of thousands of others."""

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.recommend.bundle import ROW_GROUP, Bundle, Users
from recmind_dist.types import FloatArray, Int32Array

Rows = NDArray[np.integer[Any]]


class UsersInMemory(Users):
    """As `Users`, read whole: U × C × 4 bytes for each of vector, base and text, and histories."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.path / "users.parquet")
        groups = [np.arange(start, stop) for start, stop in _blocks(bundle.num_users)]
        read = Users(bundle.path / "users.parquet")
        self._vectors = np.concatenate([read.vectors(rows) for rows in groups])
        lists = list(chain.from_iterable(read.histories(rows) for rows in groups))
        self._starts = np.cumsum([0, *(len(one) for one in lists)])
        self._items = np.concatenate([np.empty(0, np.int32), *lists])
        self._own: dict[str, FloatArray] = {
            name: np.concatenate([getattr(read, name)(rows) for rows in groups])
            for name in ("base", "text")
            if name in self.columns
        }

    def width(self, column: str) -> int:
        """See `Users`."""
        return int((self._vectors if column == "vector" else self._own[column]).shape[1])

    def vectors(self, rows: Rows) -> FloatArray:
        """See `Users`."""
        return self._vectors[rows]

    def base(self, rows: Rows) -> FloatArray:
        """See `Users`."""
        return self._own["base"][rows]

    def text(self, rows: Rows) -> FloatArray:
        """See `Users`."""
        return self._own["text"][rows]

    def histories(self, rows: Rows) -> list[Int32Array]:
        """See `Users`."""
        starts = self._starts
        return [self._items[starts[row] : starts[row + 1]] for row in np.asarray(rows).tolist()]


def _blocks(count: int) -> list[tuple[int, int]]:
    return [(at, min(at + ROW_GROUP, count)) for at in range(0, count, ROW_GROUP)]
