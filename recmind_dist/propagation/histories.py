"""Histories of users as a graph of their own, whose items' states are handed in and stay.

A hop brings a user the weighted sum of their items' states. Where these are fixed, one product by
the sum of an item's states 0..L−1 gives the sum of the user's states 1..L.

Where there are several ranks, each hands in its own items, and others' pass by, one rank's at a
time (`ItemPlaces`).

Legend: u users, h entries of their histories, I items of the catalogue, i of this rank, m items
that are handed in, D dims, C columns, P ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.graph.csr import entries_of_rows
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class ItemPlaces:
    """Where items' rows are: rank after rank, those of a rank ascending by id.

    Attributes:
        place: [I] of each item.
        counts: [P] items of each rank.
    """

    place: IntArray
    counts: list[int]
    context: DistContext

    @staticmethod
    def of(graph: Graph, bounds: IntArray, context: DistContext) -> "ItemPlaces":
        """Those of a graph whose table rows are cut at `bounds`, [P + 1]."""
        rows = np.asarray(graph.row_of_node)[graph.num_users :]
        owner = np.searchsorted(bounds, rows, side="right") - 1
        place = np.empty(len(rows), np.int64)
        place[np.argsort(owner, kind="stable")] = np.arange(len(rows))
        counts = np.bincount(owner, minlength=context.world_size)
        return ItemPlaces(place, counts.tolist(), context)


@dataclass(frozen=True)
class HistorySums:
    """Weighted sums over histories.

    Attributes:
        items: [m] which of this rank's item rows they take.
        matmul: [m, D] → [u, D]; a collective where there are several ranks.
    """

    items: Tensor
    matmul: Callable[[Tensor], Tensor]

    def __call__(self, x_iD: Tensor) -> Tensor:
        """The users' sums. Shape: [u, D]. Collective: every rank must call.

        Args:
            x_iD: of all items of this rank, ascending.
        """
        return self.matmul(x_iD.index_select(0, self.items))


@dataclass(frozen=True)
class Histories:
    """The items of u users, as CSR.

    Attributes:
        indptr: [u + 1].
        items: [h] local item ids, each at most once a user.
        age: [h] how many newer items the user has, 0 of the newest. Items whose order among
            themselves is unknown share the mean of their places.
    """

    indptr: IntArray
    items: IntArray
    age: NDArray[np.float64]

    @staticmethod
    def of_one(items: Sequence[int]) -> "Histories":
        """One user's items, the oldest first."""
        count = len(items)
        age = np.arange(count, dtype=np.float64)[::-1]
        return Histories(np.array([0, count]), np.array(items, np.int64), age)

    @staticmethod
    def of_graph(rows: EdgeRows, users: IntArray, with_valid: bool = False) -> "Histories":
        """The training items of users, and by choice their validation items, which are newer.

        Args:
            rows: edges, of these users at least.
            users: [u] nodes.
        """
        graph = rows.graph
        row, training = rows.edges_of(users)
        items = np.asarray(rows.indices[training], np.int64)
        rank, newest = np.asarray(rows.time_rank[training], np.float64), np.zeros(len(users))
        np.maximum.at(newest, row, rank)
        age = newest[row] - rank
        if with_valid:
            valid = graph.held_out("valid")
            count = np.diff(valid.indptr)[users]
            newer = valid.indices[entries_of_rows(valid.indptr, users)]
            newer_row = np.repeat(np.arange(len(users)), count)
            age = np.r_[age + count[row], (count[newer_row] - 1) / 2]
            row, items = np.r_[row, newer_row], np.r_[items, newer]
            order = np.argsort(row, kind="stable")
            row, items, age = row[order], items[order], age[order]
        indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=len(users)))]
        return Histories(indptr, items - graph.num_users, age)

    @property
    def degree(self) -> IntArray:
        """Items of each user. Shape: [u]."""
        return np.diff(self.indptr)

    @cached_property
    def user(self) -> IntArray:
        """Whose items they are. Shape: [h]."""
        return np.repeat(np.arange(len(self.degree)), self.degree)

    @cached_property
    def distinct(self) -> tuple[IntArray, IntArray]:
        """The distinct items [m], ascending, and where each entry's item stands among them [h]."""
        items, column = np.unique(self.items, return_inverse=True)
        return items, column

    def item_means(
        self, x_iC: Tensor, decay: float = 1.0, places: ItemPlaces | None = None
    ) -> Tensor:
        """Means of the users' items, each weighing `decay` times the next newer one. Shape: [u, C].

        Collective: every rank must call.

        Args:
            x_iC: of this rank's items, ascending.
            places: None where one rank has all items.
        """
        weight = np.power(decay, self.age)
        weight /= np.bincount(self.user, weight, len(self.degree))[self.user]
        return self.weighted_sums(weight, x_iC.device, places)(x_iC)

    def weighted_sums(
        self,
        weight: NDArray[np.floating[Any]],
        device: torch.device,
        places: ItemPlaces | None = None,
    ) -> HistorySums:
        """Sums with these weights of the entries, [h]."""
        if places is None:
            items, column = self.distinct
            matrix = CsrMatrix.of_arrays(self.indptr, column, weight, len(items)).to(device)
            return HistorySums(torch.from_numpy(items).to(device), matrix.matmul)
        column, context = places.place[self.items], places.context
        matrix = CsrMatrix.of_arrays(self.indptr, column, weight, len(places.place)).to(device)
        everything = torch.arange(places.counts[context.rank], device=device)
        gathered = GatheredMatrix(matrix, places.counts, context, fixed=True)
        return HistorySums(everything, gathered.gather_matmul)


