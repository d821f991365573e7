"""A step's inputs, made ahead of it."""

from dataclasses import dataclass

from torch import Tensor

from recmind_dist.embedding.exchange import LookupPlan
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.fresh_text import FreshText


@dataclass(frozen=True)
class StepInput:
    """Everything a step needs that can be made ahead, in the prefetching thread.

    Attributes:
        main: the batch that the ranking loss learns from.
        gate: the batch of held-out pairs that gates learn from.
        plan: the lookup of the table's rows of all nodes of both batches.
        main_index: [N] which row of the lookup each node of the main batch has; None: in order.
        gate_index: [N] the same for the gate batch.
        main_feature, gate_feature: [N] d̃ of the nodes.
        fresh: texts that go through the language model in this step, in the warm-up.
        operator: the whole graph, in place of sampled blocks, under full propagation.
        hidden: positions in the operator's rows of edges that the batch hides.
        edges: the operator's edges from the rows of `plan` alone, where no edge is hidden.
        content_plan: the lookup of content views, of sampled nodes whose gates learn.
        items: [items] which of `plan.local_rows` are items, where sampled users have no texts.
        anchor_pairs: [2, A] users and items of the global batch's anchors, where views are aligned.
        all_pairs: [2, GB] users and items of all its pairs, where XSimGCL contrasts nodes.
        buffer: number of the buffer that its tensors are in, where those of a later step overwrite
            them, see `captured_inputs`.
    """

    step: int
    main: Batch
    gate: Batch | None
    plan: LookupPlan
    main_index: Tensor | None
    gate_index: Tensor | None
    main_feature: Tensor
    gate_feature: Tensor | None
    fresh: FreshText | None = None
    operator: FullPropagation | None = None
    hidden: Tensor | None = None
    edges: CsrMatrix | None = None
    content_plan: LookupPlan | None = None
    items: Tensor | None = None
    anchor_pairs: Tensor | None = None
    all_pairs: Tensor | None = None
    buffer: int | None = None

    @property
    def hides_edges(self) -> bool:
        """Whether the global batch hides edges: the same on every rank, unlike `hidden`."""
        return self.main.masked_edges is not None and self.main.global_batch_size > 0

    @property
    def rows(self) -> Tensor | slice:
        """Rows of this rank's shard that the step reads and updates."""
        return self.plan.local_rows if self.operator is None else slice(None)

    def rows_with_text(self, users_have_text: bool) -> Tensor | slice:
        """Rows of this rank's shard whose texts the step reads."""
        if users_have_text:
            return self.rows
        if self.operator is not None:
            return self.operator.items
        assert self.items is not None
        return self.plan.local_rows[self.items]
