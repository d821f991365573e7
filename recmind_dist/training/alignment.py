"""Alignment of graph view and text view: symmetric InfoNCE over the anchors of the global batch.

Legend: a anchors of this rank, A anchors of the global batch, P ranks, D dims.
"""

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import all_gather_rows
from recmind_dist.distributed.context import DistContext
from recmind_dist.model.losses import CONTRAST_TEMPERATURE, info_nce
from recmind_dist.model.models import Model
from recmind_dist.model.node_embeddings import NodeEmbeddings
from recmind_dist.model.queue import KeyQueue
from recmind_dist.model.settings import AlignmentSettings
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.fresh_text import FreshTextEncoder
from recmind_dist.training.step_input import StepInput
from recmind_dist.types import IntArray

VIEWS = ("user_graph", "user_text", "item_graph", "item_text")
MOST_ANCHORS = 512


def num_anchors(batch_size: int) -> int:
    """Pairs of the global batch that are aligned in a step: a quarter of `train.batch_size`, up to
    512, since the work grows with their square.
    """
    return min(max(batch_size // 4, 1), MOST_ANCHORS)


def anchor_stride(global_batch_size: int, anchors: int) -> int:
    """Every stride-th pair of the global batch is an anchor."""
    return max(1, -(-global_batch_size // anchors))


def every_nth(first: int, stride: int) -> slice:
    """A rank's pairs at multiples of `stride` in the global batch, where they begin at `first`."""
    return slice(-first % stride, None, stride)


def counts_of_every_nth(global_batch_size: int, stride: int, world_size: int) -> IntArray:
    """How many pairs at multiples of `stride` each rank has, [P]."""
    bounds = global_batch_size * np.arange(world_size + 1, dtype=np.int64) // world_size
    return np.diff(-(-bounds // stride))


class Alignment:
    """Pulls the two views of a node together, users and items apart.

    Args:
        anchors: pairs of the global batch that are aligned in a step.
        fresh_encoder: the language model with adapters, in the warm-up.
    """

    def __init__(
        self,
        settings: AlignmentSettings,
        anchors: int,
        fresh_encoder: FreshTextEncoder | None,
        context: DistContext,
    ) -> None:
        self.settings, self._anchors = settings, anchors
        self._fresh_encoder, self._context = fresh_encoder, context
        sides = ("user", "item") if settings.sides == "both" else (settings.sides[:-1],)
        self._sides = tuple(sides)

    def terms(
        self,
        model: Model,
        embeddings: NodeEmbeddings,
        step: StepInput,
        queues: dict[str, KeyQueue],
    ) -> dict[str, Tensor]:
        """A loss term for each side. Collective: every rank must call, in forward and in backward.

        Args:
            embeddings: of the main batch's seeds.
            queues: keys of past steps, by view.
        """
        batch, settings = step.main, self.settings
        anchors = self._own_anchors(batch)
        own = _views(embeddings, batch.src_index[anchors], batch.dst_pos_index[anchors])
        if self._fresh_encoder is not None and step.fresh is not None:
            own = self._fresh_encoder.replace(own, step.fresh, model)
        of_all_ranks = self._gathered(own, batch)
        assert step.anchor_pairs is not None
        terms = {}
        for side in self._sides:
            row = ("user", "item").index(side)
            ids = step.anchor_pairs[row]
            both = [
                info_nce(
                    own[f"{side}_{query}"],
                    own[f"{side}_{key}"],
                    batch.pairs[row, anchors],
                    of_all_ranks[f"{side}_{key}"],
                    ids,
                    CONTRAST_TEMPERATURE,
                    queue=queues[f"{side}_{key}"].keys,
                    queue_ids=queues[f"{side}_{key}"].ids,
                    hardness=settings.hardness,
                    total=len(ids),
                )
                for query, key in (("graph", "text"), ("text", "graph"))
            ]
            terms[f"align_{side}"] = settings.weight * 0.5 * (both[0] + both[1])
        return terms

    @torch.no_grad()
    def anchor_keys(self, embeddings: NodeEmbeddings, batch: Batch) -> dict[str, Tensor]:
        """The anchors' keys of all ranks, by view: [A, D] each. Collective: every rank must call.

        Args:
            embeddings: the momentum copy's, of the main batch's seeds.
        """
        anchors = self._own_anchors(batch)
        own = _views(embeddings, batch.src_index[anchors], batch.dst_pos_index[anchors])
        return self._gathered(own, batch)

    def _gathered(self, own: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Every rank's rows of each view, [a, D] → [A, D]. Collective: every rank must call."""
        rows = torch.cat(list(own.values()), 1)
        of_all_ranks = all_gather_rows(rows, self._anchor_counts(batch), self._context, "queue")
        return dict(zip(VIEWS, of_all_ranks.chunk(len(VIEWS), dim=1), strict=True))

    def _own_anchors(self, batch: Batch) -> slice:
        """This rank's anchors among its pairs."""
        size, context = batch.global_batch_size, self._context
        first = size * context.rank // context.world_size
        return every_nth(first, anchor_stride(size, self._anchors))

    def _anchor_counts(self, batch: Batch) -> list[int]:
        """Anchors of each rank, [P]."""
        size = batch.global_batch_size
        stride = anchor_stride(size, self._anchors)
        counts: list[int] = counts_of_every_nth(size, stride, self._context.world_size).tolist()
        return counts


def _views(embeddings: NodeEmbeddings, users: Tensor, items: Tensor) -> dict[str, Tensor]:
    graph, text = embeddings.graph, embeddings.text
    return dict(zip(VIEWS, (graph[users], text[users], graph[items], text[items]), strict=True))
