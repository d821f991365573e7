"""Batches whose shapes are always the same, so that a CUDA graph can make them.

Each part has room for as many as there can be: every row of a hop has as many edges as its fan-out.
What is left over is read with weight 0. Without the room the batches are those of `DeviceLoader`,
bit for bit.

Legend: B pairs, K negatives of a pair, N nodes of the graph, n rows of a hop, F its fan-out, L
hops.
"""

from itertools import pairwise

import torch
from torch import Tensor

from recmind_dist.kernels.device_draws import Pool, draw_positions, draw_unseen
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.triton_modules import triton_padded
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.batch import Batch
from recmind_dist.sampling.device_graph import DeviceGraph, MaskedEntries

_NEVER_MET = torch.iinfo(torch.int32).max


def rows_of_hops(num_seeds: int, fan_outs: tuple[int, ...], num_nodes: int) -> list[int]:
    """Most nodes before the first hop and after each one. Shape: [L + 1]."""
    rows = [min(num_seeds, num_nodes)]
    for fan_out in fan_outs:
        rows.append(min(rows[-1] * (1 + fan_out), num_nodes))
    return rows


class PaddedBatches:
    """Makes batches of plain pairs of one rank.

    Args:
        graph: on the device.
        fan_outs: of the hops, all above 0.
        batch_size: B.
        pool: what negatives are drawn from.
        num_negatives: K.
        hides: whether a batch's own edges are left out.
    """

    def __init__(
        self,
        graph: DeviceGraph,
        fan_outs: tuple[int, ...],
        batch_size: int,
        pool: Pool,
        num_negatives: int,
        hides: bool,
    ) -> None:
        self._graph, self._fan_outs, self._pool = graph, fan_outs, pool
        self._num_negatives, self._hides = num_negatives, hides
        num_seeds = batch_size * (2 + num_negatives)
        self._rows = rows_of_hops(num_seeds, fan_outs, graph.num_nodes)
        device = graph.device
        self._input_id = torch.arange(batch_size, device=device)
        # a node more, for what is no node
        shape = (graph.num_nodes + 1,)
        self._local_of = torch.full(shape, -1, dtype=torch.int32, device=device)
        self._met_first = torch.empty(graph.num_nodes, dtype=torch.int32, device=device)
        self._shapes = [
            _shape_of_hop(rows, fan_out, device)
            for rows, fan_out in zip(self._rows, fan_outs, strict=False)
        ]

    @staticmethod
    def keys(batch_key: int, num_hops: int) -> list[int]:
        """Stream keys of a batch's draws: of its negatives, and of each hop."""
        hops = stream_key(batch_key, "neighbours")
        found = [stream_key(hops, "hop", hop) for hop in range(num_hops)]
        return [stream_key(batch_key, "negatives"), *found]

    def make(self, edges: Tensor, keys: Tensor) -> Batch:
        """The batch of these training edges; the host does not wait.

        Args:
            edges: [B] positions in the user half.
            keys: [1 + L] of `keys`, as int64.
        """
        graph = self._graph
        users, items = graph.users_of(edges), graph.items_of(edges)
        drawn_for = graph.indptr, graph.indices, users, self._input_id, self._pool
        negatives = draw_unseen(*drawn_for, self._num_negatives, keys[0])
        needed = torch.cat([users, items, negatives.flatten()])
        n_id, local, num_nodes = self._seeds(needed)
        masked = MaskedEntries.of(edges[:0])
        if self._hides:
            masked = graph.entries_of(edges)
        hops = list[Hop]()
        for hop, (fan_out, (rows, cols)) in enumerate(
            zip(self._fan_outs, pairwise(self._rows), strict=True)
        ):
            given = n_id, num_nodes, rows, graph, fan_out, keys[1 + hop], masked
            column, weight, num_nodes = self._sample_hop(*given)
            indptr, row = self._shapes[hop]
            matrix = CsrMatrix(indptr, column, weight, cols)
            hops.append(Hop(matrix, matrix.transposed_by_sort(row)))
        b, nothing = len(users), users[:0]
        return Batch(
            n_id=n_id,
            degree=graph.degree[n_id],
            hops=hops,
            global_batch_size=b,
            input_id=self._input_id,
            pairs=torch.stack([users, items]),
            src_index=local[:b],
            dst_pos_index=local[b : 2 * b],
            dst_neg_index=local[2 * b :].view(negatives.shape),
            user_index=nothing,
            user_of_pair=nothing,
            shared_index=nothing,
            shared_positive=torch.zeros(0, 0, dtype=torch.bool, device=graph.device),
            num_nodes=num_nodes,
        )

    def _seeds(self, needed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct ids, ascending, in a list with room for the nodes of all hops; the place of
        each id; [1] how many they are. Names them in `_local_of`, and no other node.
        """
        size, device = self._graph.num_nodes, needed.device
        # numbers from the host, as of `marked[needed] = True`, cannot be captured
        marked = torch.zeros(size, dtype=torch.bool, device=device).index_fill_(0, needed, True)
        place = torch.cumsum(marked, 0)
        count = place[-1:]
        place = place - 1
        room = torch.zeros(self._rows[-1] + 1, dtype=torch.int64, device=device)
        # ids that do not occur are written to the end, which is cut off
        every = torch.arange(size, device=device)
        room[place.masked_fill(~marked, self._rows[-1])] = every
        self._local_of[:size] = place.masked_fill(~marked, -1)
        # a copy, since that end is written by many
        return room[:-1].clone(), place[needed], count

    def _sample_hop(
        self,
        n_id: Tensor,
        num_nodes: Tensor,
        rows: int,
        graph: DeviceGraph,
        fan_out: int,
        key: Tensor,
        masked: MaskedEntries,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `sample_hop_torch`."""
        ops, tables = triton_padded(graph.device), (self._local_of, self._met_first)
        if ops is None:
            given = n_id, num_nodes, rows, graph, fan_out, key, masked
            return sample_hop_torch(*given, *tables)
        arrays = ops.GraphArrays(
            graph.indptr,
            graph.indices,
            graph.degree,
            graph.inverse_root,
            masked.position,
            masked.before,
        )
        hop: tuple[Tensor, Tensor, Tensor] = ops.sample_padded_hop(
            n_id, num_nodes, rows, arrays, fan_out, key, *tables
        )
        return hop


def sample_hop_torch(
    n_id: Tensor,
    num_nodes: Tensor,
    rows: int,
    graph: DeviceGraph,
    fan_out: int,
    key: Tensor,
    masked: MaskedEntries,
    local_of: Tensor,
    met_first: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One hop, whose rows are the first nodes by local id.

    Args:
        n_id: global ids by local id; the hop's new nodes are appended to them.
        num_nodes: [1] how many of them are nodes before the hop, at most n.
        rows: n.
        key: [] of the hop.
        masked: entries to leave out.
        local_of: [N + 1] int32 local ids of nodes, -1 for none; new nodes are named.
        met_first: [N] int32, for this function's own use.

    Returns: [n F] local ids of the neighbours, int32, and the weight of each, 0 and the row itself
        where there is none; [1] how many of n_id are nodes after the hop.
    """
    nodes, column = n_id[:rows], torch.arange(fan_out, device=n_id.device)
    start, stop = graph.indptr[nodes], graph.indptr[nodes + 1]
    first, last = masked.of_rows(start, stop)
    real = torch.arange(rows, device=n_id.device) < num_nodes
    left = torch.where(real, stop - start - (last - first), 0)
    want = left.clamp(max=fan_out)
    drawn = column < want[:, None]
    entry = start[:, None] + draw_positions(nodes, left, fan_out, key)
    entry = torch.where(drawn, entry, start[:, None])
    if len(masked):
        of_row = (x[:, None].expand_as(entry).flatten() for x in (first, last))
        entry = entry + masked.skipped(entry.flatten(), *of_row).view_as(entry)
    drawn = drawn.flatten()
    entry = torch.where(drawn, entry.flatten(), 0)
    neighbours = torch.where(drawn, graph.indices[entry].long(), len(met_first))
    turn = torch.arange(len(neighbours), dtype=torch.int32, device=n_id.device)
    # a node more, for what is no neighbour
    first_turn = torch.cat([met_first.fill_(_NEVER_MET), met_first.new_full((1,), _NEVER_MET)])
    first_turn.scatter_reduce_(0, neighbours, turn, "amin")
    is_new = drawn & (first_turn[neighbours] == turn) & (local_of[neighbours] < 0)
    place = torch.cumsum(is_new, 0)
    local = num_nodes + place - 1
    new = neighbours[is_new]
    local_of[new] = local[is_new].int()
    n_id[local[is_new]] = new
    row = torch.arange(rows, dtype=torch.int32, device=n_id.device).repeat_interleave(fan_out)
    root = graph.degree[nodes].double().sqrt()
    scale = torch.where(want > 0, left / (want.clamp(min=1) * root), 0.0).float()
    inverse_root = graph.inverse_root[neighbours.clamp(max=len(met_first) - 1)]
    weight = torch.where(drawn, scale[row] * inverse_root, 0.0)
    return torch.where(drawn, local_of[neighbours], row), weight, num_nodes + place[-1:]


def _shape_of_hop(rows: int, fan_out: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[n + 1] where each row begins; [n F] the row of each entry, int32."""
    indptr = torch.arange(rows + 1, dtype=torch.int32, device=device) * fan_out
    row = torch.arange(rows, dtype=torch.int32, device=device)
    return indptr, row.repeat_interleave(fan_out)
