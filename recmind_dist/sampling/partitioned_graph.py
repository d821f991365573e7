"""`graph.placement: partitioned`: each rank maps the edges of its own nodes.

A hop is one exchange: frontier ids go to the owners of the nodes, who sample and reply. Draws are a
function of (key, node), so blocks are those of `replicated`. Everything here runs in the
prefetching thread, over `DistContext.id_transport`.

Legend: GB pairs of the global batch, b of this rank, P ranks, n nodes, M shared negatives.
"""

import numpy as np
import torch
from numba import njit

from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.graph.ownership import by_owner
from recmind_dist.sampling.edge_masks import EdgeMask, newest_edges, withheld_edges
from recmind_dist.sampling.graph_access import rank_slice
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import Drawn, LocalDraws, NeighborDraws, relabel
from recmind_dist.sampling.newest_items import Newest, NewestItems
from recmind_dist.types import BoolArray, Int32Array, IntArray


class PartitionedGraph:
    """See `GraphAccess`. Every rank maps all `indptr`; the neighbours are only with their owner.

    Args:
        rows: edges of this rank's nodes.
        bounds: [P + 1] table rows of the ranks.
    """

    def __init__(self, rows: EdgeRows, bounds: IntArray, context: DistContext) -> None:
        self.rows, self._context = rows, context
        self._owners = Owners(rows.graph, bounds, context)

    def items_of_edges(self, edges: IntArray, users: IntArray) -> IntArray:
        """See `GraphAccess`. The users' owners send 4 bytes a pair to every rank.

        Collective: every rank must call.
        """
        order, counts = self._owners.sort(users)
        rank = self._context.rank
        mine = order[counts[:rank].sum() : counts[: rank + 1].sum()]
        position = edges[mine] - np.asarray(self.rows.graph.indptr)[users[mine]]
        own_items = self.rows.indices[self.rows.indptr[self.rows.rows_of(users[mine])] + position]
        items = np.empty(len(edges), np.int64)
        items[order] = self._owners.all_gather(own_items, counts)
        return items

    def mask_edges(self, users: IntArray, items: IntArray, edges: IntArray) -> EdgeMask:
        """See `GraphAccess`. Each rank knows the pairs and masks them in its rows."""
        return EdgeMask.of_pairs(self.rows, users, items)

    def heldout_edges(self, share: float, seed: int, withheld_items: float = 0.0) -> IntArray:
        """See `GraphAccess`. Ranks send 8 bytes for each edge of their users that is withheld.

        Collective: every rank must call.
        """
        newest = newest_edges(self.rows.graph, self.rows.newest(), share, seed)
        if withheld_items == 0:  # a setting: the same on every rank
            return newest
        withheld = withheld_edges(self.rows, withheld_items, seed)
        ones = np.ones(self._owners.world_size, np.int64)
        counts = self._owners.all_gather(np.array([len(withheld)]), ones)
        return np.union1d(newest, self._owners.all_gather(withheld, counts))

    def draws(self, heldout: EdgeMask, degree: IntArray) -> NeighborDraws:
        """See `GraphAccess`."""
        return PartitionedDraws(LocalDraws(self.rows, heldout, degree), self._owners)

    def newest_items(self, users: IntArray, newest: NewestItems, count: int) -> Newest:
        """See `GraphAccess`. The users' owners send 8 bytes an item. Collective: every rank must
        call.
        """
        owners = self._owners
        if owners.world_size == 1:
            return newest.of_users(users, count)
        order, sent = owners.sort(users)
        requests = owners.all_to_all(users[order].astype(np.int32), sent)
        sizes = np.array([len(ids) for ids in requests])
        found = newest.of_users(np.concatenate(requests).astype(np.int64), count)
        replies = owners.all_to_all(
            *_by_requester(sizes, found.counts, [], [found.items, found.weight.view(np.int32)])
        )
        counts_by_owner, items, weight = [], [], []
        for reply, n in zip(replies, sent, strict=True):
            counts_by_owner.append(reply[:n])
            both = reply[n:].reshape(2, -1)
            items.append(both[0])
            weight.append(both[1])
        by_owner = np.concatenate(counts_by_owner)
        starts, counts = np.empty(len(users), np.int64), np.empty(len(users), np.int32)
        starts[order] = np.cumsum(by_owner, dtype=np.int64) - by_owner
        counts[order] = by_owner
        in_order = [_in_order(starts, counts, np.concatenate(x)) for x in (items, weight)]
        return Newest(counts, in_order[0], in_order[1].view(np.float32))

    def draw_negatives(
        self, negatives: NegativeSampler, users: IntArray, items: IntArray, key: int
    ) -> IntArray:
        """See `GraphAccess`. A user's owner knows the positives and draws for all their pairs.

        Collective: every rank must call.
        """
        rank, world = self._context.rank, self._context.world_size
        mine = np.flatnonzero(self._owners.of(users) == rank)
        drawn = negatives.for_pairs(users[mine], mine, key, items).astype(np.int32)
        ends = [len(users) * (r + 1) // world for r in range(world)]
        send = np.diff(np.searchsorted(mine, ends), prepend=0)
        order, counts = self._owners.sort(users[rank_slice(len(users), rank, world)])
        out = np.empty((len(order), drawn.shape[1]), np.int64)
        out[order] = np.concatenate(self._owners.all_to_all(drawn, send, counts))
        return out

    def are_positives(
        self, negatives: NegativeSampler, users: IntArray, shared: IntArray
    ) -> BoolArray:
        """See `GraphAccess`. The users' owners send bits. Collective: every rank must call."""
        rank, world = self._context.rank, self._context.world_size
        distinct = [np.unique(users[rank_slice(len(users), r, world)]) for r in range(world)]
        order, counts = self._owners.sort(distinct[rank])
        if not len(shared):  # the shared items are the same on every rank
            return np.zeros((len(order), 0), np.bool_)
        mine = [ids[self._owners.of(ids) == rank] for ids in distinct]
        bits = np.packbits(negatives.positives_among(np.concatenate(mine), shared), axis=1)
        send = np.array([len(ids) for ids in mine])
        out = np.empty((len(order), bits.shape[1]), np.uint8)
        out[order] = np.concatenate(self._owners.all_to_all(bits, send, counts))
        return np.unpackbits(out, axis=1, count=len(shared)).astype(np.bool_)


class PartitionedDraws:
    """See `NeighborDraws`: each rank draws from its own rows for every rank."""

    def __init__(self, local: LocalDraws, owners: "Owners") -> None:
        self._local, self._owners = local, owners

    def begin(self, batch_mask: EdgeMask) -> None:
        """See `NeighborDraws`."""
        self._local.begin(batch_mask)

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """See `NeighborDraws`. Collective: every rank must call."""
        if self._owners.world_size == 1:
            return self._local.draw(n_id, fan_out, key, local_of)
        order, sent = self._owners.sort(n_id)
        requests = self._owners.all_to_all(n_id[order].astype(np.int32), sent)
        replies = self._owners.all_to_all(*self._reply(requests, fan_out, key))
        # each reply holds counts, scales and neighbours of the nodes that its owner was sent
        parts = [np.split(reply, [n, 2 * n]) for reply, n in zip(replies, sent, strict=True)]
        counts_by_owner, scale_by_owner, neighbours = (
            np.concatenate(x) for x in zip(*parts, strict=True)
        )
        starts, counts = np.empty(len(n_id), np.int64), np.empty(len(n_id), np.int32)
        scale = np.empty(len(n_id), np.float32)
        starts[order] = np.cumsum(counts_by_owner, dtype=np.int64) - counts_by_owner
        counts[order] = counts_by_owner
        scale[order] = scale_by_owner.view(np.float32)
        ids = _in_order(starts, counts, neighbours)
        return Drawn(counts, scale, ids, relabel(n_id, ids, local_of))

    def _reply(
        self, requests: list[np.ndarray], fan_out: int, key: int
    ) -> tuple[np.ndarray, IntArray]:
        """What each rank gets for the nodes that it sent, rank after rank, and the lengths, [P].

        Counts, scales and neighbours go in one message: a message costs more than its bytes.
        """
        sizes = np.array([len(ids) for ids in requests])
        nodes = np.concatenate(requests).astype(np.int64)
        counts, scale, neighbours = self._local.draw_global_ids(nodes, fan_out, key)
        return _by_requester(sizes, counts, [scale.view(np.int32)], [neighbours])

    def end(self) -> None:
        """See `NeighborDraws`."""
        self._local.end()


class Owners:
    """The owners of nodes, and the exchanges of numbers with them.

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

    def sort(self, nodes: IntArray) -> tuple[IntArray, IntArray]:
        """Positions of `nodes` in the order of their owners, [n], and the count of each, [P]."""
        order, starts = by_owner(np.asarray(self._graph.row_of_node)[nodes], self._bounds)
        return order, np.diff(starts)

    def all_gather(self, values: np.ndarray, counts: IntArray) -> np.ndarray:
        """The values of all ranks, counts[r] of each, in rank order.

        Collective: every rank must call.
        """
        if self.world_size == 1:
            return values
        self._context.traffic.add("ids", (self.world_size - 1) * values.nbytes)
        with collective("the exchange of sampled neighbours"):
            parts = self._context.id_transport.all_gather(
                torch.from_numpy(np.ascontiguousarray(values)), counts.tolist()
            )
            return torch.cat(parts).numpy()

    def all_to_all(
        self, values: np.ndarray, send: IntArray, receive: IntArray | None = None
    ) -> list[np.ndarray]:
        """What each rank sent, [P]: uneven all-to-all along the first dimension.

        Collective: every rank must call.

        Args:
            values: those for rank 0 first.
            send: [P] number of values for each rank.
            receive: [P] number of values from each rank. Default: the ranks exchange it first.
        """
        if self.world_size == 1:
            return [values]
        given = torch.from_numpy(np.ascontiguousarray(values))
        away = len(given) - int(send[self._context.rank])
        sizes = 0 if receive is not None else (len(send) - 1) * send.itemsize
        self._context.traffic.add("ids", away * (given.nbytes // max(len(given), 1)) + sizes)
        counts = None if receive is None else receive.tolist()
        with collective("the exchange of sampled neighbours"):
            parts = self._context.id_transport.all_to_all(given, send.tolist(), counts)
            return [x.numpy() for x in parts]


def _by_requester(
    sizes: IntArray, counts: Int32Array, of_nodes: list[np.ndarray], of_edges: list[np.ndarray]
) -> tuple[np.ndarray, IntArray]:
    """One message to each rank: counts, then values, of the nodes that it asked for.

    Args:
        sizes: [P] nodes that each rank asked for.
        counts: [n] edges of each node, in the order of the ranks.
        of_nodes: int32 values [n] each.
        of_edges: int32 values [sum(counts)] each.

    Returns: the messages, rank after rank, and the length of each, [P].
    """
    ends = np.cumsum(sizes)[:-1]
    edge_ends = np.append(0, np.cumsum(counts, dtype=np.int64))[ends]
    parts = [np.split(x, ends) for x in (counts, *of_nodes)]
    parts += [np.split(x, edge_ends) for x in of_edges]
    messages = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return np.concatenate(messages), np.array([len(message) for message in messages])


@njit(cache=True, nogil=True)
def _in_order(starts, counts, neighbours):  # type: ignore[no-untyped-def]
    """Neighbours in the order of their nodes, from the order in which the owners sent them."""
    out = np.empty(len(neighbours), np.int32)
    at = 0
    for k in range(len(starts)):
        for e in range(starts[k], starts[k] + counts[k]):
            out[at] = neighbours[e]
            at += 1
    return out
