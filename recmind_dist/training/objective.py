"""The objective of one step, as the module that DeepSpeed owns: fetch rows, run the model, add up the losses.

Legend: N sampled nodes, u distinct owned rows that the step touches anywhere, D dims, b pairs and a anchors of this rank.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from recmind_dist.model import AlignmentSettings, GatedLightGCN, KeyQueue, Learn, LossSettings, TextRows, Views, losses
from recmind_dist.parallel import ExchangePlan, Ranks, RowExchange, all_gather_rows
from recmind_dist.sampling import Batch
from recmind_dist.training.fresh_text import FreshText, FreshTextEncoder

VIEWS = ("user_graph", "user_text", "item_graph", "item_text")


@dataclass(frozen=True)
class PreparedStep:
    """Everything a step needs that can be made ahead, in the prefetching thread.

    Shapes: main_index, gate_index: [N], rows of the exchange for the nodes of each batch; degree features [N].
    """

    step: int
    main: Batch
    gate: Batch | None
    plan: ExchangePlan
    main_index: Tensor
    gate_index: Tensor | None
    main_feature: Tensor
    gate_feature: Tensor | None
    fresh: FreshText | None = None


@dataclass
class Outcome:
    """Loss terms of this rank's share, their sum to be minimised, and the keys to enqueue."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


