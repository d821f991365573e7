"""`graph.placement: partitioned`: each rank maps the edges of its own nodes.

A hop is one exchange: frontier ids go to the owners of the nodes, who sample and reply. Draws are a
function of (key, node), so blocks are those of `replicated`. Everything here runs in the
prefetching thread, over `DistContext.id_transport`.

Legend: b pairs of this rank, P ranks, n nodes.
"""

from collections.abc import Callable

import numpy as np

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import EdgeRows
from recmind_dist.kernels.neighbor_draws import relabel
from recmind_dist.sampling.edge_masks import EdgeMask, newest_edges, withheld_edges
from recmind_dist.sampling.graph_access import (
    PairLookup,
    Pairs,
    WholeGraph,
    WholeLookup,
    gather_counts,
    share_sizes,
)
from recmind_dist.sampling.neighbor_sampler import Drawn, LocalDraws, NeighborDraws
from recmind_dist.sampling.newest_items import Newest, NewestItems
from recmind_dist.sampling.owners import Owners, pack, runs_of, unpack
from recmind_dist.sampling.shares import Share
from recmind_dist.types import BoolArray, IndexArray, Int32Array, IntArray


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
        """See `GraphAccess`. The users' owners send 4 bytes an edge to every rank.

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
        """See `GraphAccess`. Each rank masks them in its rows."""
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

    def draws(self, heldout: EdgeMask, degree: IndexArray) -> NeighborDraws:
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
        asked, sizes = owners.all_to_all(users[order].astype(np.int32), sent)
        found = newest.of_users(asked.astype(np.int64), count)
        of_edges = np.stack([found.items, found.weight.view(np.int32)])
        nothing = np.empty((0, len(asked)), np.int32)
        messages, lengths = owners.all_to_all(*pack(sizes, found.counts, nothing, of_edges))
        (counts,), starts = unpack(messages, lengths, sent, order, 1, 2)
        items, weight = (runs_of(messages, x, counts) for x in starts)
        return Newest(counts, items, weight.view(np.float32))

    def look_up(self, share: Share, users: IntArray) -> PairLookup:
        """See `GraphAccess`. Collective: every rank must call."""
        return PartitionedLookup(self.rows, self._owners, share, users)

    def gather_counts(self, count: Callable[[int], IntArray]) -> IntArray:
        """See `GraphAccess`. Collective: every rank must call."""
        return gather_counts(count, self._context)


class OwnerMaskedGraph(WholeGraph):
    """`replicated`, where several ranks hide the edges of their batches from each other.

    A rank would have to know the pairs of all others. So those that own an edge's ends are told of
    it, and they draw the neighbours, as if the graph were partitioned.
    """

    def __init__(self, rows: EdgeRows, bounds: IntArray, context: DistContext) -> None:
        super().__init__(rows.graph, context.rank, context.world_size, context)
        self._owners = Owners(rows.graph, bounds, context)

    def draws(self, heldout: EdgeMask, degree: IndexArray) -> NeighborDraws:
        """See `GraphAccess`."""
        return PartitionedDraws(LocalDraws(self.rows, heldout, degree), self._owners)

    def look_up(self, share: Share, users: IntArray) -> PairLookup:
        """See `GraphAccess`."""
        return HidingLookup(self.rows, self._owners, share, users)


class HidingLookup(WholeLookup):
    """See `PairLookup`: rows are here, but the owners of an edge's ends mask it."""

    def __init__(self, rows: EdgeRows, owners: Owners, share: Share, users: IntArray) -> None:
        super().__init__(rows, share, users)
        self._owners = owners

    def mask(self, items: IntArray) -> EdgeMask:
        """See `PairLookup`. Collective: every rank must call."""
        users = self._pairs.users
        ends, others = np.concatenate([users, items]), np.concatenate([items, users])
        return EdgeMask.of_ends(self._rows, *_tell_owners(self._owners, ends, others))


