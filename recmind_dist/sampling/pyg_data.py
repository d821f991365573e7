"""A batch as `torch_geometric.data.Data`, with the field names of PyG's loaders.

Legend: E sampled edges, N nodes, b pairs.
"""

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch_geometric.data import Data

from recmind_dist.errors import ConfigError

if TYPE_CHECKING:
    from recmind_dist.sampling.loader import Batch


def data_of_batch(batch: "Batch") -> Data:
    """See `Batch.to_data`."""
    if not batch.hops:
        raise ConfigError(
            "this batch has no sampled edges (sampler.propagation: full, or no num_neighbors): "
            "take the whole graph from Graph.to_hetero_data()"
        )
    kept = _first_of_each(batch.edge_index, len(batch.n_id))
    edge_index = batch.edge_index[:, kept]
    hop_ends = torch.tensor(list(itertools.accumulate(batch.num_sampled_edges)))
    edges_until = torch.searchsorted(kept.cpu(), hop_ends).tolist()
    data = Data(
        edge_index=edge_index,
        edge_weight=_weights(batch, edge_index),
        num_nodes=len(batch.n_id),
        n_id=batch.n_id,
        degree=batch.degree,
        input_id=batch.input_id,
        batch_size=batch.batch_size,
        src_index=batch.src_index,
        dst_pos_index=batch.dst_pos_index,
        num_sampled_nodes=batch.num_sampled_nodes,
        num_sampled_edges=[b - a for a, b in itertools.pairwise([0, *edges_until])],
    )
    if batch.dst_neg_index.shape[1]:
        data.dst_neg_index = batch.dst_neg_index.squeeze(1)  # [b] for one negative, as in PyG
    if len(batch.shared_index):
        data.shared_index = batch.shared_index
    return data


def _first_of_each(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Positions of the first copy of each distinct edge, ascending. Shape: [distinct]."""
    source, target = edge_index
    _, edge_of_copy = torch.unique(source * num_nodes + target, return_inverse=True)
    position = torch.arange(len(source), device=source.device)
    first = torch.full_like(position, len(source))
    first = first.scatter_reduce(0, edge_of_copy, position, "amin")
    return first[first < len(source)].sort().values


def _weights(batch: "Batch", edge_index: Tensor) -> Tensor:
    """1 / √(deg_source deg_target) times available / drawn neighbours of the target. Shape: [E]."""
    source, target = edge_index
    widest = batch.hops[-1]  # its destinations include those of every other hop
    root = batch.degree.clamp(min=1).sqrt()
    assert widest.matrix.weight is not None
    # an edge weighs available / (drawn √deg_source √deg_target), so that a target's edges together
    # say what was available to it, over √deg_target
    each = widest.matrix.weight * root[widest.indices]
    row = torch.repeat_interleave(
        torch.arange(widest.num_dst, device=root.device), widest.indptr.diff()
    )
    available = each.new_zeros(widest.num_dst).index_add_(0, row, each)
    drawn = torch.bincount(target, minlength=widest.num_dst)
    return (available / drawn.clamp(min=1))[target] / root[source]