class HistoryGraph:
    """Users and the items of their histories, as models see them (`PropagationGraph`).

    Nodes are the u users, then m items; users alone are wanted. In `mean_of_states` the rows of
    items hold the sums of their states, see above. Between hops nothing is computed of items:
    what they pass on is handed in.

    Args:
        item_degree: [I] degrees of the whole training graph.
        degree_feature: [u] d̃ of the users at the lengths of their histories.
        messages: [i, D] what items pass on in each hop, for models that act between hops.
        places: None where one rank has all items.
    """

    def __init__(
        self,
        histories: Histories,
        item_degree: IntArray,
        degree_feature: Tensor,
        messages: Sequence[Tensor] = (),
        places: ItemPlaces | None = None,
    ) -> None:
        device = degree_feature.device
        items, column = histories.distinct
        self.num_users = len(histories.degree)
        own, theirs = (
            np.maximum(degree, 1).astype(np.float32) ** -0.5
            for degree in (histories.degree, item_degree[items])
        )
        self.hop = histories.weighted_sums(own[histories.user] * theirs[column], device, places)
        """What a hop brings the users, of the states of items, [i, D] → [u, D]."""
        num_items = len(self.hop.items)
        num_nodes = self.num_users + num_items
        self.is_user = torch.arange(num_nodes, device=device) < self.num_users
        self.degree_feature = torch.cat([degree_feature, degree_feature.new_zeros(num_items)])
        self.hops: list[Callable[[Tensor], Tensor]] = [
            partial(_from_items, self.hop, message) for message in messages
        ]

    def with_items(self, own_uD: Tensor, x_iD: Tensor) -> Tensor:
        """The users' rows, then those of the items that a hop takes. Shape: [u + m, D]."""
        return torch.cat([own_uD, x_iD.index_select(0, self.hop.items)])

    def select(self, x: Tensor) -> Tensor:
        """The users' rows. Shape: [u, …]."""
        return x[: self.num_users]

    def mean_of_states(self, x: Tensor, num_layers: int, items_only: bool = False) -> Tensor:
        """(x + … + Ã^L x) / (L + 1) of the users. Shape: [u + m, D] → [u, D].

        Collective: every rank must call.

        Args:
            x: states 0 of the users (not read if items_only), sums of states 0..L−1 of the items.
        """
        own = self.select(x)
        total = torch.zeros_like(own) if items_only else own
        if num_layers:
            total = total + self.hop.matmul(x[self.num_users :])
        return total / (num_layers + 1)


def _from_items(hop: HistorySums, message_iD: Tensor, _: Tensor) -> Tensor:
    """A hop to the users, whatever the states are that are handed in. Shape: [u, D]. Collective:
    every rank must call.
    """
    return hop(message_iD)
