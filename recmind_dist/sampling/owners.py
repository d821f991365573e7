"""The owners of nodes, and the exchanges of numbers with them.

Nothing here loops over ranks but compiled code: with a thousand of them Python would take longer
than sampling.

Legend: P ranks, n nodes, e values of all nodes' edges.
"""

import numpy as np
import torch
from numba import njit

from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.graph import Graph
from recmind_dist.graph.ownership import by_owner
from recmind_dist.types import Int32Array, IntArray


class Owners:
    """Exchanges over `DistContext.id_transport`, in the prefetching thread.

    Args:
        bounds: [P + 1] table rows of the ranks.
    """

    def __init__(self, graph: Graph, bounds: IntArray, context: DistContext) -> None:
        self._graph, self._bounds, self._context = graph, bounds, context

    @property
    def world_size(self) -> int:
        return self._context.world_size

    def sort(self, nodes: IntArray) -> tuple[IntArray, IntArray]:
        """Positions of `nodes` in the order of their owners, [n], and the count of each, [P]."""
        order, starts = by_owner(np.asarray(self._graph.row_of_node)[nodes], self._bounds)
        return order, np.diff(starts)

    def all_gather(self, values: np.ndarray, counts: IntArray) -> np.ndarray:
        """The values of all ranks, counts[r] of each, in rank order.

        Collective: every rank must call.
        """
        return all_gather_ids(values, counts, self._context)

    def all_to_all(
        self, values: np.ndarray, send: IntArray, receive: IntArray | None = None
    ) -> tuple[np.ndarray, IntArray]:
        """Uneven all-to-all along the first dimension. Collective: every rank must call.

        Args:
            values: those for rank 0 first.
            send: [P] number of values for each rank.
            receive: [P] number of values from each rank. Default: the ranks exchange it first.

        Returns: what all ranks sent, in rank order, and the number of each, [P].
        """
        if self.world_size == 1:
            return values, send
        given = torch.from_numpy(np.ascontiguousarray(values))
        away = len(given) - int(send[self._context.rank])
        sizes = 0 if receive is not None else (len(send) - 1) * send.itemsize
        sent = away * (given.nbytes // max(len(given), 1)) + sizes
        self._context.traffic.add("ids", self._context.id_transport.legs * sent)
        counts = None if receive is None else receive.tolist()
        with collective("the exchange of sampled neighbours"):
            got, counts = self._context.id_transport.all_to_all_single(given, send.tolist(), counts)
            return got.numpy(), np.array(counts, np.int64)


def all_gather_ids(values: np.ndarray, counts: IntArray, context: DistContext) -> np.ndarray:
    """The values of all ranks, counts[r] of each, in rank order. Collective: every rank must call.

    Args:
        values: [counts[rank], ...], in the prefetching thread.
    """
    if context.world_size == 1:
        return values
    context.traffic.add("ids", (context.world_size - 1) * values.nbytes)
    with collective("the exchange of ids of the batch"):
        given = torch.from_numpy(np.ascontiguousarray(values))
        return torch.cat(context.id_transport.all_gather(given, counts.tolist())).numpy()


def pack(
    sizes: IntArray, counts: Int32Array, of_nodes: np.ndarray, of_edges: np.ndarray
) -> tuple[Int32Array, IntArray]:
    """One message to each rank: its nodes' counts, their values, the values of their edges.

    Counts and values go in one message: a message costs more than its bytes.

    Args:
        sizes: [P] nodes that each rank asked for.
        counts: [n] edges of each node, in the order of the ranks.
        of_nodes: int32 [k, n].
        of_edges: int32 [m, e].

    Returns: the messages, rank after rank, and the length of each, [P].
    """
    found: tuple[Int32Array, IntArray] = _pack(sizes, np.vstack([counts[None], of_nodes]), of_edges)
    return found


def unpack(
    messages: Int32Array,
    lengths: IntArray,
    sizes: IntArray,
    order: IntArray,
    num_of_nodes: int,
    num_of_edges: int,
) -> tuple[Int32Array, IntArray]:
    """Finds in the messages of all owners what `pack` put there.

    Args:
        messages: owner after owner.
        lengths: [P] of the messages.
        sizes: [P] nodes that each owner was asked for.
        order: [n] the nodes' positions, owner after owner.
        num_of_nodes: k + 1, the counts among them.
        num_of_edges: m.

    Returns: counts and values of the nodes, [k + 1, n], and where in `messages` the values of each
    one's edges start, [m, n].
    """
    found: tuple[Int32Array, IntArray] = _unpack(
        messages, lengths, sizes, order, num_of_nodes, num_of_edges
    )
    return found


@njit(cache=True, nogil=True)
def _pack(sizes, of_nodes, of_edges):  # type: ignore[no-untyped-def]
    out = np.empty(of_nodes.size + of_edges.size, np.int32)
    lengths = np.empty(len(sizes), np.int64)
    node, edge, at = 0, 0, 0
    for p in range(len(sizes)):
        start, size = at, sizes[p]
        edges = np.sum(of_nodes[0, node : node + size])
        for k in range(len(of_nodes)):
            out[at : at + size] = of_nodes[k, node : node + size]
            at += size
        for m in range(len(of_edges)):
            out[at : at + edges] = of_edges[m, edge : edge + edges]
            at += edges
        node += size
        edge += edges
        lengths[p] = at - start
    return out, lengths


@njit(cache=True, nogil=True)
def _unpack(messages, lengths, sizes, order, num_of_nodes, num_of_edges):  # type: ignore[no-untyped-def]
    of_nodes = np.empty((num_of_nodes, len(order)), np.int32)
    starts = np.empty((num_of_edges, len(order)), np.int64)
    node, at = 0, 0
    for p in range(len(sizes)):
        size = sizes[p]
        edges = (lengths[p] - num_of_nodes * size) // num_of_edges
        first = at + num_of_nodes * size
        for i in range(size):
            k = order[node + i]
            for j in range(num_of_nodes):
                of_nodes[j, k] = messages[at + j * size + i]
            for m in range(num_of_edges):
                starts[m, k] = first + m * edges
            first += of_nodes[0, k]
        node += size
        at += lengths[p]
    return of_nodes, starts


@njit(cache=True, nogil=True)
def runs_of(messages, starts, counts):  # type: ignore[no-untyped-def]
    """messages[starts[k] : starts[k] + counts[k]], one k after the other. int32."""
    out = np.empty(counts.sum(), np.int32)
    at = 0
    for k in range(len(starts)):
        for e in range(starts[k], starts[k] + counts[k]):
            out[at] = messages[e]
            at += 1
    return out
