"""What users did, oldest first: the rows, ages and times that baselines learn from and rank by.

Shapes: U users, I items, H entries of all histories.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from recmind_dist.graph import Graph
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class Histories:
    """Items of each user in the order of time; items are numbered from 0.

    Attributes:
        indptr: [U + 1].
        items: [H].
        num_items: I.
    """

    indptr: IntArray
    items: IntArray
    num_items: int

    @staticmethod
    def of_graph(graph: Graph, with_validation: bool = False) -> "Histories":
        """The training edges; with the validation items, too, which come after them."""
        user, item, rank = _edges(graph)
        if with_validation:
            held = graph.held_out("valid")
            count = np.diff(held.indptr)
            late = np.repeat(np.arange(graph.num_users), count)
            user = np.concatenate([user, late])
            item = np.concatenate([item, held.indices.astype(np.int64) - graph.num_users])
            rank = np.concatenate([rank, np.full(len(late), np.iinfo(np.int32).max)])
        order = np.lexsort((rank, user))
        indptr = np.searchsorted(user[order], np.arange(graph.num_users + 1))
        return Histories(indptr.astype(np.int64), item[order], graph.num_items)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.indptr) - 1

    @property
    def user(self) -> IntArray:
        """[H] whose entry it is."""
        return np.repeat(np.arange(self.num_users), np.diff(self.indptr))

    @property
    def age(self) -> IntArray:
        """[H] entries of the same user that are newer: 0 for the newest."""
        age: IntArray = self.indptr[1:][self.user] - 1 - np.arange(len(self.items))
        return age

    def rows(self, decay: float = 1.0) -> csr_matrix:
        """[U, I] decay^age of what a user has, 0 of what not. Decay 1: the binary matrix."""
        weights = np.float32(decay) ** self.age.astype(np.float32)
        shape = (self.num_users, self.num_items)
        return csr_matrix((weights, self.items, self.indptr), shape)


def times_of(graph: Graph, dataset: Path, histories: Histories) -> IntArray:
    """[H] when each entry of a history was, as the log has it, from the data set's directory."""
    log = pl.read_parquet(dataset / "interactions.parquet", columns=["user", "item", "time"])
    entries = pl.DataFrame(
        {
            "user": graph.user_ids.gather(histories.user),
            "item": graph.item_ids.gather(histories.items),
        }
    )
    found = entries.join(log, on=["user", "item"], how="left", maintain_order="left")
    assert found.height == entries.height, "a pair is twice in the log"
    times: IntArray = found.get_column("time").cast(pl.Int64).to_numpy()
    return times


def _edges(graph: Graph) -> tuple[IntArray, IntArray, IntArray]:
    """User, item and position in the user's chronology of all training edges. Shapes: [E]."""
    user = np.repeat(np.arange(graph.num_users), np.diff(graph.indptr[: graph.num_users + 1]))
    item = np.asarray(graph.indices[: graph.num_edges], np.int64) - graph.num_users
    return user, item, np.asarray(graph.time_rank, np.int64)