class PartitionedLookup:
    """See `PairLookup`. Each pair is sent to its user's owner, in 12 bytes.

    Collective: every rank must make one.
    """

    def __init__(self, rows: EdgeRows, owners: Owners, share: Share, users: IntArray) -> None:
        self._rows, self._owners = rows, owners
        self._users, self._total = users, share.total
        self._order, self._sent = owners.sort(users)
        place = share.edges - np.asarray(rows.graph.indptr)[users]
        pairs = np.stack([users, place, share.input_id], 1)[self._order]
        received, self._received = owners.all_to_all(pairs.astype(np.int32), self._sent)
        of_user, place, input_id = np.ascontiguousarray(received.T, np.int64)
        items = rows.indices[rows.indptr[rows.rows_of(of_user)] + place].astype(np.int64)
        self._pairs = Pairs(of_user, items, input_id)

    def map_pairs(self, answer: Callable[[Pairs], IntArray]) -> IntArray:
        """See `PairLookup`. Collective: every rank must call."""
        replies = answer(self._pairs).astype(np.int32)
        got, _ = self._owners.all_to_all(replies, self._received, self._sent)
        out = np.empty(got.shape, np.int64)
        out[self._order] = got
        return out

    def map_users(self, answer: Callable[[IntArray], BoolArray]) -> BoolArray:
        """See `PairLookup`. Owners send bits. Collective: every rank must call.

        Both sides know which of the pairs are the first of their user.
        """
        first, send = _first_of_users(self._pairs.users, self._received)
        answers = answer(self._pairs.users[first])
        bits = np.packbits(answers, axis=1)
        users = self._users[self._order]
        own_first, receive = _first_of_users(users, self._sent)
        got, _ = self._owners.all_to_all(bits, send, receive)
        out = got[np.argsort(users[own_first])]
        return np.unpackbits(out, axis=1, count=answers.shape[1]).astype(np.bool_)

    def mask(self, items: IntArray) -> EdgeMask:
        """See `PairLookup`. Items' owners are told too: 8 bytes a pair.

        Collective: every rank must call.
        """
        of_items = _tell_owners(self._owners, items, self._users)
        ends, others = zip((self._pairs.users, self._pairs.items), of_items, strict=True)
        return EdgeMask.of_ends(self._rows, np.concatenate(ends), np.concatenate(others))

    def gather_items(self, items: IntArray) -> IntArray:
        """See `PairLookup`. Collective: every rank must call."""
        counts = share_sizes(self._total, self._owners.world_size)
        return self._owners.all_gather(items.astype(np.int32), counts).astype(np.int64)


def _tell_owners(owners: Owners, ends: IntArray, others: IntArray) -> tuple[IntArray, IntArray]:
    """The edges that any rank told of, of which this one owns the first end.

    Collective: every rank must call.

    Args:
        ends, others: [n] global ids of the edges' ends.

    Returns: both ends of each.
    """
    order, counts = owners.sort(ends)
    edges = np.stack([ends, others], 1)[order].astype(np.int32)
    told = owners.all_to_all(edges, counts)[0].astype(np.int64)
    return told[:, 0], told[:, 1]


def _first_of_users(users: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray]:
    """Positions of the first pair of each user within each rank's part, ascending, and how many
    each part has, [P].

    Args:
        users: [n] of pairs, part after part.
        sizes: [P] pairs of each part.
    """
    part = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    most = int(users.max(initial=0)) + 1
    first = np.sort(np.unique(part * most + users, return_index=True)[1])
    return first, np.bincount(part[first], minlength=len(sizes))


class PartitionedDraws:
    """See `NeighborDraws`: each rank draws from its own rows for every rank."""

    def __init__(self, local: LocalDraws, owners: Owners) -> None:
        self._local, self._owners = local, owners

    def begin(self, batch_mask: EdgeMask) -> None:
        """See `NeighborDraws`."""
        self._local.begin(batch_mask)

    def draw(self, n_id: IntArray, fan_out: int, key: int, local_of: Int32Array) -> Drawn:
        """See `NeighborDraws`. Collective: every rank must call."""
        if self._owners.world_size == 1:
            return self._local.draw(n_id, fan_out, key, local_of)
        order, sent = self._owners.sort(n_id)
        asked, sizes = self._owners.all_to_all(n_id[order].astype(np.int32), sent)
        drawn = self._local.draw_global_ids(asked.astype(np.int64), fan_out, key)
        counts, scale, neighbours = drawn
        packed = pack(sizes, counts, scale.view(np.int32)[None], neighbours[None])
        messages, lengths = self._owners.all_to_all(*packed)
        (counts, scale), (starts,) = unpack(messages, lengths, sent, order, 2, 1)
        local, every = relabel(n_id, messages, starts, counts, local_of)
        return Drawn(counts, scale.view(np.float32), local, every)

    def end(self) -> None:
        """See `NeighborDraws`."""
        self._local.end()
