"""The objective of one step, as the module that DeepSpeed owns: fetch rows, run the model, add up
the losses.

Legend: N sampled nodes, u distinct owned rows that the step touches anywhere, D dims, b pairs and a
anchors of this rank.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from recmind_dist.distributed.all_gather import all_gather_rows
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.graph.ownership import by_owner
from recmind_dist.model import (
    AlignmentSettings,
    GatedLightGCN,
    KeyQueue,
    LossSettings,
    NodeEmbeddings,
    TextRows,
    Trainable,
    losses,
)
from recmind_dist.randomness import stream_key, uniforms
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.forward import FullGraphForward, SampledForward, StepOutputs
from recmind_dist.training.fresh_text import FreshTextEncoder
from recmind_dist.training.step_input import StepInput
from recmind_dist.types import IntArray

VIEWS = ("user_graph", "user_text", "item_graph", "item_text")


@dataclass
class LossTerms:
    """Loss terms of this rank's share, their sum to be minimised, and the keys to enqueue."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


class TrainingLoss(nn.Module):
    """L = L_rank + λ_align (L_align^U + L_align^I) + λ_reg Ω, with the gates taught by held-out
    pairs beside it.

    Args:
        model: the dense part; fresh_encoder: the language model with adapters, in the warm-up only;
        exchange, ranks: where
            rows come from; heldout_gates: whether gates learn from the gate batch alone; full:
            whether propagation is full;
            gate_tail_exponent: pairs of the gate batch weigh (degree of the item + 1)^-q; seed: of
            noise and of nodes drawn.
    """

    def __init__(
        self,
        model: GatedLightGCN,
        fresh_encoder: FreshTextEncoder | None,
        exchange: RowExchange,
        context: DistContext,
        loss: LossSettings,
        alignment: AlignmentSettings,
        *,
        num_users: int,
        num_items: int,
        heldout_gates: bool,
        joint: bool,
        full: bool = False,
        gate_tail_exponent: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.fresh_encoder = model, fresh_encoder
        self._context, self._num_items = context, num_items
        self.gate_tail_exponent, self._seed = gate_tail_exponent, seed
        self.loss, self.alignment = loss, alignment
        self.heldout_gates, self.joint = heldout_gates, joint
        self._source = (
            FullGraphForward(exchange, loss, self.aligns, seed)
            if full
            else SampledForward(exchange, num_users)
        )
        self.loss_terms = LossTerms()

    def forward(
        self,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: GatedLightGCN | None,
        queues: dict[str, KeyQueue],
    ) -> tuple[Tensor, ...]:
        """Values of the loss terms, a plain tuple for ZeRO 3's hooks; names and keys are left in
        `loss_terms`.

        Every rank must call: rows are exchanged and views gathered, here and in backward.
        """
        out = self.loss_terms = LossTerms()
        trainable: Trainable = "embeddings" if self.heldout_gates or not self.joint else "all"
        views = self._source.embed(
            self.model, step, e_uD, text_u, key_model if self.aligns else None, trainable
        )
        if self.joint:
            self._rank(out, views, step)
            if views.contrast is not None:
                contrast = self._all_contrast(views.contrast, step)
                out.terms["contrast"] = self.loss.contrast.weight * contrast
            out.terms["regularization"] = self._penalty(views.base, step)
        elif self.fresh_encoder is not None:
            adapters = [
                p.square().sum() for p in self.fresh_encoder.parameters() if p.requires_grad
            ]
            half_norm = 0.5 * torch.stack(adapters).sum() / self._context.world_size
            out.terms["regularization"] = self.loss.regularization * half_norm
        if self.aligns:
            self._align(out, views.main, step, views.keys, queues)
        if step.gate is not None and views.gate_h is not None:
            out.terms["gate"] = self._gate_loss(views.gate_h, step.gate)
        return tuple(out.terms.values())

    def _rank(self, out: LossTerms, views: StepOutputs, step: StepInput) -> None:
        """The ranking loss of the final vectors; under readout: mix that of each view by itself,
        since mixing is learnt
        from held-out edges.
        """
        temperature = self.loss.temperature
        if self.model.mix is None:
            out.terms["rank"] = self._rank_loss(views.main.h, step.main, temperature)
        else:
            out.terms["rank"] = self._rank_loss(views.main.graph, step.main, temperature)
            out.terms["rank_text"] = self._rank_loss(views.main.text, step.main, temperature)
            if not self.heldout_gates:
                out.terms["gate"] = self._rank_loss(
                    views.main.h, step.main, None, self.gate_tail_exponent
                )

    def _all_contrast(self, pair: tuple[Tensor, Tensor], step: StepInput) -> Tensor:
        """InfoNCE between two views of the same nodes, users and items apart, each node against
        those of the global batch. Every rank must call, in forward and in backward.
        """
        batch, terms = step.main, []
        for row, index in enumerate((batch.src_index, batch.dst_pos_index)):
            ids, places, counts = self._contrasted(batch.global_pairs[row].cpu().numpy(), step.step)
            own = index[torch.from_numpy(places).to(index.device)]
            first, second = pair[0][own], pair[1][own]
            keys = all_gather_rows(second, counts, self._context)
            key_ids = torch.from_numpy(ids).to(index.device)
            start = sum(counts[: self._context.rank])
            own_ids = key_ids[start : start + len(own)]
            terms.append(
                losses.info_nce(
                    first,
                    second,
                    own_ids,
                    keys,
                    key_ids,
                    self.loss.contrast.temperature,
                    queue=first.new_zeros(0, first.shape[1]),
                    queue_ids=key_ids[:0],
                    hardness=0.0,
                    total=len(ids),
                )
            )
        return terms[0] + terms[1]

    def _contrasted(self, nodes: IntArray, step: int) -> tuple[IntArray, IntArray, list[int]]:
        """Which nodes of the global batch are contrasted, by whom: each by the rank of the first
        pair that has it, so that every rank knows without asking.

        Args:
            nodes: [GB] of one side, of every pair of the global batch.
        Returns: their ids rank by rank, ascending within each; the places among this rank's pairs
        of those that are its own; [P] how many each rank has.
        """
        ids, first = np.unique(nodes, return_index=True)
        most = self.loss.contrast.max_nodes
        if 0 < most < len(ids):
            draws = uniforms(stream_key(self._seed, "contrast", step), ids)
            kept = np.sort(np.argsort(draws, kind="stable")[:most])
            ids, first = ids[kept], first[kept]
        rank, world = self._context.rank, self._context.world_size
        bounds = np.array([len(nodes) * r // world for r in range(world + 1)])
        order, starts = by_owner(first, bounds)
        places = first[order[starts[rank] : starts[rank + 1]]] - bounds[rank]
        return ids[order], places, np.diff(starts).tolist()

    @property
    def aligns(self) -> bool:
        """Whether graph and text views are pulled together at all, the same on every rank."""
        return (
            self.model.uses_text
            and self.alignment.weight > 0
            and (self.alignment.users or self.alignment.items)
        )

    def _gate_loss(self, h_SC: Tensor, batch: Batch) -> Tensor:
        if self.model.mix is None:
            return self._rank_loss(h_SC, batch, self.loss.temperature, self.gate_tail_exponent)
        # few negatives would leave the best of a large catalogue unseen, and b_i as if there were
        # none to beat
        negative_weight = max(1.0, self._num_items / max(len(batch.shared_index), 1))
        return self._rank_loss(h_SC, batch, None, self.gate_tail_exponent, negative_weight)

    def _rank_loss(
        self,
        h_SC: Tensor,
        batch: Batch,
        temperature: float | None,
        tail_exponent: float = 0.0,
        negative_weight: float = 1.0,
    ) -> Tensor:
        weight = losses.tail_weights(batch.degree[batch.dst_pos_index], tail_exponent)
        weight = weight * losses.tail_weights(
            batch.degree[batch.src_index], self.loss.user_exponent
        )
        total = batch.global_batch_size
        if self.loss.kind == "ssm":
            return losses.sampled_softmax(
                h_SC,
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
        return losses.bpr(
            h_SC, batch.src_index, batch.dst_pos_index, batch.dst_neg_index, weight, total
        )

    def _penalty(self, base_SD: Tensor, step: StepInput) -> Tensor:
        """Ω: base rows of the pairs and, a rank's share of it, the gates where this step teaches
        them.
        """
        batch, model = step.main, self.model
        if self.loss.regularization == 0:
            return base_SD.new_zeros(())
        named = torch.cat([batch.src_index, batch.dst_pos_index, batch.dst_neg_index.flatten()])
        penalty = losses.base_row_penalty(base_SD, named, batch.global_batch_size)
        if step.gate is None and self.heldout_gates:
            return self.loss.regularization * penalty
        gates = list(model.gates.parameters())
        dense = (
            torch.stack([p.square().sum() for p in gates]).sum() if gates else base_SD.new_zeros(())
        )
        return self.loss.regularization * (penalty + 0.5 * dense / self._context.world_size)

    def _align(
        self,
        out: LossTerms,
        views: NodeEmbeddings,
        step: StepInput,
        keys: NodeEmbeddings | None,
        queues: dict[str, KeyQueue],
    ) -> None:
        """InfoNCE between graph and text views of the global batch's anchors. Every rank must call,
        in forward and in backward.
        """
        batch = step.main
        stride, counts = (
            anchor_stride(batch.global_batch_size, self.alignment.anchors),
            self._anchor_counts(batch),
        )
        mine = batch.input_id % stride == 0
        own = _four_views(views, batch.src_index[mine], batch.dst_pos_index[mine])
        if self.fresh_encoder is not None and step.fresh is not None:
            own = self.fresh_encoder.replace(own, step.fresh, self.model)
        everybody = all_gather_rows(
            torch.cat(list(own.values()), 1), counts, self._context, "queue"
        )
        gathered = dict(zip(VIEWS, everybody.chunk(4, dim=1), strict=True))
        ids = batch.global_pairs[:, ::stride]
        total = ids.shape[1]
        for row, side, wanted in (
            (0, "user", self.alignment.users),
            (1, "item", self.alignment.items),
        ):
            if not wanted:
                continue
            anchor_ids = batch.global_pairs[row][batch.input_id[mine]]
            both = [
                losses.info_nce(
                    own[f"{side}_{a}"],
                    own[f"{side}_{b}"],
                    anchor_ids,
                    gathered[f"{side}_{b}"],
                    ids[row],
                    self.alignment.temperature,
                    queue=queues[f"{side}_{b}"].keys,
                    queue_ids=queues[f"{side}_{b}"].ids,
                    hardness=self.alignment.hardness,
                    total=total,
                )
                for a, b in (("graph", "text"), ("text", "graph"))
            ]
            out.terms[f"align_{side}"] = self.alignment.weight * 0.5 * (both[0] + both[1])
        if keys is not None:
            mine_keys = _four_views(keys, batch.src_index[mine], batch.dst_pos_index[mine])
            with torch.no_grad():
                all_keys = all_gather_rows(
                    torch.cat(list(mine_keys.values()), 1), counts, self._context, "queue"
                )
            out.keys = dict(zip(VIEWS, all_keys.chunk(4, dim=1), strict=True))

    def _anchor_counts(self, batch: Batch) -> list[int]:
        stride, world = (
            anchor_stride(batch.global_batch_size, self.alignment.anchors),
            self._context.world_size,
        )
        bounds = [batch.global_batch_size * r // world for r in range(world + 1)]
        before = [-(-b // stride) for b in bounds]
        return [after - start for start, after in pairwise(before)]


def anchor_stride(global_batch_size: int, anchors: int) -> int:
    """Every how-manieth pair of the global batch is aligned."""
    return max(1, -(-global_batch_size // anchors))


def _four_views(views: NodeEmbeddings, users: Tensor, items: Tensor) -> dict[str, Tensor]:
    return {
        "user_graph": views.graph[users],
        "user_text": views.text[users],
        "item_graph": views.graph[items],
        "item_text": views.text[items],
    }