class Objective(nn.Module):
    """L = L_rank + λ_align (L_align^U + L_align^I) + λ_reg Ω, with the gates taught by held-out pairs beside it.

    Args:
        model: the dense part; fresh_encoder: the language model with adapters, in the warm-up only; exchange, ranks: where
            rows come from; heldout_gates: whether gates learn from the gate batch alone.
    """

    def __init__(
        self, model: GatedLightGCN, fresh_encoder: FreshTextEncoder | None, exchange: RowExchange, ranks: Ranks,
        loss: LossSettings, alignment: AlignmentSettings, *, num_users: int, heldout_gates: bool, joint: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.fresh_encoder = model, fresh_encoder
        self._exchange, self._ranks = exchange, ranks
        self.loss, self.alignment = loss, alignment
        self.heldout_gates, self.joint = heldout_gates, joint
        self._num_users = num_users
        self.outcome = Outcome()

    def forward(
        self,
        step: PreparedStep,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: GatedLightGCN | None,
        queues: dict[str, KeyQueue],
    ) -> tuple[Tensor, ...]:
        """Values of the loss terms, a plain tuple for ZeRO 3's hooks; names and keys are left in `outcome`.

        Every rank must call: rows are exchanged and views gathered, here and in backward.
        """
        out = self.outcome = Outcome()
        e_ND, z_ND, key_ND = self._all_fetch(step.plan, e_uD, text_u, key_model)
        learn: Learn = "embeddings" if self.heldout_gates or not self.joint else "all"
        views = self._views(self.model, step.main, step.main_index, step.main_feature, e_ND, z_ND, learn)
        if self.joint:
            out.terms["rank"] = self._rank_loss(views.h, step.main)
            out.terms["regularization"] = self.loss.regularization * self._penalty(e_ND[step.main_index], step)
        elif self.fresh_encoder is not None:
            adapters = [p.square().sum() for p in self.fresh_encoder.parameters() if p.requires_grad]
            half_norm = 0.5 * torch.stack(adapters).sum() / self._ranks.world_size
            out.terms["regularization"] = self.loss.regularization * half_norm
        if self.aligns:
            keys = self._keys(key_model, step, e_ND, key_ND)
            self._all_align(out, views, step, keys, queues)
        if step.gate is not None and step.gate_index is not None and step.gate_feature is not None:
            gate_views = self._views(self.model, step.gate, step.gate_index, step.gate_feature, e_ND, z_ND, "gates")
            out.terms["gate"] = self._rank_loss(gate_views.h, step.gate)
        return tuple(out.terms.values())

    @property
    def aligns(self) -> bool:
        """Whether graph and text views are pulled together at all."""
        return self.model.uses_text and self.alignment.weight > 0 and (self.alignment.users or self.alignment.items)

    def _all_fetch(
        self, plan: ExchangePlan, e_uD: Tensor, text_u: TextRows | None, key_model: GatedLightGCN | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """E⁰, z and the momentum copy's z of all needed nodes; projected at the owner, so bytes sent do not grow with T."""
        if text_u is None or self.model.text_view is None:
            return self._exchange.all_fetch(e_uD, plan), None, None
        columns = [e_uD, self.model.text_view(text_u)]
        if key_model is not None and key_model.text_view is not None:
            with torch.no_grad():
                columns.append(key_model.text_view(text_u))
        parts = self._exchange.all_fetch(torch.cat(columns, 1), plan).chunk(len(columns), dim=1)
        return parts[0], parts[1], parts[2].detach() if len(parts) > 2 else None

    def _views(
        self,
        model: GatedLightGCN,
        batch: Batch,
        index: Tensor,
        feature: Tensor,
        e: Tensor,
        z: Tensor | None,
        learn: Learn,
    ) -> Views:
        is_user = batch.n_id < self._num_users
        z_batch = z.index_select(0, index) if z is not None else None
        views: Views = model(e.index_select(0, index), z_batch, batch.degree, is_user, batch.hops, feature, learn)
        return views

    def _rank_loss(self, h_SD: Tensor, batch: Batch) -> Tensor:
        users, positives = h_SD[batch.src_index], h_SD[batch.dst_pos_index]
        weight = losses.tail_weights(batch.degree[batch.dst_pos_index], self.loss.tail_exponent)
        total = batch.global_batch_size
        if self.loss.kind == "ssm":
            shared = h_SD[batch.shared_index]
            return losses.sampled_softmax(
                users, positives, shared, batch.shared_positive, self.loss.temperature, weight, total
            )
        return losses.bpr(users, positives, h_SD[batch.dst_neg_index], weight, total)

    def _penalty(self, e_ND: Tensor, step: PreparedStep) -> Tensor:
        """Ω: base rows of the pairs and, a rank's share of it, the gates where this step teaches them."""
        batch, model = step.main, self.model
        rows = [e_ND[batch.src_index], e_ND[batch.dst_pos_index], e_ND[batch.dst_neg_index]]
        penalty = losses.base_row_penalty(rows, batch.global_batch_size)
        if step.gate is None and self.heldout_gates:
            return penalty
        gates = [*model.gates.parameters(), *(model.readout_gate.parameters() if model.readout_gate else ())]
        dense = torch.stack([p.square().sum() for p in gates]).sum() if gates else e_ND.new_zeros(())
        return penalty + 0.5 * dense / self._ranks.world_size

    def _keys(
        self, key_model: GatedLightGCN | None, step: PreparedStep, e: Tensor, key_z: Tensor | None
    ) -> Views | None:
        if key_model is None:
            return None
        with torch.no_grad():
            return self._views(key_model, step.main, step.main_index, step.main_feature, e, key_z, "all")

    def _all_align(
        self, out: Outcome, views: Views, step: PreparedStep, keys: Views | None, queues: dict[str, KeyQueue]
    ) -> None:
        batch = step.main
        stride, counts = anchor_stride(batch.global_batch_size, self.alignment.anchors), self._anchor_counts(batch)
        mine = batch.input_id % stride == 0
        own = _four_views(views, batch.src_index[mine], batch.dst_pos_index[mine])
        if self.fresh_encoder is not None and step.fresh is not None:
            own = self.fresh_encoder.replace(own, step.fresh, self.model)
        everybody = all_gather_rows(torch.cat(list(own.values()), 1), counts, self._ranks)
        gathered = dict(zip(VIEWS, everybody.chunk(4, dim=1), strict=True))
        ids = batch.global_pairs[:, ::stride]
        total = ids.shape[1]
        for row, side, wanted in ((0, "user", self.alignment.users), (1, "item", self.alignment.items)):
            if not wanted:
                continue
            anchor_ids = batch.global_pairs[row][batch.input_id[mine]]
            both = [
                losses.info_nce(
                    own[f"{side}_{a}"], own[f"{side}_{b}"], anchor_ids, gathered[f"{side}_{b}"], ids[row],
                    self.alignment.temperature, queue=queues[f"{side}_{b}"].keys, queue_ids=queues[f"{side}_{b}"].ids,
                    hardness=self.alignment.hardness, total=total,
                )
                for a, b in (("graph", "text"), ("text", "graph"))
            ]  # fmt: skip
            out.terms[f"align_{side}"] = self.alignment.weight * 0.5 * (both[0] + both[1])
        if keys is not None:
            mine_keys = _four_views(keys, batch.src_index[mine], batch.dst_pos_index[mine])
            with torch.no_grad():
                all_keys = all_gather_rows(torch.cat(list(mine_keys.values()), 1), counts, self._ranks)
            out.keys = dict(zip(VIEWS, all_keys.chunk(4, dim=1), strict=True))

    def _anchor_counts(self, batch: Batch) -> list[int]:
        stride, world = anchor_stride(batch.global_batch_size, self.alignment.anchors), self._ranks.world_size
        bounds = [batch.global_batch_size * r // world for r in range(world + 1)]
        before = [-(-b // stride) for b in bounds]
        return [after - start for start, after in pairwise(before)]


def anchor_stride(global_batch_size: int, anchors: int) -> int:
    """Every how-manieth pair of the global batch is aligned."""
    return max(1, -(-global_batch_size // anchors))


def _four_views(views: Views, users: Tensor, items: Tensor) -> dict[str, Tensor]:
    return {
        "user_graph": views.graph[users],
        "user_text": views.text[users],
        "item_graph": views.graph[items],
        "item_text": views.text[items],
    }
