"""`graph.placement: partitioned`: each rank maps the edges of its own nodes, and asks the owners
for all others.

A hop is one exchange: frontier ids go to the owners of the nodes, who sample and reply. What an
owner draws is a function of (key, node), so blocks are those of `replicated`. Everything here runs
in the prefetching thread, on its own way.

Legend: GB pairs of the global batch, b of this rank, P ranks, n nodes asked for, M shared
negatives.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.graph.ownership import by_owner
from recmind_dist.sampling.edge_masks import EdgeMask
from recmind_dist.sampling.graph_access import rank_slice
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import Drawn, LocalDraws, NeighborDraws, relabel
from recmind_dist.types import BoolArray, Int32Array, IntArray


class PartitionedGraph:
    """See `sampling.GraphAccess`: every rank calls each method in the same order with the same
    global batch.

    Which rank knows an edge is told by its position alone: offsets of rows are everybody's,
    neighbours the owner's.

    Args:
        rows: this rank's share; bounds: [P + 1] table rows of the ranks.
    """

    def __init__(self, rows: EdgeRows, bounds: IntArray, context: DistContext) -> None:
        self.rows, self._context = rows, context
        self._owners = Owners(rows.graph, bounds, context)

    def all_items(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `GraphAccess`. The owners of the users tell everybody: 4 bytes a pair of the global
        batch. Every rank must call.
        """
        order, counts = self._owners.deal(users)
        rank = self._context.rank
        mine = order[counts[:rank].sum() : counts[: rank + 1].sum()]
        place = edges[mine] - np.asarray(self.rows.graph.indptr)[users[mine]]
        own_items = self.rows.indices[self.rows.indptr[self.rows.rows_of(users[mine])] + place]
        items = np.empty(len(edges), np.int64)
        items[order] = self._owners.all_gather_values(own_items, counts)
        return items

    def hidden(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """See `GraphAccess`. Everybody has the pairs, each hides those that have an end with it;
        nothing is sent.
        """
        return EdgeMask.of_pairs(self.rows, users, items)

    def draws(self, hidden: EdgeMask) -> NeighborDraws:
        """See `GraphAccess`."""
        return PartitionedDraws(LocalDraws(self.rows, hidden), self._owners)

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """See `GraphAccess`. A user's owner, who knows the positives, draws for all pairs and sends
        each rank its own. Every rank must call.
        """
        owner, world = self._owners.of(users), self._context.world_size
        mine = np.flatnonzero(owner == self._context.rank)
        drawn = negatives.for_pairs(users[mine], mine, key, items).astype(np.int32)
        ends = [len(users) * (r + 1) // world for r in range(world)]
        send = np.diff(np.searchsorted(mine, ends), prepend=0)
        order, counts = self._owners.deal(users[rank_slice(len(users), self._context.rank, world)])
        out = np.empty((len(order), drawn.shape[1]), np.int64)
        out[order] = self._owners.exchange_values(drawn, send, counts)
        return out

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """See `GraphAccess`. The owners of the users reply with bits. Every rank must call."""
        world, width = self._context.world_size, -(-len(shared) // 8)
        wanted = [np.unique(users[rank_slice(len(users), r, world)]) for r in range(world)]
        mine = [w[self._owners.of(w) == self._context.rank] for w in wanted]
        order, counts = self._owners.deal(wanted[self._context.rank])
        if not len(shared):  # on no rank: they are the step's
            return np.zeros((len(order), 0), np.bool_)
        bits = np.packbits(negatives.positives_among(np.concatenate(mine), shared), axis=1)
        out = np.empty((len(order), width), np.uint8)
        out[order] = self._owners.exchange_values(bits, np.array([len(m) for m in mine]), counts)
        return np.unpackbits(out, axis=1, count=len(shared)).astype(np.bool_)


class PartitionedDraws:
    """See `sampling.NeighborDraws`: each rank draws for whoever asks, out of its own rows."""

    def __init__(self, local: LocalDraws, owners: "Owners") -> None:
        self._local, self._owners = local, owners

    def begin(self, hidden: EdgeMask) -> None:
        """See `NeighborDraws`; edges are those of the global batch."""
        self._local.begin(hidden)

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """See `NeighborDraws`. Every rank must call."""
        if self._owners.world_size == 1:
            return self._local.draw(n_id, fan_out, key, local_of)
        order, wanted = self._owners.deal(n_id)
        asked = self._owners.all_ask(n_id[order].astype(np.int32), wanted)
        runs = np.array([len(ids) for ids in asked])
        nodes = np.concatenate(asked).astype(np.int64)
        own_counts, own_scale, own_neighbours = self._local.answer(nodes, fan_out, key)
        # to each asker counts, scales and neighbours in one go: a word to others costs more than
        # its bytes
        ends = np.cumsum(runs)[:-1]
        answers = (own_counts, own_scale.view(np.int32), own_neighbours)
        cuts = (ends, ends, np.cumsum(_sums(own_counts, runs))[:-1])
        parts = zip(*(np.split(x, at) for x, at in zip(answers, cuts, strict=True)), strict=True)
        replies = [np.concatenate(part) for part in parts]
        told = self._owners.all_ask(
            np.concatenate(replies), np.array([len(reply) for reply in replies])
        )
        counts_in_order = np.concatenate([reply[:n] for reply, n in zip(told, wanted, strict=True)])
        scale_in_order = np.concatenate(
            [reply[n : 2 * n] for reply, n in zip(told, wanted, strict=True)]
        )
        neighbours = np.concatenate([reply[2 * n :] for reply, n in zip(told, wanted, strict=True)])
        starts, counts = np.empty(len(n_id), np.int64), np.empty(len(n_id), np.int32)
        scale = np.empty(len(n_id), np.float32)
        starts[order] = np.cumsum(counts_in_order, dtype=np.int64) - counts_in_order
        counts[order] = counts_in_order
        scale[order] = scale_in_order.view(np.float32)
        ids = _node_after_node(starts, counts, neighbours)
        return Drawn(counts, scale, ids, relabel(n_id, ids, local_of))

    def end(self) -> None:
        """See `NeighborDraws`."""
        self._local.end()


class Owners:
    """Who owns which node, and the exchanges of numbers with them.

    Args:
        bounds: [P + 1] table rows of the ranks.
    """

    def __init__(self, graph: Graph, bounds: IntArray, context: DistContext) -> None:
        self._graph, self._bounds, self._context = graph, bounds, context

    @property
    def world_size(self) -> int:
        return self._context.world_size

    def of(self, nodes: IntArray) -> IntArray:
        """The rank that owns each node. Shape: as `nodes`."""
        if self.world_size == 1:
            return np.zeros(len(nodes), np.int64)
        rows = np.asarray(self._graph.row_of_node)[nodes]
        found: IntArray = np.searchsorted(self._bounds, rows, side="right") - 1
        return found

    def deal(self, nodes: IntArray) -> tuple[IntArray, IntArray]:
        """Places of these nodes rank by rank, [n], and how many are each rank's, [P]."""
        order, starts = by_owner(np.asarray(self._graph.row_of_node)[nodes], self._bounds)
        return order, np.diff(starts)

    def all_ask(self, values: np.ndarray, send: IntArray) -> list[np.ndarray]:
        """As `exchange_values` where nobody knows what is sent here: what each rank sent, [P].
        Every rank must call.
        """
        self._context.traffic.add("ids", (len(send) - 1) * send.itemsize)
        return [x.numpy() for x in self._all_to_all(values, send, None)]

    def all_gather_values(self, values: np.ndarray, counts: IntArray) -> np.ndarray:
        """Every rank's values, in rank order, of which there are counts[r]. Every rank must call."""
        if self.world_size == 1:
            return values
        self._context.traffic.add("ids", (self.world_size - 1) * values.nbytes)
        with collective("the exchange of sampled neighbours"):
            told = self._context.id_transport.all_gather(
                torch.from_numpy(np.ascontiguousarray(values)), counts.tolist()
            )
            return torch.cat(told).numpy()

    def exchange_values(self, values: np.ndarray, send: IntArray, receive: IntArray) -> np.ndarray:
        """Uneven all-to-all along the first dimension: send[r] of `values` go to rank r. Every rank
        must call.
        """
        if self.world_size == 1:
            return values
        return torch.cat(self._all_to_all(values, send, receive.tolist())).numpy()

    def _all_to_all(
        self, values: np.ndarray, send: IntArray, receive: list[int] | None
    ) -> list[Tensor]:
        """What each rank sent, [P]. Every rank must call."""
        given = torch.from_numpy(np.ascontiguousarray(values))
        own = int(send[self._context.rank])
        self._context.traffic.add("ids", (len(given) - own) * (given.nbytes // max(len(given), 1)))
        with collective("the exchange of sampled neighbours"):
            return self._context.id_transport.all_to_all(given, send.tolist(), receive)


@njit(cache=True, nogil=True)
def _node_after_node(starts, counts, neighbours):  # type: ignore[no-untyped-def]
    """Neighbours as they arrived from the owners → in the order in which the nodes were asked for."""
    out = np.empty(len(neighbours), np.int32)
    at = 0
    for k in range(len(starts)):
        for e in range(starts[k], starts[k] + counts[k]):
            out[at] = neighbours[e]
            at += 1
    return out


def _sums(values: np.ndarray, runs: IntArray) -> IntArray:
    """Sums over consecutive runs of values. Shape: as `runs`."""
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(runs)
    found: IntArray = total[ends] - total[ends - runs]
    return found
