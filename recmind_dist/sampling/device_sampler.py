"""Neighbour sampling on a device: the samples of `neighbor_sampler`, bit for bit.

Legend: n rows of a hop's frontier, N nodes of the graph, E edges of a hop.
"""

from typing import Any

import torch
from torch import Tensor

from recmind_dist.kernels.device_draws import draw_positions
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.random_words import signed
from recmind_dist.kernels.triton_modules import triton_ops
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.device_graph import DeviceGraph, MaskedEntries, expanded

_NONE = torch.iinfo(torch.int32).max


class DeviceSampler:
    """Holds two arrays of 4 bytes a node, so an instance serves one thread.

    Args:
        num_neighbors: fan-out of each hop, -1 for all neighbours.
        heldout: entries that no batch may see.
    """

    def __init__(
        self, graph: DeviceGraph, num_neighbors: tuple[int, ...], heldout: MaskedEntries
    ) -> None:
        self.graph, self.num_neighbors, self._heldout = graph, num_neighbors, heldout
        shape, device = (graph.num_nodes,), graph.device
        self._local_of = torch.full(shape, -1, dtype=torch.int32, device=device)
        self._met_first = torch.empty(shape, dtype=torch.int32, device=device)

    def sample_hops(
        self, seeds: Tensor, key: int, masked: MaskedEntries | None = None
    ) -> tuple[Tensor, list[Hop]]:
        """All hops around `seeds`. The host waits twice a hop.

        Args:
            seeds: distinct global ids.
            key: 64-bit stream key of this block.
            masked: entries to leave out, besides held-out ones.

        Returns: global ids by local id, seeds first, and the hops from the seeds outwards.
        """
        masked = self._heldout if masked is None else masked.merged(self._heldout)
        self._local_of[seeds] = torch.arange(len(seeds), dtype=torch.int32, device=seeds.device)
        n_id, hops = seeds, list[Hop]()
        for hop, fan_out in enumerate(self.num_neighbors):
            n_id, matrix, row = self._hop(n_id, fan_out, stream_key(key, "hop", hop), masked)
            hops.append(Hop(matrix, matrix.transposed_by_sort(row)))
        self._local_of[n_id] = -1
        return n_id, hops

    def _hop(
        self, n_id: Tensor, fan_out: int, key: int, masked: MaskedEntries
    ) -> tuple[Tensor, CsrMatrix, Tensor]:
        """Global ids by local id, the hop's matrix, and the row of each of its entries."""
        graph = self.graph
        ops = triton_ops(graph.device)
        if ops is not None and fan_out > 0:
            return self._hop_by_kernels(ops, n_id, fan_out, key, masked)
        start, stop = graph.indptr[n_id], graph.indptr[n_id + 1]
        first, last = masked.of_rows(start, stop)
        available = stop - start - (last - first)
        counts = available if fan_out < 0 else available.clamp(max=fan_out)
        row, entry = expanded(start, counts)
        if fan_out > 0:
            drawn = draw_positions(n_id, available, fan_out, key).flatten()
            of_row = start[row]
            entry = of_row + drawn[row * fan_out + entry - of_row]
        if len(masked):
            entry = entry + masked.skipped(entry, first[row], last[row])
        neighbours = graph.indices[entry]
        n_id, local = self._relabel(n_id, neighbours)
        root = graph.degree[n_id[: len(counts)]].double().sqrt()
        scale = torch.where(counts > 0, available / (counts * root), 0.0).float()
        weight = scale[row] * graph.inverse_root[neighbours]
        indptr = torch.zeros(len(counts) + 1, dtype=torch.int32, device=row.device)
        torch.cumsum(counts, 0, dtype=torch.int32, out=indptr[1:])
        return n_id, CsrMatrix(indptr, local, weight, len(n_id)), row

    def _hop_by_kernels(
        self, ops: Any, n_id: Tensor, fan_out: int, key: int, masked: MaskedEntries
    ) -> tuple[Tensor, CsrMatrix, Tensor]:
        """As `_hop`, in few launches."""
        graph = self.graph
        arrays = ops.GraphArrays(
            graph.indptr,
            graph.indices,
            graph.degree,
            graph.inverse_root,
            masked.position,
            masked.before,
        )
        key, tables = signed(key), (self._local_of, self._met_first)
        n_id, indptr, row, local, weight = ops.sample_hop(n_id, arrays, fan_out, key, *tables)
        return n_id, CsrMatrix(indptr, local, weight, len(n_id)), row

    def _relabel(self, n_id: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """Global ids by local id, and the neighbours' local ids, [E] int32.

        New nodes get the next ids, in the order in which they are met.
        """
        turn = torch.arange(len(neighbours), dtype=torch.int32, device=n_id.device)
        neighbours = neighbours.long()
        met_first = self._met_first.fill_(_NONE)
        met_first.scatter_reduce_(0, neighbours, turn, "amin")
        is_new = (met_first[neighbours] == turn) & (self._local_of[neighbours] < 0)
        new = neighbours[is_new]
        local = torch.arange(len(n_id), len(n_id) + len(new), device=n_id.device)
        self._local_of[new] = local.int()
        return torch.cat([n_id, new]), self._local_of[neighbours]
