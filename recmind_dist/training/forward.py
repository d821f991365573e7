"""Where the views of a step come from: base rows fetched and propagated over sampled blocks, or the
whole graph propagated
at the owners and final views fetched.

Legend: u rows of this shard that the step touches, n all rows of this shard, S seeds of a batch, C
columns of h.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.model import GatedLightGCN, LossSettings, NodeEmbeddings, TextRows, Trainable
from recmind_dist.model.propagation import with_rows
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.item_means import content_view, newest_item_views
from recmind_dist.randomness import stream_key, uniform_rows
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.step_input import StepInput


@dataclass(frozen=True)
class StepOutputs:
    """What the losses of a step are made of.

    Shapes: main: views of the main batch's seeds; base: [S, D] their base rows; gate_h: [S', C] of
    the gate batch's seeds;
    keys: the momentum copy's; contrast: two views [S, D] of the seeds under noise.
    """

    main: NodeEmbeddings
    base: Tensor
    gate_h: Tensor | None = None
    keys: NodeEmbeddings | None = None
    contrast: tuple[Tensor, Tensor] | None = None


class SampledForward:
    """Fetches base rows of all sampled nodes, then propagates over the batch's blocks."""

    def __init__(self, exchange: RowExchange, num_users: int) -> None:
        self._exchange, self._num_users = exchange, num_users

    def embed(
        self,
        model: GatedLightGCN,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: GatedLightGCN | None,
        trainable: Trainable,
    ) -> StepOutputs:
        """Every rank must call, in forward and in backward."""
        e_ND, z_ND, key_ND = self._lookup(model, step, e_uD, text_u, key_model)
        main = self._views(
            model, step.main, step.main_index, step.main_feature, e_ND, z_ND, trainable
        )
        keys, gate_h = None, None
        if key_model is not None:
            with torch.no_grad():
                keys = self._views(
                    key_model, step.main, step.main_index, step.main_feature, e_ND, key_ND, "all"
                )
        if step.gate is not None and step.gate_index is not None and step.gate_feature is not None:
            gate_h = self._views(
                model, step.gate, step.gate_index, step.gate_feature, e_ND, z_ND, "gates"
            ).h
        base = (
            main.layers[0]
            if model.settings.base == "table"
            else _at(step.main_index, e_ND)[: len(main.graph)]
        )
        return StepOutputs(main, base, gate_h, keys)

    def _lookup(
        self,
        model: GatedLightGCN,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: GatedLightGCN | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """E⁰, z and the momentum copy's z of all needed nodes; projected at the owner, so bytes
        sent do not grow with T.
        Every rank must call, in forward and in backward.

        Without text rows go from the table itself, and e_uD only takes their gradient.
        """
        if (
            text_u is None or model.text_view is None
        ):  # the step asks for texts where there is a view of them
            return self._exchange.lookup_from_table(e_uD, step.plan), None, None
        columns = [e_uD, model.text_view(text_u)]
        if key_model is not None and key_model.text_view is not None:
            with torch.no_grad():
                columns.append(key_model.text_view(text_u))
        parts = self._exchange.lookup(torch.cat(columns, 1), step.plan).chunk(len(columns), dim=1)
        return parts[0], parts[1], parts[2].detach() if len(parts) > 2 else None

    def _views(
        self,
        model: GatedLightGCN,
        batch: Batch,
        index: Tensor | None,
        feature: Tensor,
        e: Tensor,
        z: Tensor | None,
        trainable: Trainable,
    ) -> NodeEmbeddings:
        is_user = batch.n_id < self._num_users
        z_batch = _at(index, z) if z is not None else None
        views: NodeEmbeddings = model(
            _at(index, e), z_batch, is_user, batch.hops, feature, trainable
        )
        return views


class FullGraphForward:
    """Propagates the whole graph at the owners of its rows, then fetches the final views of the
    seeds.

    Args:
        loss: noise for XSimGCL, and whether base rows are penalised; aligns: whether graph and text
        views are wanted by themselves; seed: of the noise.
    """

    def __init__(self, exchange: RowExchange, loss: LossSettings, aligns: bool, seed: int) -> None:
        self._exchange, self._contrast, self._seed = exchange, loss.contrast, seed
        self._needs_views, self._needs_base = aligns, loss.regularization > 0
        self._content: tuple[FullPropagation, tuple[list[Tensor], list[Tensor]]] | None = None

    def embed(
        self,
        model: GatedLightGCN,
        step: StepInput,
        e_nD: Tensor,
        text_n: TextRows | None,
        key_model: GatedLightGCN | None,
        trainable: Trainable,
    ) -> StepOutputs:
        """Every rank must call, in forward and in backward."""
        operator = step.operator
        assert operator is not None, "full propagation without an operator"
        if not len(model.gates) and self._contrast.kind == "none":
            return self._smoothed(model, step, e_nD, text_n, key_model, trainable)
        z_nD = _of_all(_text_views(model, text_n), operator)
        noisy = self._contrast.kind == "xsimgcl"
        own = self._propagate(model, step, e_nD, z_nD, trainable, noisy)
        contrast = (own.graph, own.layers[self._contrast.layer]) if noisy else None
        columns = [
            own.h,
            own.graph,
            own.text,
            e_nD if self._needs_base else own.h,
            *(contrast or ()),
        ]
        h, graph, text, base, *noise = self._lookup(columns, step, step.main_index)
        keys, gate_h = None, None
        if key_model is not None:
            with torch.no_grad():
                key_z = _of_all(_text_views(key_model, text_n), operator)
                made = self._propagate(key_model, step, e_nD, key_z, "all", noisy=False)
                key_graph, key_text = self._lookup([made.graph, made.text], step, step.main_index)
                keys = NodeEmbeddings(key_graph, key_graph, key_text)
        if step.gate_index is not None:
            hops = [operator.hop()] * model.num_layers
            h_gate = model.views(e_nD, z_nD, operator.is_user, hops, operator.feature, "gates").h
            [gate_h] = self._lookup([h_gate], step, step.gate_index)
        return StepOutputs(
            NodeEmbeddings(h, graph, text),
            base,
            gate_h,
            keys,
            (noise[0], noise[1]) if noise else None,
        )

    def _smoothed(
        self,
        model: GatedLightGCN,
        step: StepInput,
        e_nD: Tensor,
        text_n: TextRows | None,
        key_model: GatedLightGCN | None,
        trainable: Trainable,
    ) -> StepOutputs:
        """Where nothing happens between hops: one pass over the edges a hop, and final views of the
        wanted rows alone. Every rank must call, in forward and in backward.
        """
        operator, rows = step.operator, step.plan.local_rows
        assert operator is not None
        is_user, feature = operator.is_user[rows], operator.feature[rows]
        z = _text_views(model, text_n)
        base = None
        if self._needs_base:
            e_nD, base = with_rows(e_nD, rows)
        graph, text = model.smoothed(e_nD, z, operator.mean(step.hidden, rows, step.edges))
        # mixing gates that learn from held-out edges alone have nothing to say of the main batch
        h = graph
        if model.mix is None or trainable != "embeddings":
            content, recent = self._beside(model, operator, e_nD, z, text_n, rows)
            h = model.read_out(graph, graph, text, feature, is_user, trainable, content, recent)
        wants_views = self._needs_views or model.mix is not None
        columns = [h, graph, text] if wants_views else [h, h, h]
        columns.append(h if base is None else base)
        main = self._lookup_rows(columns, step, step.main_index)
        keys, gate_h = None, None
        if key_model is not None:
            with torch.no_grad():
                made = key_model.smoothed(
                    e_nD, _text_views(key_model, text_n), operator.mean(step.hidden, rows)
                )
                key_graph, key_text = self._lookup_rows(list(made), step, step.main_index)
                keys = NodeEmbeddings(key_graph, key_graph, key_text)
        if step.gate_index is not None:
            with torch.no_grad():  # the readout's gates learn, not what they weigh
                if step.hides_edges:  # of the global batch: this rank may have none of them
                    graph, text = model.smoothed(e_nD, z, operator.mean(rows=rows))
                content, recent = self._beside(model, operator, e_nD, z, text_n, rows)
                columns = [
                    graph.detach(),
                    text.detach(),
                    feature[:, None],
                    is_user[:, None].to(graph.dtype),
                ]
                columns += [*content, *recent]
                graph, text, feature, is_user, *columns = self._lookup_rows(
                    columns, step, step.gate_index
                )
            content, recent = columns[: len(content)], columns[len(content) :]
            gate_h = model.read_out(
                graph,
                graph,
                text,
                feature[:, 0],
                is_user[:, 0] > 0,
                "gates",
                content=content,
                recent=recent,
            )
        return StepOutputs(NodeEmbeddings(main[0], main[1], main[2]), main[3], gate_h, keys)

    @torch.no_grad()
    def _beside(
        self,
        model: GatedLightGCN,
        operator: FullPropagation,
        e_nD: Tensor,
        z: Tensor | None,
        text_n: TextRows | None,
        rows: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Content view and recent means at `rows`, as `Mix` reads them. Every rank must call."""
        decay = model.settings.recent_decay
        recent = (
            newest_item_views(operator, model.smoothed(e_nD, z, operator.mean()), decay)
            if decay
            else []
        )
        content: list[Tensor] = []
        if model.settings.content_view and text_n is not None:
            if (
                self._content is None or self._content[0] is not operator
            ):  # it changes with the edges alone
                self._content = operator, content_view(operator, text_n.text, decay)
            content, recent_content = self._content[1]
            recent = [*recent, *recent_content]
        return [x[rows] for x in content], [x[rows] for x in recent]

    def _propagate(
        self,
        model: GatedLightGCN,
        step: StepInput,
        e: Tensor,
        z: Tensor | None,
        trainable: Trainable,
        noisy: bool,
    ) -> NodeEmbeddings:
        """Views of all rows of this rank. Every rank must call, in forward and in backward."""
        operator = step.operator
        assert operator is not None
        hops = [operator.hop(step.hidden)] * model.num_layers

        def perturb(state: Tensor, layer: int) -> Tensor:
            """Uniform noise in the state's orthant, of a length of its own. Source:
            arXiv:2112.08679 eq. 7.
            """
            key = stream_key(self._seed, "noise-first", step.step, layer)
            drawn = torch.from_numpy(uniform_rows(key, operator.own_nodes, state.shape[1])).to(
                state
            )
            return (
                state
                + state.detach().sign() * functional.normalize(drawn, dim=1) * self._contrast.noise
            )

        return model.views(
            e, z, operator.is_user, hops, operator.feature, trainable, perturb if noisy else None
        )

    def _lookup(self, columns: list[Tensor], step: StepInput, index: Tensor | None) -> list[Tensor]:
        """Rows of these columns, [n, C] each, for a batch's seeds; what is the same tensor travels
        once. Every rank must call, in forward and in backward.
        """
        rows = step.plan.local_rows
        wanted = {id(c): c.index_select(0, rows) for c in columns}
        return self._lookup_rows([wanted[id(c)] for c in columns], step, index)

    def _lookup_rows(
        self, columns: list[Tensor], step: StepInput, index: Tensor | None
    ) -> list[Tensor]:
        """As `_lookup`, of columns that hold the rows of the exchange's plan alone, [u, C] each.
        Every rank must call, in forward and in backward.
        """
        distinct = list({id(c): c for c in columns}.values())
        rows = torch.cat(distinct, 1) if len(distinct) > 1 else distinct[0]
        fetched = _at(index, self._exchange.lookup(rows, step.plan))
        parts = dict(
            zip(
                map(id, distinct),
                torch.split(fetched, [c.shape[1] for c in distinct], dim=1),
                strict=True,
            )
        )
        return [parts[id(c)] for c in columns]


def _at(index: Tensor | None, x: Tensor) -> Tensor:
    """Rows of x; without an index x itself, which is in their order."""
    return x if index is None else x.index_select(0, index)


def _text_views(model: GatedLightGCN, text: TextRows | None) -> Tensor | None:
    """z of the rows whose texts are given: all of this rank's, or its items' where users have none."""
    if text is None or model.text_view is None:
        return None
    z: Tensor = model.text_view(text)
    return z


def _of_all(z: Tensor | None, operator: FullPropagation) -> Tensor | None:
    """z of all rows of this rank, zero where only items' are given. Shape: [n, D]."""
    if z is None or len(z) == len(operator.is_user):
        return z
    return z.new_zeros(len(operator.is_user), z.shape[1]).index_copy(0, operator.items, z)
