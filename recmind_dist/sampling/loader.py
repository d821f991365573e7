"""Iterates training edges in mini-batches that are the same on any number of ranks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recmind_dist.errors import ConfigError
from recmind_dist.graph import Graph
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.kernels.unique import unique_inverse
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask, users_of_edges
from recmind_dist.sampling.graph_access import GraphAccess, PairLookup, Pairs, WholeGraph
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import (
    NeighborSampler,
    NumbaNeighborSampler,
    SampledHops,
)
from recmind_dist.sampling.newest_items import NewestItems
from recmind_dist.sampling.pyg_sampler import PygNeighborSampler
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings
from recmind_dist.sampling.shares import Share, Shares, gate_share
from recmind_dist.types import BoolArray, IndexArray, IntArray

Edges = BoolArray | IntArray


def make_sampler(
    source: GraphAccess,
    settings: SamplerSettings,
    heldout: EdgeMask = NOTHING_MASKED,
    degree: IndexArray | None = None,
) -> NeighborSampler:
    """The backend that the settings name.

    Args:
        source: access to the edges. pyg-lib's op needs all of them in this process.
        settings: backend and fan-outs.
        heldout: edges that no batch may see.
        degree: [N] the degree that each node counts with. Default: its training degree.
    """
    graph = source.rows.graph
    if settings.backend == "pyg":
        return PygNeighborSampler(graph, settings.num_neighbors, heldout, degree)
    draws = source.draws(heldout, np.asarray(graph.degree) if degree is None else degree)
    return NumbaNeighborSampler(graph, settings.num_neighbors, draws=draws, degree=degree)


class NeighborLoader:
    """Yields this rank's share of each global mini-batch of training edges.

    Everything is a function of (seed, epoch, step), so an epoch can be entered at any step, on any
    number of ranks. Named after PyG's loader; a batch has the fields of its LinkNeighborLoader with
    triplet negatives. With a partitioned graph this is a collective: every rank must make one.

    Args:
        graph: the training graph.
        settings: fan-outs, negatives, backend.
        batch_size: pairs, or users, of the *global* batch.
        negatives: "pairs" (BPR), "shared" (sampled softmax) or "none" (alignment only).
        batch_of: "pairs", or "users" with all their training edges.
        heldout: edges that are neither training pairs nor part of any propagation: a mask over the
            user half, [E], or ascending positions in it.
        gate_edges: edges among `heldout` that train the gates. Default: all of them.
        gate_batch_size: pairs of the global gate batch of a step; 0 for none.
        gate_negatives: of the gate batch. Default: those of the main batch.
        degree: [N] the degree that each node counts with. Default: its training degree.
        newest_decay: above 0, the batch whose gates learn brings the newest items of its users
            along (`Batch.newest`), as many as the first fan-out, and an item weighs so many times
            the next newer one. Sampled propagation only.
        seed: of all draws.
        rank: this rank.
        world_size: number of ranks.
        source: access to the edges. Default: the whole graph in this process.
        most_steps: limit of steps in an epoch; 0 for none.
    """

    def __init__(
        self,
        graph: Graph,
        settings: SamplerSettings,
        batch_size: int,
        negatives: str = "pairs",
        *,
        batch_of: str = "pairs",
        heldout: Edges | None = None,
        gate_edges: Edges | None = None,
        gate_batch_size: int = 0,
        gate_negatives: NegativeSettings | None = None,
        degree: IndexArray | None = None,
        newest_decay: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        source: GraphAccess | None = None,
        most_steps: int = 0,
    ) -> None:
        if batch_size < world_size:
            raise ConfigError(
                f"train.batch_size is {batch_size}, fewer than one pair for each of {world_size} "
                "ranks: raise it"
            )
        self.graph, self.settings = graph, settings
        self.batch_size, self.batch_of, self.negatives = batch_size, batch_of, negatives
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.gate_batch_size = gate_batch_size
        self._most_steps = most_steps
        self._heldout = _positions(heldout)
        self._gate_edges = self._heldout if gate_edges is None else _positions(gate_edges)
        self._degree: IndexArray = np.asarray(graph.degree) if degree is None else degree
        self._source = source or WholeGraph(graph, rank, world_size)
        self._shares = Shares(
            graph,
            batch_size,
            batch_of,
            self.steps_per_epoch,
            self._heldout,
            seed,
            rank,
            world_size,
            self._source,
        )
        self._full = settings.propagation == "full"
        self._newest: NewestItems | None = None
        self._prepare(newest_decay)
        rows = self._source.rows
        self._negatives = self._gate_negatives = NegativeSampler(graph, settings.negatives, rows)
        if gate_negatives not in (None, settings.negatives):
            self._gate_negatives = NegativeSampler(graph, gate_negatives, rows)

    def _prepare(self, newest_decay: float) -> None:
        """Makes the sampler. Collective with a partitioned graph: every rank must call."""
        self._sampler: NeighborSampler | None = None
        if not self._full:
            mask = self._heldout_mask()
            self._sampler = make_sampler(self._source, self.settings, mask, self._degree)
            if newest_decay:
                self._newest = self._find_newest(newest_decay)

    def _find_newest(self, decay: float) -> NewestItems:
        """Collective with a partitioned graph: every rank must call."""
        return NewestItems(self._source.rows, decay, self._heldout_mask())

    def _heldout_mask(self) -> EdgeMask:
        """Collective with a partitioned graph: every rank must call."""
        if not len(self._heldout):
            return NOTHING_MASKED
        return self._source.mask_edges(*self._endpoints(self._heldout), self._heldout)

    def _endpoints(self, edges: IntArray) -> tuple[IntArray, IntArray]:
        """Users and items of edges. Collective with a partitioned graph: every rank must call."""
        users = users_of_edges(self.graph, edges)
        return users, self._source.items_of_edges(edges, users)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.graph, self.batch_size, self.batch_of, self._most_steps)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[StepBatches]:
        """This rank's share of every global batch of `epoch`, as many on every rank.

        Collective between several ranks: every rank must iterate.
        """
        for i in range(first_step, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + i
            share = self._share(epoch, i)
            has_gate = self.gate_batch_size and len(self._gate_edges)
            gate = self._gate_batch(step) if has_gate else None
            main = self._batch(share, stream_key(self.seed, "batch", step))
            yield StepBatches(step, self._weighted(main, share), gate)

    def _share(self, epoch: int, i: int) -> Share:
        """This rank's share of an epoch's i-th global batch. Collective: every rank must call."""
        return self._shares.of_step(epoch, i)

    def _gate_batch(self, step: int) -> Batch:
        """Collective with a partitioned graph: every rank must call."""
        key = stream_key(self.seed, "gate-batch", step)
        share = self._gate_share(step)
        return self._weighted(self._batch(share, key, self._gate_negatives), share)

    def _weighted(self, batch: Batch, share: Share) -> Batch:
        """The batch with its pairs' weights, if the graph has weights."""
        if self.graph.edge_weight is None:
            return batch
        return replace(batch, pair_weight=self._weights_of(share))

    def _weights_of(self, share: Share) -> Tensor:
        assert self.graph.edge_weight is not None
        return torch.from_numpy(self.graph.edge_weight[share.edges])

    def _gate_share(self, step: int) -> Share:
        """This rank's share of a step's global gate batch."""
        ranks = self.rank, self.world_size
        return gate_share(self._gate_edges, self.gate_batch_size, step, self.seed, *ranks)

    def _batch(
        self, share: Share, key: int, gate_negatives: NegativeSampler | None = None
    ) -> Batch:
        """This rank's share of a global batch.

        Collective with a partitioned graph: every rank must call.

        Args:
            share: of the global batch.
            key: 64-bit stream key of this batch.
            gate_negatives: of a gate batch; None: a main batch.
        """
        negatives = gate_negatives or self._negatives
        users = users_of_edges(self.graph, share.edges)
        lookup = self._source.look_up(share, users)
        items, per_pair, shared = self._draw(lookup, negatives, key)
        needed = np.concatenate([users, items, per_pair.ravel(), shared])
        seeds, local = unique_inverse(needed, self.graph.num_nodes)
        user_index, user_of_pair = unique_inverse(local[: len(users)], len(seeds))
        trains_gates = gate_negatives is not None or not self.gate_batch_size
        newest = None
        if self._newest is not None and trains_gates:
            seeds, newest = self._with_newest(seeds)
        hide = self.settings.hide_batch_edges and gate_negatives is None
        if self._sampler is None:
            degree = self._degree[seeds].astype(np.int64, copy=False)
            sampled = SampledHops(seeds, degree, [])
        else:
            mask = lookup.mask(items) if hide else NOTHING_MASKED
            sampled = self._sampler.sample(seeds, stream_key(key, "neighbours"), mask)
        shared_positive = np.zeros((len(user_index), 0), np.bool_)
        if len(shared):
            shared_positive = lookup.map_users(partial(negatives.positives_among, shared=shared))
        b = len(users)
        index = torch.from_numpy(local)
        return Batch(
            n_id=torch.from_numpy(sampled.n_id),
            degree=torch.from_numpy(sampled.degree),
            hops=sampled.hops,
            global_batch_size=share.total,
            input_id=torch.from_numpy(share.input_id),
            pairs=torch.from_numpy(np.stack([users, items])),
            src_index=index[:b],
            dst_pos_index=index[b : 2 * b],
            dst_neg_index=index[2 * b : 2 * b + per_pair.size].view(per_pair.shape),
            user_index=torch.from_numpy(user_index),
            user_of_pair=torch.from_numpy(user_of_pair),
            shared_index=index[2 * b + per_pair.size :],
            shared_positive=torch.from_numpy(shared_positive),
            masked_edges=torch.from_numpy(share.edges) if hide and self._full else None,
            newest=newest,
        )

    def _draw(
        self, lookup: PairLookup, negatives: NegativeSampler, key: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Items of this rank's pairs, [b], their negatives, [b, num], and the negatives that all
        users of the global batch share, [M].

        Collective with a partitioned graph: every rank must call.
        """
        in_batch, pool = negatives.settings.kind == "in_batch", np.zeros(0, np.int64)
        paired = self.negatives == "pairs"
        draw = partial(_negatives_of, negatives, stream_key(key, "negatives"))
        if paired and not in_batch:
            found = lookup.map_pairs(partial(_with_negatives, partial(draw, pool)))
            return found[:, 0], found[:, 1:], pool
        items = lookup.map_pairs(_items_of)[:, 0]
        if in_batch and self.negatives != "none":
            pool = lookup.gather_items(items)
        if paired:
            return items, lookup.map_pairs(partial(draw, pool)), pool[:0]
        shared = pool[:0]
        if self.negatives == "shared":
            shared = negatives.shared(stream_key(key, "shared"), pool)
        return items, np.zeros((len(items), 0), np.int64), shared

    def _with_newest(self, seeds: IntArray) -> tuple[IntArray, CsrMatrix]:
        """Appends to the seeds the newest items of the users among them.

        Users have the lowest ids, so they come first in the ascending seeds. The appended items
        serve `Batch.newest` alone: see `Batch.num_targets`.

        Collective with a partitioned graph: every rank must call.

        Args:
            seeds: [S'] ascending.

        Returns: the seeds and after them the items that are not among them, [S], and the weight
            of each newest item in its user's mean, [S', S].
        """
        assert self._newest is not None
        users = seeds[: np.searchsorted(seeds, self.graph.num_users)]
        count = self.settings.num_neighbors[0] if self.settings.num_neighbors else -1
        found = self._source.newest_items(users, self._newest, count)
        items = found.items.astype(np.int64)
        column = np.searchsorted(seeds, items)
        known = seeds[np.minimum(column, len(seeds) - 1)] == items
        more, of_more = unique_inverse(items[~known], self.graph.num_nodes)
        column[~known] = len(seeds) + of_more
        indptr = np.zeros(len(seeds) + 1, np.int64)
        np.cumsum(found.counts, out=indptr[1 : len(users) + 1])
        indptr[len(users) + 1 :] = len(items)
        every = np.concatenate([seeds, more])
        return every, CsrMatrix.of_arrays(indptr, column, found.weight, len(every))


def _positions(edges: Edges | None) -> IntArray:
    if edges is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(edges) if edges.dtype == np.bool_ else edges.astype(np.int64, copy=False)


def steps_per_epoch(graph: Graph, batch_size: int, batch_of: str = "pairs", most: int = 0) -> int:
    """Steps in an epoch, the same on any number of ranks; at most `most`, unless that is 0."""
    steps = -(-(graph.num_users if batch_of == "users" else graph.num_edges) // batch_size)
    return min(steps, most) if most else steps


def _items_of(pairs: Pairs) -> IntArray:
    return pairs.items[:, None]


def _negatives_of(negatives: NegativeSampler, key: int, pool: IntArray, pairs: Pairs) -> IntArray:
    return negatives.for_pairs(pairs.users, pairs.input_id, key, pool)


def _with_negatives(draw: Callable[[Pairs], IntArray], pairs: Pairs) -> IntArray:
    return np.column_stack([pairs.items, draw(pairs)])
