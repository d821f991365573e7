"""Text vectors of a rank's nodes. Ranks take turns at the blocks of the store: one of them reads,
verifies and whitens a block, and its rows go to their owners.

Legend: n rows of this rank, b rows of a block, T dims of whitened texts, P ranks.
"""

from collections.abc import Iterator

import numpy as np
import torch

from recmind_dist.distributed.all_gather import counts_of_ranks
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import StoreError
from recmind_dist.graph import Graph
from recmind_dist.text import TextStore, Whitening
from recmind_dist.text.store import HalfArray, remedy_of
from recmind_dist.types import BoolArray, IntArray

_BLOCK_ROWS = 65_536
Blocks = list[tuple[int, int]]
"""Rows [start, stop) of a side of the store for each rank, [P]; start is stop where it has none."""


def read_own_vectors(
    graph: Graph,
    store: TextStore,
    whitening: Whitening,
    nodes: IntArray,
    bounds: IntArray,
    context: DistContext,
    items: TextStore | None = None,
) -> tuple[HalfArray, BoolArray]:
    """Whitened vectors of `nodes`, [n, T] float16, and which have no text, [n].

    Collective: every rank must call.

    Args:
        items: a store of whitened item vectors, read in place of the items in `store`.
        nodes: [n] this rank's, in row order.
        bounds: [P + 1] table rows of the ranks.
    Raises:
        StoreError: the store is damaged, or of another graph; on every rank.
    """
    out = np.zeros((len(nodes), whitening.dim), np.float16)
    by_node = np.argsort(nodes)
    for source, side, first, blocks in _turns(graph, store, items, context.world_size):
        start, stop = blocks[context.rank]
        order, send = _by_owner(graph, first + start, first + stop, bounds)
        whiten = whitening if source is store else None
        vectors = _read(source, whiten, side, blocks, order, context)
        ends = np.searchsorted(nodes, np.array(blocks) + first, sorter=by_node)
        places = [np.sort(by_node[slice(*end)]) for end in ends]
        if context.world_size == 1:
            out[places[0]] = vectors
            continue
        x, receive = torch.from_numpy(vectors).to(context.device), [len(place) for place in places]
        parts = context.all_to_all_rows(x, send, receive, "rows")
        for place, part in zip(places, parts, strict=True):
            out[place] = part.cpu().numpy()
    absent = np.isnan(out[:, 0])
    out[absent] = 0.0
    return out, absent


def store_key(store: TextStore, context: DistContext) -> str:
    """`TextStore.content_key` as rank 0 reads it, the same on every rank.

    Collective: every rank must call.

    Raises:
        StoreError: the ledger is damaged; on every rank.
    """
    key, fault = "", None
    if context.rank == 0:
        try:
            key = store.content_key()
        except StoreError as error:
            fault = error
    key = context.broadcast_str(key)
    if not key:
        raise fault or StoreError(
            f"{store.path}: its ledger cannot be read, as rank 0 says: {remedy_of(store.path)}"
        )
    return key


def _turns(
    graph: Graph, of_users: TextStore, of_items: TextStore | None, world_size: int
) -> Iterator[tuple[TextStore, str, int, Blocks]]:
    """Store, side, its first node, and the blocks that the ranks read at a time: the same on every
    rank.

    The blocks of a shard are one rank's, so that it is verified once.
    """
    for store, side, first, num_rows in (
        (of_users, "users", 0, graph.num_users),
        (of_items or of_users, "items", graph.num_users, graph.num_items),
    ):
        if store.num_rows(side) != num_rows:
            raise StoreError(
                f"{store.path}: {store.num_rows(side)} {side}, the graph has {num_rows}: "
                f"{remedy_of(store.path)}"
            )
        run = max(1, store.shard_rows(side) // _BLOCK_ROWS) * _BLOCK_ROWS
        for turn in range(0, num_rows, run * world_size):
            for at in range(turn, turn + run, _BLOCK_ROWS):
                starts = [at + rank * run for rank in range(world_size)]
                ends = [(s, s + _BLOCK_ROWS) for s in starts]
                yield store, side, first, [(min(s, num_rows), min(e, num_rows)) for s, e in ends]


def _by_owner(graph: Graph, first: int, last: int, bounds: IntArray) -> tuple[IntArray, list[int]]:
    """Nodes [first, last) in table order, counted from `first`, and how many each rank owns."""
    rows = np.asarray(graph.row_of_node[first:last])
    order = np.argsort(rows)
    return order, np.diff(np.searchsorted(rows[order], bounds)).tolist()


def _read(
    store: TextStore,
    whitening: Whitening | None,
    side: str,
    blocks: Blocks,
    order: IntArray,
    context: DistContext,
) -> HalfArray:
    """This rank's block in `order`, whitened where it is not yet, NaN where there is no text.
    Shape: [b, T].

    Collective: every rank must call. Raises StoreError on every rank if one cannot read.
    """
    fault: StoreError | None = None
    vectors = np.empty((len(order), whitening.dim if whitening else store.dim), np.float16)
    try:
        raw = store.read(side, *blocks[context.rank])[order]
        vectors[:] = whitening.apply(side, raw) if whitening else raw
        vectors[np.isnan(raw[:, 0])] = np.nan
    except StoreError as error:
        fault = error
    faulty = counts_of_ranks(int(fault is not None), context)
    if any(faulty):
        start, stop = blocks[faulty.index(1)]
        raise fault or StoreError(
            f"{store.path}: rows {start} to {stop - 1} of {side} cannot be read, as rank "
            f"{faulty.index(1)} says: {remedy_of(store.path)}"
        )
    return vectors
