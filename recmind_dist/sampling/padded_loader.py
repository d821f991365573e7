"""`DeviceLoader` of plain pairs, whose full batches have shapes that do not change."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.kernels.random_words import signed
from recmind_dist.kernels.triton_modules import triton_padded
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.padded_batches import PaddedBatches, rows_of_hops
from recmind_dist.sampling.settings import SamplerSettings

_KEYS_AHEAD = 256  # steps whose keys are brought to the device at once
_MOST_EDGES = 1 << 20  # of larger batches the arithmetic costs more than starting kernels
_MOST_NODES = 1 << 18  # states of all layers, and of three batches at once, stay small beside a GPU


@dataclass(frozen=True)
class BatchRequest:
    """What a full batch is made from.

    Attributes:
        edges: [batch size] its training edges.
        keys: [1 + hops] of `PaddedBatches.keys`.
    """

    step: int
    edges: Tensor
    keys: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """What `PaddedLoader.make` takes."""
        return self.edges, self.keys


def can_pad(settings: SamplerSettings, graph: Graph, batch_size: int, device: torch.device) -> bool:
    """Whether batches of this size may have fixed shapes, and gain by them."""
    fan_outs, negatives = settings.num_neighbors, settings.negatives
    rows = rows_of_hops(batch_size * (2 + negatives.num), fan_outs, graph.num_nodes)
    edges = sum(n * fan_out for n, fan_out in zip(rows, fan_outs, strict=False))
    return (
        triton_padded(device) is not None
        and min(fan_outs, default=0) > 0
        and edges <= _MOST_EDGES
        and rows[-1] <= _MOST_NODES
        and graph.num_edges >= batch_size
        and negatives.kind != "in_batch"
        and graph.edge_weight is None
    )


class PaddedLoader(DeviceLoader):
    """As `DeviceLoader` of one rank, of pairs with negatives of their own and no gate batches."""

    def requests(self, epoch: int, first_step: int = 0) -> Iterator[BatchRequest | StepBatches]:
        """What each batch of the epoch is made from; a batch that is not full as it is. For one
        rank alone.
        """
        for i in range(first_step, self.steps_per_epoch):
            step, edges = epoch * self.steps_per_epoch + i, self._edges(epoch, i)
            if len(edges) < self.batch_size:
                key = stream_key(self.seed, "batch", step)
                yield StepBatches(step, self._batch(self._cut(edges), key))
            else:
                yield BatchRequest(step, edges, self._keys_of(step))

    def make(self, edges: Tensor, keys: Tensor) -> Batch:
        """The batch of a request's tensors; the host does not wait."""
        return self._padded.make(edges, keys)

    @cached_property
    def _padded(self) -> PaddedBatches:
        settings = self.settings
        pool = self._pool(self._negatives, self._cut(self._gate_order[:0]))
        return PaddedBatches(
            self._device_graph,
            settings.num_neighbors,
            self.batch_size,
            pool,
            settings.negatives.num,
            settings.hide_batch_edges,
        )

    def _keys_of(self, step: int) -> Tensor:
        """A view of the keys of a block of steps."""
        block, row = divmod(step, _KEYS_AHEAD)
        if block != self._keys_block:
            steps = range(block * _KEYS_AHEAD, (block + 1) * _KEYS_AHEAD)
            hops = len(self.settings.num_neighbors)
            keys = [
                [signed(key) for key in PaddedBatches.keys(batch_key, hops)]
                for batch_key in (stream_key(self.seed, "batch", step) for step in steps)
            ]
            self._keys, self._keys_block = torch.tensor(keys, device=self._device), block
        return self._keys[row]

    _keys_block = -1
    _keys: Tensor
