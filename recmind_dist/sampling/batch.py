"""A mini-batch with PyG's field names, and the batches of one training step.

Legend: b pairs of this rank, GB pairs of all ranks, N distinct nodes, U distinct users, M shared
negatives.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.kernels.gather_sum import CsrMatrix, Hop

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global mini-batch of training edges, with sampled neighbourhoods.

    Attributes:
        n_id: [N] global ids, seeds first.
        degree: [N] degrees to normalise by; without held-out edges while gates learn.
        hops: from the seeds outwards.
        global_batch_size: GB, the number of pairs that losses are averaged over.
        input_id: [b] positions in the global batch, which follow one another.
        pairs: [2, b] global ids (user, item) of this rank's pairs.
        src_index: [b] local ids of the users.
        dst_pos_index: [b] local ids of the items.
        dst_neg_index: [b, num] local ids of negatives, or [b, 0].
        user_index: [U] local ids of the distinct users.
        user_of_pair: [b] position of each pair's user in `user_index`.
        shared_index: [M] local ids of shared negatives.
        shared_positive: [U, M] True where the shared item is a training positive of the user.
        masked_edges: [b] edges (positions in the user half) that full propagation must leave out on
            every rank, where the global batch hides its own; else None. Sampled hops leave them
            out already.
        newest: [S', S] sparse: row k holds the weights of seed k's newest items. The batch ranks
            its first S' seeds; the others are there as newest items. None in batches that train no
            gates.
        pair_weight: [b] float32, what the pairs weigh in the loss; None: the same.
        num_nodes: [1] how many of `n_id` are nodes, where the rest fills a fixed shape up, see
            `padded_batches`; None: all of them.
    """

    n_id: Tensor
    degree: Tensor
    hops: list[Hop]
    global_batch_size: int
    input_id: Tensor
    pairs: Tensor
    src_index: Tensor
    dst_pos_index: Tensor
    dst_neg_index: Tensor
    user_index: Tensor
    user_of_pair: Tensor
    shared_index: Tensor
    shared_positive: Tensor
    masked_edges: Tensor | None = None
    newest: CsrMatrix | None = None
    pair_weight: Tensor | None = None
    num_nodes: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Pairs of this rank."""
        return len(self.input_id)

    @property
    def num_seeds(self) -> int:
        return self.hops[0].num_dst if self.hops else len(self.n_id)

    @property
    def num_targets(self) -> int:
        """S', seeds that the batch is about; others are seeds for the sake of `newest`."""
        return self.newest.num_rows if self.newest is not None else self.num_seeds

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
        assert self.num_nodes is None, "a batch of fixed shapes has edges that are none"
        parts = []
        for hop in self.hops:
            dst = torch.repeat_interleave(hop.indptr.diff())
            parts.append(torch.stack([hop.indices.long(), dst]))
        return torch.cat(parts, dim=1)

    def to(self, device: torch.device) -> "Batch":
        """Moves every tensor."""
        if device.type == "cpu" or self.n_id.device == device:
            return self
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True)
            for k, v in vars(self).items()
            if isinstance(v, Tensor)
        }
        newest = self.newest.to(device) if self.newest is not None else None
        return replace(self, **moved, hops=[hop.to(device) for hop in self.hops], newest=newest)

    def to_data(self) -> "Data":
        """This batch for PyG's layers and models, with the field names of PyG's LinkNeighborLoader.

        PyG's layers share one `edge_index`, so an edge that several hops drew appears once. With
        `LGConv(normalize=False)` and `edge_weight`, a layer is an unbiased estimate of LightGCN's
        over the edges that the batch may see, and exact if every fan-out is -1.

        Returns:
            `torch_geometric.data.Data` on the batch's device, with the fields (E distinct edges):
            edge_index: [2, E] local ids, from source (row 0) to target (row 1), in order of hops.
            edge_weight: [E] available / drawn neighbours of the target / √(deg_source deg_target).
            n_id: [N] global ids by local id, seeds first.
            degree: [N] training degrees.
            input_id: [b] positions of the pairs in the global batch.
            batch_size: b.
            src_index, dst_pos_index: [b] local ids of users and items.
            dst_neg_index: [b], or [b, num] for several negatives; only with negatives="pairs".
            shared_index: [M] local ids of shared negatives; only with negatives="shared".
            num_sampled_nodes, num_sampled_edges: new ones of each hop, for `trim_to_layer`. Use it
                only with layers that average: the weights are those of all hops together.

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
    """The batches of one training step: `main` trains the embeddings, `gate` trains the gates."""

    step: int
    main: Batch
    gate: Batch | None = None
