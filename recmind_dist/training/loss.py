"""The loss of one step, as the module that DeepSpeed owns.

Legend: u rows of this shard that the step touches, S seeds of a batch, C columns, b pairs of this
rank.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.features.content_views import ContentViews
from recmind_dist.graph import Graph
from recmind_dist.model import losses
from recmind_dist.model.models import Model, gate_parameters
from recmind_dist.model.node_embeddings import Trainable
from recmind_dist.model.queue import KeyQueue
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.settings import XSimGCLSettings
from recmind_dist.model.text_view import TextRows
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.alignment import Alignment, num_anchors
from recmind_dist.training.contrast import Contrast
from recmind_dist.training.forward import FullGraphForward, SampledForward, StepOutputs
from recmind_dist.training.fresh_text import FreshTextEncoder
from recmind_dist.training.step_input import StepInput


@dataclass
class LossTerms:
    """Loss terms of this rank's share, whose sum is minimised, and the keys to enqueue."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


class TrainingLoss(nn.Module):
    """L = L_rank + λ_align (L_align^U + L_align^I) + λ_reg Ω + L_gate, and XSimGCL's contrast.

    L_rank of RecMind is that of the graph view and, beside it, that of the text view. L_gate is the
    ranking loss of held-out edges, which trains the gates alone.

    Args:
        model: the dense part.
        content: content views of this rank's rows, where the model has them.
        fresh_encoder: the language model with adapters, in the warm-up only.
        exchange: where rows of the table come from.
        phase: "warmup" (alignment alone) or "joint".
    """

    def __init__(
        self,
        config: RunConfig,
        graph: Graph,
        model: Model,
        content: ContentViews | None,
        fresh_encoder: FreshTextEncoder | None,
        exchange: RowExchange,
        context: DistContext,
        phase: str,
    ) -> None:
        super().__init__()
        self.model, self.fresh_encoder = model, fresh_encoder
        self.joint, self.aligns = phase == "joint", config.aligns
        self.loss, self.alignment = config.loss, config.alignment
        self._gates_learn_apart = config.heldout_gates or config.updates
        self._num_items, self._world_size = graph.num_items, context.world_size
        self._gate = config.gate
        self.users_have_text = config.users_have_text
        self._alignment = Alignment(
            config.alignment, num_anchors(config.train.batch_size), fresh_encoder, context
        )
        self._contrast = None
        if isinstance(config.model, XSimGCLSettings):
            self._contrast = Contrast(config.model.contrast, context, config.train.seed)
        self._forward: SampledForward | FullGraphForward
        self._forward = SampledForward(exchange, content, graph.num_users)
        if config.propagates_fully:
            penalises = config.loss.regularization > 0
            self._forward = FullGraphForward(
                exchange, content, self.aligns, penalises, config.train.seed
            )
        self.loss_terms = LossTerms()

    def forward(
        self,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: Model | None,
        queues: dict[str, KeyQueue],
    ) -> tuple[Tensor, ...]:
        """Values of the loss terms, a plain tuple for ZeRO 3's hooks; names and keys are left in
        `loss_terms`. Collective: every rank must call, in forward and in backward.
        """
        out = self.loss_terms = LossTerms()
        trainable: Trainable = "embeddings" if self._gates_learn_apart or not self.joint else "all"
        key_model = key_model if self.aligns else None
        outputs = self._forward(self.model, step, e_uD, text_u, key_model, trainable)
        if self.joint:
            out.terms |= self._ranking_terms(outputs, step.main)
            if self._contrast is not None and outputs.contrast is not None:
                out.terms["contrast"] = self._contrast.term(outputs.contrast, step)
            out.terms["regularization"] = self._penalty(outputs.base, step)
        elif self.fresh_encoder is not None:
            out.terms["regularization"] = self._adapter_penalty(self.fresh_encoder)
        if self.aligns:
            out.terms |= self._alignment.terms(self.model, outputs.main, step, queues)
            if outputs.keys is not None:
                out.keys = self._alignment.anchor_keys(outputs.keys, step.main)
        if step.gate is not None and outputs.gate_final is not None:
            out.terms["gate"] = self._gate_term(outputs.gate_final, step.gate)
        return tuple(out.terms.values())

    def _ranking_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """The ranking loss of the final embeddings, or for RecMind of each view by itself."""
        main, temperature = outputs.main, self.loss.temperature
        if not isinstance(self.model, RecMind):
            return {"rank": self._rank(main.final, batch, temperature)}
        terms = {"rank": self._rank(main.graph, batch, temperature)}
        if self.model.text_view is not None:
            terms["rank_text"] = self._rank(main.text, batch, temperature)
        if not self._gates_learn_apart:
            terms["gate"] = self._rank(main.final, batch, None, self._tail_exponent)
        return terms

    def _gate_term(self, final_SC: Tensor, batch: Batch) -> Tensor:
        if not isinstance(self.model, RecMind):
            return self._rank(final_SC, batch, self.loss.temperature, self._tail_exponent)
        # with few negatives the best items of a large catalogue would go unseen, and the items'
        # bias would be learnt as if there were none to beat
        negative_weight = max(1.0, self._num_items / max(len(batch.shared_index), 1))
        return self._rank(final_SC, batch, None, self._tail_exponent, negative_weight)

    @property
    def _tail_exponent(self) -> float:
        return self._gate.tail_exponent if self._gate is not None else 0.0

    def _rank(
        self,
        final_SC: Tensor,
        batch: Batch,
        temperature: float | None,
        tail_exponent: float = 0.0,
        negative_weight: float = 1.0,
    ) -> Tensor:
        """The ranking loss of a batch.

        Args:
            temperature: of the softmax; None takes inner products as they are.
            tail_exponent: pairs weigh (degree of the item + 1)^-q.
            negative_weight: number of items that each shared negative stands for.
        """
        weight = final_SC.new_ones(len(batch.src_index))
        if batch.pair_weight is not None:
            weight = weight * batch.pair_weight
        for exponent, index in (
            (tail_exponent, batch.dst_pos_index),
            (self.loss.user_exponent, batch.src_index),
        ):
            if exponent:
                weight = weight * losses.tail_weights(batch.degree[index], exponent)
        total = batch.global_batch_size
        if self.loss.kind == "bpr":
            pairs = batch.src_index, batch.dst_pos_index, batch.dst_neg_index
            return losses.bpr(final_SC, *pairs, weight, total)
        assert self.loss.kind == "ssm", "negatives of another loss: see make_loader"
        return losses.sampled_softmax(
            final_SC,
            batch.user_index,
            batch.user_of_pair,
            batch.dst_pos_index,
            batch.shared_index,
            batch.shared_positive,
            temperature,
            weight,
            total,
            negative_weight,
        )

    def _penalty(self, base_SD: Tensor, step: StepInput) -> Tensor:
        """Ω: base rows of the pairs and, if the step trains them, a rank's share of the gates."""
        batch, scale = step.main, self.loss.regularization
        if scale == 0:
            return base_SD.new_zeros(())
        indices = [batch.src_index, batch.dst_pos_index, batch.dst_neg_index.flatten()]
        penalty = losses.base_row_penalty(base_SD, torch.cat(indices), batch.global_batch_size)
        gates = [] if isinstance(self.model, RecMind) else gate_parameters(self.model)
        if gates and (step.gate is not None or not self._gates_learn_apart):
            squares = torch.stack([p.square().sum() for p in gates])
            penalty = penalty + 0.5 * squares.sum() / self._world_size
        return scale * penalty

    def _adapter_penalty(self, fresh_encoder: FreshTextEncoder) -> Tensor:
        adapters = [p.square().sum() for p in fresh_encoder.parameters() if p.requires_grad]
        return self.loss.regularization * 0.5 * torch.stack(adapters).sum() / self._world_size
