"""`NeighborLoader` on a device: the same batches, bit for bit, made where training runs.

Legend: b pairs of this rank, GB pairs of all ranks, U distinct users, M shared negatives.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.kernels import random_words
from recmind_dist.kernels.device_draws import Pool, draw_unseen
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.kernels.unique import unique_inverse_torch
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.batch import Batch
from recmind_dist.sampling.device_graph import DeviceGraph, expanded
from recmind_dist.sampling.device_sampler import DeviceSampler
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.shares import Share

_DRAWN_AHEAD = 1 << 20  # pairs of an epoch's order that are drawn at a time


class DeviceLoader(NeighborLoader):
    """See `NeighborLoader`, of whose graph every rank has all edges on its device.

    Under full propagation on one rank all nodes are seeds, in the order of table rows: the host
    need not wait to learn how many of them a batch needs.

    Args:
        device: where batches are made.
        options: as `NeighborLoader`'s, but for `source`.
    """

    def __init__(self, graph: Graph, *args: Any, device: torch.device, **options: Any) -> None:
        self._device = device
        super().__init__(graph, *args, **options)

    def _prepare(self, newest_decay: float) -> None:
        """See `NeighborLoader`, whose collective it stands for: every rank must call."""
        self._device_graph = DeviceGraph(self.graph, self._device, self._degree)
        self._is_heldout: Tensor | None = None
        edges = self._on_device(self._heldout)
        if len(edges):
            self._is_heldout = torch.zeros(
                self.graph.num_edges, dtype=torch.bool, device=self._device
            )
            self._is_heldout[edges] = True
        self._edge_weight: Tensor | None = None
        if self.graph.edge_weight is not None:
            self._edge_weight = self._on_device(self.graph.edge_weight)
        self._gate_order = self._on_device(self._gate_edges)
        if self.gate_batch_size:  # one order for all epochs
            count, key = len(self._gate_order), stream_key(self.seed, "gate-order")
            places = torch.arange(count, device=self._device)
            self._gate_order = self._gate_order[random_words.permuted(places, count, key)]
        self._pools: dict[int, Pool] = {}
        self._order, self._order_of = torch.empty(0, dtype=torch.int64), (-1, -1)
        self._device_sampler: DeviceSampler | None = None
        self._rows_of_all: Tensor | None = None
        if self._full and self.world_size == 1:
            row_of_node = np.asarray(self.graph.row_of_node, np.int64)
            self._rows_of_all = self._on_device(row_of_node)
            self._nodes_of_rows = self._on_device(np.argsort(row_of_node))
            self._degree_of_rows = self._device_graph.degree[self._nodes_of_rows]
        if not self._full:
            heldout = self._device_graph.entries_of(edges)
            fan_outs = self.settings.num_neighbors
            self._device_sampler = DeviceSampler(self._device_graph, fan_outs, heldout)
            if newest_decay:
                self._newest = self._find_newest(newest_decay)

    def _on_device(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(x)).to(self._device)

    def _share(self, epoch: int, i: int) -> Share:
        """See `NeighborLoader`, but no count is exchanged. Collective there: every rank must
        call.
        """
        return self._cut(self._trained(self._edges(epoch, i)))

    def _cut(self, edges: Tensor) -> Share:
        """This rank's share of these edges of a global batch."""
        total = len(edges)
        first, last = (total * (self.rank + k) // self.world_size for k in (0, 1))
        return Share(edges[first:last], first, total, lambda: edges)

    def _edges(self, epoch: int, i: int) -> Tensor:
        """Those of an epoch's i-th global batch. Orders of a million pairs are drawn at once."""
        size, users = self.batch_size, self.batch_of == "users"
        count = self.graph.num_users if users else self.graph.num_edges
        ahead = max(_DRAWN_AHEAD // size, 1)
        block = epoch, i // ahead
        if self._order_of != block:
            start = block[1] * ahead * size
            stop = min(start + ahead * size, count)
            positions = torch.arange(start, stop, device=self._device)
            key = stream_key(self.seed, "epoch", epoch)
            self._order, self._order_of = random_words.permuted(positions, count, key), block
        first = i % ahead * size
        drawn = self._order[first : first + size]
        if not users:
            return drawn
        indptr = self._device_graph.indptr
        return expanded(indptr[drawn], indptr[drawn + 1] - indptr[drawn])[1]

    def _trained(self, edges: Tensor) -> Tensor:
        """The edges that are not held out."""
        return edges if self._is_heldout is None else edges[~self._is_heldout[edges]]

    def _gate_share(self, step: int) -> Share:
        size = self.gate_batch_size
        positions = torch.arange(size, device=self._device) + step * size
        return self._cut(self._gate_order[positions % len(self._gate_order)])

    def _weights_of(self, share: Share) -> Tensor:
        assert self._edge_weight is not None
        weight: Tensor = self._edge_weight[share.edges]
        return weight

    def _batch(
        self, share: Share, key: int, gate_negatives: NegativeSampler | None = None
    ) -> Batch:
        """See `NeighborLoader`, whose collective it stands for: every rank must call."""
        graph, edges = self._device_graph, share.edges
        input_id = torch.arange(share.first, share.first + len(edges), device=self._device)
        users, items = graph.users_of(edges), graph.items_of(edges)
        negatives = gate_negatives or self._negatives
        per_pair, shared = self._draw_negatives(negatives, share, users, input_id, key)
        hide = self.settings.hide_batch_edges and gate_negatives is None
        if self._rows_of_all is not None:
            hidden = edges if hide else None
            drawn = per_pair, shared
            return self._of_all_rows(self._rows_of_all, input_id, (users, items), drawn, hidden)
        needed = torch.cat([users, items, per_pair.flatten(), shared])
        seeds, local, num_users = unique_inverse_torch(needed, graph.num_nodes, graph.num_users)
        trains_gates = gate_negatives is not None or not self.gate_batch_size
        n_id, newest, hops = seeds, None, list[Hop]()
        if self._newest is not None and trains_gates:
            n_id, newest = self._newest_on_device(seeds)
        if self._device_sampler is not None:
            masked = graph.entries_of(share.whole()) if hide else None
            key = stream_key(key, "neighbours")
            n_id, hops = self._device_sampler.sample_hops(n_id, key, masked)
        b = len(users)
        return Batch(
            n_id=n_id,
            degree=graph.degree[n_id],
            hops=hops,
            global_batch_size=share.total,
            input_id=input_id,
            pairs=torch.stack([users, items]),
            src_index=local[:b],
            dst_pos_index=local[b : 2 * b],
            dst_neg_index=local[2 * b : 2 * b + per_pair.numel()].view(per_pair.shape),
            # ids of users are the lowest, and seeds ascend
            user_index=torch.arange(num_users, device=self._device),
            user_of_pair=local[:b],
            shared_index=local[2 * b + per_pair.numel() :],
            shared_positive=self._are_positives(seeds[:num_users], shared),
            masked_edges=edges if hide and self._full else None,
            newest=newest,
        )

    def _of_all_rows(
        self,
        row: Tensor,
        input_id: Tensor,
        pairs: tuple[Tensor, Tensor],
        drawn: tuple[Tensor, Tensor],
        hidden: Tensor | None,
    ) -> Batch:
        """A batch whose local ids are table rows.

        Args:
            row: [num_nodes] of each node.
            input_id: [GB].
            pairs: users and items, [GB] global ids.
            drawn: negatives of each pair, and shared ones.
            hidden: edges of the batch that are masked.
        """
        (users, items), (per_pair, shared) = pairs, drawn
        src_index, distinct, user_of_pair = row[users], users[:0], users[:0]
        if len(shared):  # elsewhere nobody asks for distinct users
            distinct, user_of_pair, _ = unique_inverse_torch(users, self.graph.num_users)
        return Batch(
            n_id=self._nodes_of_rows,
            degree=self._degree_of_rows,
            hops=[],
            global_batch_size=len(input_id),
            input_id=input_id,
            pairs=torch.stack([users, items]),
            src_index=src_index,
            dst_pos_index=row[items],
            dst_neg_index=row[per_pair],
            user_index=row[distinct],
            user_of_pair=user_of_pair,
            shared_index=row[shared],
            shared_positive=self._are_positives(distinct, shared),
            masked_edges=hidden,
        )

    def _draw_negatives(
        self,
        negatives: NegativeSampler,
        share: Share,
        users: Tensor,
        input_id: Tensor,
        key: int,
    ) -> tuple[Tensor, Tensor]:
        """Negatives of each pair, [b, num], and those that all pairs share, [M]."""
        nothing, settings = input_id[:0], negatives.settings
        pool = self._pool(negatives, share)
        if self.negatives == "pairs":
            key, graph = stream_key(key, "negatives"), self._device_graph
            given = graph.indptr, graph.indices, users, input_id, pool, settings.num, key
            return draw_unseen(*given), nothing
        if self.negatives == "shared":
            counters = torch.arange(settings.num_shared, device=self._device)
            uniform = random_words.uniforms(stream_key(key, "shared"), counters)
            return nothing.new_empty(len(users), 0), torch.unique(pool.at(uniform))
        return nothing.new_empty(len(users), 0), nothing

    def _pool(self, negatives: NegativeSampler, share: Share) -> Pool:
        """What a batch's negatives are drawn from."""
        if id(negatives) not in self._pools:
            cumulated = self._on_device(negatives.cumulative)
            nothing = torch.empty(0, dtype=torch.int64, device=self._device)
            self._pools[id(negatives)] = Pool(cumulated, self.graph.num_users, nothing)
        pool = self._pools[id(negatives)]
        if negatives.settings.kind != "in_batch":
            return pool
        return Pool(pool.cumulated, pool.first, self._device_graph.items_of(share.whole()))

    def _are_positives(self, users: Tensor, shared: Tensor) -> Tensor:
        """Whether each shared item is a training positive of each user. Shape: [U, M], bool."""
        graph = self._device_graph
        # what is not shared marks a column that is cut off
        marked = torch.zeros(len(users), len(shared) + 1, dtype=torch.bool, device=self._device)
        if not len(shared):
            return marked[:, :0]
        slot = torch.full((graph.num_items,), -1, device=self._device)
        slot[shared - graph.num_users] = torch.arange(len(shared), device=self._device)
        row, entry = graph.rows(users)
        column = slot[graph.items_of(entry) - graph.num_users]
        marked[row, column] = True
        return marked[:, : len(shared)].contiguous()

    def _newest_on_device(self, seeds: Tensor) -> tuple[Tensor, CsrMatrix]:
        """Newest items are looked up on the host, whose arrays have the times.

        Stands for `NeighborLoader`'s collective, though it sends nothing: every rank must call.
        """
        every, newest = self._with_newest(seeds.cpu().numpy())
        return self._on_device(every), newest.to(self._device)
