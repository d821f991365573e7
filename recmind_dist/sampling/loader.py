"""Mini-batches with PyG's field names, the same on any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.errors import ConfigError
from recmind_dist.graph import Graph
from recmind_dist.kernels.gather_sum import Hop
from recmind_dist.kernels.unique import unique_inverse
from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask, users_of_edges
from recmind_dist.sampling.graph_access import GraphAccess, WholeGraph, rank_slice
from recmind_dist.sampling.negatives import NegativeSampler
from recmind_dist.sampling.neighbor_sampler import (
    NeighborSampler,
    NumbaNeighborSampler,
    SampledHops,
)
from recmind_dist.sampling.pyg_sampler import PygNeighborSampler
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings
from recmind_dist.types import BoolArray, IntArray

if TYPE_CHECKING:
    from torch_geometric.data import Data

Edges = BoolArray | IntArray


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global mini-batch of training edges, with the sampled neighbourhood of
    every node it needs.

    Shapes (b pairs of this rank, S seeds, N distinct nodes, M shared negatives):
        n_id: [N] global ids, seeds first; degree: [N] training degrees; hops: from the seeds
        outwards.
        input_id: [b] positions in the global batch; src_index, dst_pos_index: [b] local ids;
        dst_neg_index: [b, num] or [b, 0]; user_index: [U] local ids of the distinct users;
        user_of_pair: [b] places among them; shared_index: [M]; shared_positive: [U, M], True where
        the shared item is a training positive of the user.
    """

    n_id: Tensor
    degree: Tensor
    hops: list[Hop]
    input_id: Tensor
    src_index: Tensor
    dst_pos_index: Tensor
    dst_neg_index: Tensor
    user_index: Tensor
    user_of_pair: Tensor
    shared_index: Tensor
    shared_positive: Tensor
    global_pairs: Tensor
    """Global ids (user, item) of the step's pairs on all ranks, [2, GB]: every rank derives them,
    nobody sends them.
    """
    hidden_edges: Tensor
    """[hidden] edges (positions in the user half) that full propagation passes by; sampled blocks
    have left them out.
    """

    @property
    def global_batch_size(self) -> int:
        """GB, what losses are averaged over."""
        return self.global_pairs.shape[1]

    @property
    def batch_size(self) -> int:
        """Pairs of this rank."""
        return len(self.input_id)

    @property
    def num_seeds(self) -> int:
        return self.hops[0].num_dst if self.hops else len(self.n_id)

    @property
    def num_sampled_nodes(self) -> list[int]:
        """Distinct nodes that each hop adds, seeds first (PyG)."""
        sizes = [self.num_seeds, *(hop.num_src for hop in self.hops)]
        return [sizes[0], *np.diff(sizes).tolist()]

    @property
    def num_sampled_edges(self) -> list[int]:
        return [len(hop.indices) for hop in self.hops]

    @property
    def edge_index(self) -> Tensor:
        """All sampled edges as PyG's COO, source row first, local ids. Shape: [2, edges]."""
        parts = []
        for hop in self.hops:
            dst = torch.repeat_interleave(torch.arange(hop.num_dst), hop.indptr.diff())
            parts.append(torch.stack([hop.indices.long(), dst]))
        return torch.cat(parts, dim=1)

    def to(self, device: torch.device) -> "Batch":
        """Moves every tensor."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True)
            for k, v in vars(self).items()
            if isinstance(v, Tensor)
        }
        return replace(self, **moved, hops=[hop.to(device) for hop in self.hops])

    def to_data(self) -> "Data":
        """This batch for PyG's layers and models, with the field names of PyG's LinkNeighborLoader.

        An edge that several hops drew stands once, as PyG's layers share one `edge_index`. Through
        `LGConv(normalize=False)` and `edge_weight` a layer is an unbiased estimate of LightGCN's
        over the edges that the batch may see, and exact where every fan-out is -1.

        Returns:
            `torch_geometric.data.Data` on the batch's device, with the fields (E distinct edges):
            edge_index: [2, E] local ids, from source (row 0) to target (row 1), in order of hops.
            edge_weight: [E] available / drawn neighbours of the target / √(deg_source deg_target).
            n_id: [N] global ids by local id, seeds first.
            degree: [N] training degrees.
            input_id: [b] positions of the pairs in the global batch.
            batch_size: b.
            src_index, dst_pos_index: [b] local ids of users and items.
            dst_neg_index: [b], or [b, num] for several negatives; with negatives="pairs" alone.
            shared_index: [M] local ids of shared negatives; with negatives="shared" alone.
            num_sampled_nodes, num_sampled_edges: new ones of each hop, for `trim_to_layer` (layers
                that average alone: weights are those of all hops together).

        Raises:
            ConfigError: the batch was made for full propagation and has no sampled edges.

        Example:
            >>> batch = next(loader.batches(epoch=0)).main
            >>> data = batch.to_data()
            >>> conv = torch_geometric.nn.LGConv(normalize=False)
            >>> x = conv(table(data.n_id), data.edge_index, data.edge_weight)
            >>> positive = (x[data.src_index] * x[data.dst_pos_index]).sum(1)
        """
        from recmind_dist.sampling.pyg_data import data_of_batch

        return data_of_batch(self)


@dataclass(frozen=True)
class StepBatches:
    """What one training step works on: the pairs that train the embeddings and, beside them, those
    that teach the gates.
    """

    step: int
    main: Batch
    gate: Batch | None = field(default=None)


def make_sampler(
    source: GraphAccess, settings: SamplerSettings, hidden: EdgeMask = NOTHING_MASKED
) -> NeighborSampler:
    """The backend that the settings name.

    Args:
        source: who answers for the edges. pyg-lib's op needs all of them in this process.
        settings: backend and fan-outs.
        hidden: edges that no block may see.
    """
    graph = source.rows.graph
    if settings.backend == "pyg":
        return PygNeighborSampler(graph, settings.num_neighbors, hidden)
    return NumbaNeighborSampler(graph, settings.num_neighbors, draws=source.draws(hidden))


class NeighborLoader:
    """Iterates the training edges in global mini-batches and yields this rank's share of each.
    Where owners are asked, every rank must make one.

    Everything is a function of (seed, epoch, step), so an epoch can be entered at any step, on any
    number of ranks. Named after PyG's loader; one batch carries the fields of its
    LinkNeighborLoader with triplet negatives.

    Args:
        graph: the training graph.
        settings: fan-outs, negatives, backend.
        batch_size: pairs, or users, of the *global* batch.
        batch_of: "pairs", or "users" with all their training edges.
        negatives: "pairs" (BPR), "shared" (sampled softmax) or "none" (alignment only).
        held_out: edges that are absent from the training pairs and from every propagation, as a
        mask over the user half, [E],
            or as ascending positions in it; teaches: those of them that teach the gates, all by
            default.
        gate_batch_size: held-out pairs of the global batch a step; 0 for none.
        gate_negatives: of the gate batch, where they are others than the main one's; gate_degree:
        [N] as which nodes count
            there, by default their training degree.
        seed, rank, world_size: who asks; source: who answers for the edges, by default the whole
        graph in this process;
        most_steps: of an epoch, 0 for all.
    """

    def __init__(
        self,
        graph: Graph,
        settings: SamplerSettings,
        batch_size: int,
        negatives: str = "pairs",
        *,
        batch_of: str = "pairs",
        held_out: Edges | None = None,
        gate_edges: Edges | None = None,
        gate_batch_size: int = 0,
        gate_negatives: NegativeSettings | None = None,
        gate_degree: IntArray | None = None,
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
        self.graph, self.settings, self.batch_size, self.negatives = (
            graph,
            settings,
            batch_size,
            negatives,
        )
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.gate_batch_size, self.batch_of = gate_batch_size, batch_of
        self._most_steps = most_steps
        self._held_out = _positions(held_out)
        self._held_out_edges = self._held_out if gate_edges is None else _positions(gate_edges)
        self._full = settings.propagation == "full"
        self._gate_degree = gate_degree
        self._source = source or WholeGraph(graph, rank, world_size)
        self._sampler = None if self._full else self._make_sampler()
        self._negatives = NegativeSampler(graph, settings.negatives, self._source.rows)
        self._gate_negatives = NegativeSampler(
            graph, gate_negatives or settings.negatives, self._source.rows
        )

    def _make_sampler(self) -> NeighborSampler:
        """Where owners are asked, every rank must call."""
        absent = self._held_out
        hidden = (
            self._source.hidden(*self._endpoints(absent), absent) if len(absent) else NOTHING_MASKED
        )
        return make_sampler(self._source, self.settings, hidden)

    def _endpoints(self, edges: IntArray) -> tuple[IntArray, IntArray]:
        """Users and items. Where owners are asked, every rank must call."""
        users = users_of_edges(self.graph, edges)
        return users, self._source.all_items(edges, users)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.graph, self.batch_size, self.batch_of, self._most_steps)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[StepBatches]:
        """This rank's share of every global batch of `epoch`, from `first_step` on. Every rank gets
        as many; where owners are asked, every rank must iterate.
        """
        for i in range(first_step, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + i
            edges = self._edges(epoch, i)
            if len(self._held_out):
                place = np.searchsorted(self._held_out, edges)
                edges = edges[self._held_out[np.minimum(place, len(self._held_out) - 1)] != edges]
            gate = (
                self._gate_batch(step)
                if self.gate_batch_size and len(self._held_out_edges)
                else None
            )
            yield StepBatches(step, self._batch(edges, stream_key(self.seed, "batch", step)), gate)

    def _edges(self, epoch: int, i: int) -> IntArray:
        """Positions in the user half of the edges of an epoch's i-th global batch."""
        users = self.batch_of == "users"
        count = self.graph.num_users if users else self.graph.num_edges
        start, stop = i * self.batch_size, min((i + 1) * self.batch_size, count)
        order = Permutation(count, stream_key(self.seed, "epoch", epoch))
        drawn = order(np.arange(start, stop, dtype=np.int64))
        return edges_of_users(self.graph, drawn) if users else drawn

    def _gate_batch(self, step: int) -> Batch:
        """Held-out pairs that teach the gates. Where owners are asked, every rank must call."""
        count = len(self._held_out_edges)
        order = Permutation(count, stream_key(self.seed, "gate-order"))
        draws = order(
            (np.arange(self.gate_batch_size, dtype=np.int64) + step * self.gate_batch_size) % count
        )
        key = stream_key(self.seed, "gate-batch", step)
        edges = self._held_out_edges[draws]
        batch = self._batch(edges, key, self._gate_negatives)
        if self._gate_degree is None:
            return batch
        return replace(batch, degree=torch.from_numpy(self._gate_degree[batch.n_id.numpy()]))

    def _batch(
        self, edges: IntArray, key: int, gate_negatives: NegativeSampler | None = None
    ) -> Batch:
        """This rank's share of the global batch made of `edges` (positions in the user half).
        Where owners are asked, every rank must call.

        Args:
            gate_negatives: of a batch that teaches the gates.
        """
        negatives = gate_negatives or self._negatives
        input_id = rank_slice(len(edges), self.rank, self.world_size)
        all_users, all_items = self._endpoints(edges)
        users, items = all_users[input_id], all_items[input_id]
        pairs, shared = np.zeros((len(users), 0), np.int64), np.zeros(0, np.int64)
        if self.negatives == "pairs":
            pairs = self._source.draw_negatives(
                negatives, all_users, all_items, stream_key(key, "negatives")
            )
        elif self.negatives == "shared":
            shared = negatives.shared(stream_key(key, "shared"), all_items)
        wanted = np.concatenate([users, items, pairs.ravel(), shared])
        seeds, local = unique_inverse(wanted, self.graph.num_nodes)
        hide = self.settings.hide_batch_edges and gate_negatives is None
        if self._sampler is None:
            sampled = SampledHops(seeds, np.asarray(self.graph.degree)[seeds], [])
        else:
            hidden = self._source.hidden(all_users, all_items, edges) if hide else NOTHING_MASKED
            sampled = self._sampler.sample(seeds, stream_key(key, "neighbours"), hidden)
        b = len(users)
        index = torch.from_numpy(local)
        user_index, user_of_pair = unique_inverse(local[:b], len(seeds))
        return Batch(
            n_id=torch.from_numpy(sampled.n_id),
            degree=torch.from_numpy(sampled.degree),
            hops=sampled.hops,
            input_id=torch.from_numpy(input_id),
            src_index=index[:b],
            dst_pos_index=index[b : 2 * b],
            dst_neg_index=index[2 * b : 2 * b + pairs.size].view(pairs.shape),
            user_index=torch.from_numpy(user_index),
            user_of_pair=torch.from_numpy(user_of_pair),
            shared_index=index[2 * b + pairs.size :],
            shared_positive=torch.from_numpy(
                self._source.are_positives(negatives, all_users, shared)
            ),
            global_pairs=torch.from_numpy(np.stack([all_users, all_items])),
            hidden_edges=torch.from_numpy(edges if hide and self._full else edges[:0]),
        )


def _positions(edges: Edges | None) -> IntArray:
    if edges is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(edges) if edges.dtype == np.bool_ else edges.astype(np.int64)


def steps_per_epoch(graph: Graph, batch_size: int, batch_of: str = "pairs", most: int = 0) -> int:
    """Updates an epoch, the same on any number of ranks; `most` of them where that is above 0."""
    steps = -(-(graph.num_users if batch_of == "users" else graph.num_edges) // batch_size)
    return min(steps, most) if most else steps


def edges_of_users(graph: Graph, users: IntArray) -> IntArray:
    """Positions in the user half of all edges of `users`, ascending within each. Shape: [their
    degrees' sum].
    """
    counts = np.asarray(graph.degree)[users]
    starts = np.repeat(graph.indptr[users] - np.cumsum(counts) + counts, counts)
    return np.asarray(starts + np.arange(counts.sum()), dtype=np.int64)
