"""XSimGCL's contrast: two layers of a node against each other. Source: arXiv:2209.02544.

Legend: GB pairs of the global batch, P ranks, D dims.
"""

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import all_gather_rows
from recmind_dist.distributed.context import DistContext
from recmind_dist.graph.ownership import by_owner
from recmind_dist.model.losses import CONTRAST_TEMPERATURE, info_nce
from recmind_dist.model.settings import ContrastSettings
from recmind_dist.randomness import stream_key, uniforms
from recmind_dist.training.step_input import StepInput
from recmind_dist.types import IntArray


class Contrast:
    """InfoNCE between two embeddings of the same nodes, users and items apart.

    Args:
        seed: of the nodes drawn where `max_nodes` keeps fewer than the batch has.
    """

    def __init__(self, settings: ContrastSettings, context: DistContext, seed: int) -> None:
        self._settings, self._context, self._seed = settings, context, seed

    def term(self, pair: tuple[Tensor, Tensor], step: StepInput) -> Tensor:
        """Each node against those of the global batch.

        Collective: every rank must call, in forward and in backward.

        Args:
            pair: two embeddings [S, D] of the main batch's seeds.
        """
        batch, terms = step.main, []
        assert step.all_pairs is not None
        for row, index in enumerate((batch.src_index, batch.dst_pos_index)):
            ids, positions, counts = self._nodes(step.all_pairs[row].cpu().numpy(), step.step)
            own = index[torch.from_numpy(positions).to(index.device)]
            first, second = pair[0][own], pair[1][own]
            keys = all_gather_rows(second, counts, self._context)
            key_ids = torch.from_numpy(ids).to(index.device)
            start = sum(counts[: self._context.rank])
            terms.append(
                info_nce(
                    first,
                    second,
                    key_ids[start : start + len(own)],
                    keys,
                    key_ids,
                    CONTRAST_TEMPERATURE,
                    queue=first.new_zeros(0, first.shape[1]),
                    queue_ids=key_ids[:0],
                    hardness=0.0,
                    total=len(ids),
                )
            )
        return self._settings.weight * (terms[0] + terms[1])

    def _nodes(self, nodes: IntArray, step: int) -> tuple[IntArray, IntArray, list[int]]:
        """Which nodes of the global batch are contrasted, by which rank: each by the rank of the
        first pair that has it, so every rank knows without a message.

        Args:
            nodes: [GB] of one side, of every pair of the global batch.
        Returns: their ids rank by rank; positions among this rank's pairs of its own ones; the
            number of each rank's, [P].
        """
        ids, first = np.unique(nodes, return_index=True)
        most = self._settings.max_nodes
        if 0 < most < len(ids):
            draws = uniforms(stream_key(self._seed, "contrast", step), ids)
            kept = np.sort(np.argsort(draws, kind="stable")[:most])
            ids, first = ids[kept], first[kept]
        rank, world_size = self._context.rank, self._context.world_size
        bounds = np.array([len(nodes) * r // world_size for r in range(world_size + 1)])
        order, starts = by_owner(first, bounds)
        positions = first[order[starts[rank] : starts[rank + 1]]] - bounds[rank]
        return ids[order], positions, np.diff(starts).tolist()
