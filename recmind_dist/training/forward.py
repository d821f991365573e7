"""Where the node embeddings of a step come from.

Sampled: base rows of all sampled nodes are looked up, then propagated over the batch's blocks.
Full: the whole graph is propagated at the owners of its rows, then the seeds' final rows are
looked up.

Legend: u rows of this shard that the step touches, n all rows of this shard, N sampled nodes,
S seeds of a batch, C columns.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.embedding.exchange import LookupPlan, RowExchange
from recmind_dist.features.content_views import ContentViews
from recmind_dist.model.models import Model, acts_between_hops
from recmind_dist.model.node_embeddings import NodeEmbeddings, Trainable
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.subgraph import Subgraph
from recmind_dist.model.text_view import TextRows
from recmind_dist.model.with_rows import with_rows
from recmind_dist.model.xsimgcl import CONTRASTED_LAYER, NOISE_LENGTH, XSimGCL
from recmind_dist.propagation.full_graph import FullGraphView, FullPropagation
from recmind_dist.propagation.item_means import newest_item_views
from recmind_dist.randomness import stream_key, uniform_rows
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.step_input import StepInput


@dataclass(frozen=True)
class StepOutputs:
    """What the losses of a step are made of.

    Attributes:
        main: of the main batch's seeds.
        base: [S, D] their rows of the table.
        gate_final: [S', C] final embeddings of the gate batch's seeds.
        keys: the momentum copy's.
        contrast: two embeddings [S, D] of the same seeds, one of them of an inner layer.
    """

    main: NodeEmbeddings
    base: Tensor
    gate_final: Tensor | None = None
    keys: NodeEmbeddings | None = None
    contrast: tuple[Tensor, Tensor] | None = None


class SampledForward:
    """Looks up the base rows of all sampled nodes, then propagates over the batch's blocks.

    Args:
        content: content views of this rank's rows, where the model has them.
    """

    def __init__(self, exchange: RowExchange, content: ContentViews | None, num_users: int) -> None:
        self._exchange, self._content, self._num_users = exchange, content, num_users

    def __call__(
        self,
        model: Model,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: Model | None,
        trainable: Trainable,
    ) -> StepOutputs:
        """Collective: every rank must call, in forward and in backward.

        Args:
            e_uD: rows of this shard that any rank needs.
            text_u: their texts.
            key_model: the momentum copy, where there is a queue.
            trainable: which parameters the main batch trains.
        """
        e_ND, z_ND, key_ND = self._lookup(model, step, e_uD, text_u, key_model)
        graph = self._subgraph(step.main, step.main_feature)
        e, base = with_rows(_at(step.main_index, e_ND), slice(graph.num_seeds))
        main = self._embed(model, graph, step, step.main, e, _at(step.main_index, z_ND), trainable)
        keys, gate_final = None, None
        if key_model is not None:
            with torch.no_grad():
                key_z = _at(step.main_index, key_ND)
                keys = self._embed(key_model, graph, step, step.main, e, key_z, "embeddings")
        if step.gate is not None:
            assert step.gate_feature is not None
            graph = self._subgraph(step.gate, step.gate_feature)
            e, z = _at(step.gate_index, e_ND), _at(step.gate_index, z_ND)
            gate_final = self._embed(model, graph, step, step.gate, e, z, "gates").final
        return StepOutputs(main, base, gate_final, keys)

    def _embed(
        self,
        model: Model,
        graph: Subgraph,
        step: StepInput,
        batch: Batch,
        e_ND: Tensor,
        z_ND: Tensor | None,
        trainable: Trainable,
    ) -> NodeEmbeddings:
        """Embeddings of a batch's seeds; of RecMind where gates learn, of its targets.

        Collective: every rank must call.
        """
        if not isinstance(model, RecMind):
            embeddings: NodeEmbeddings = model(graph, e_ND, z_ND, trainable)
            return embeddings
        with torch.set_grad_enabled(torch.is_grad_enabled() and trainable != "gates"):
            views = model.views(graph, e_ND, z_ND)
        if trainable == "embeddings":  # gates learn from the gate batch: `final` is not read
            return NodeEmbeddings(views[0], *views)
        newest: list[Tensor] = []
        if batch.newest is not None:
            newest = [batch.newest.matmul(functional.normalize(v.detach(), dim=1)) for v in views]
        targets, content = slice(batch.num_targets), list[Tensor]()
        if self._content is not None and step.content_plan is not None:
            content, newest_content = self._lookup_content(self._content, step.content_plan)
            newest += newest_content
        targeted = [view[targets] for view in views]
        feature, is_user = graph.degree_feature[targets], graph.is_user[targets]
        final = model.mix([*targeted, *content], newest, feature, is_user)
        return NodeEmbeddings(final, targeted[0], targeted[1])

    @torch.no_grad()
    def _lookup_content(
        self, content: ContentViews, plan: LookupPlan
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Content views and newest items' means. Collective: every rank must call."""
        view, newest = content.select(plan.local_rows)
        columns = [view, *newest]
        rows = self._exchange.lookup(torch.cat(columns, 1), plan)
        found = list(rows.chunk(len(columns), dim=1))
        return found[:1], found[1:]

    def _lookup(
        self,
        model: Model,
        step: StepInput,
        e_uD: Tensor,
        text_u: TextRows | None,
        key_model: Model | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """E⁰, z and the momentum copy's z of all needed nodes. Collective: every rank must call.

        Texts are projected at the owner, so that bytes sent do not grow with T. Without texts rows
        go from the table itself, and e_uD only takes their gradient.
        """
        z_uD = self._text_view(model, step, text_u)
        if z_uD is None:
            return self._exchange.lookup_from_table(e_uD, step.plan), None, None
        columns = [e_uD, z_uD]
        if key_model is not None:
            with torch.no_grad():
                key_uD = self._text_view(key_model, step, text_u)
            assert key_uD is not None
            columns.append(key_uD)
        rows = self._exchange.lookup(torch.cat(columns, 1), step.plan)
        parts = rows.chunk(len(columns), dim=1)
        return parts[0], parts[1], parts[2].detach() if len(parts) > 2 else None

    def _text_view(self, model: Model, step: StepInput, text: TextRows | None) -> Tensor | None:
        """z of the rows of this shard, zero where their texts are not read. Shape: [u, D]."""
        z = text_view(model, text)
        if z is None or step.items is None:
            return z
        return z.new_zeros(len(step.plan.local_rows), z.shape[1]).index_copy(0, step.items, z)

    def _subgraph(self, batch: Batch, feature: Tensor) -> Subgraph:
        return Subgraph(batch.hops, batch.n_id < self._num_users, feature)


class FullGraphForward:
    """Propagates the whole graph at the owners of its rows, then looks up the seeds' embeddings.

    Args:
        content: content views of this rank's rows, where the model has them.
        aligns: whether the loss reads graph and text views by themselves.
        penalises: whether it reads rows of the table.
        seed: of XSimGCL's noise.
    """

    def __init__(
        self,
        exchange: RowExchange,
        content: ContentViews | None,
        aligns: bool,
        penalises: bool,
        seed: int,
    ) -> None:
        self._exchange, self._content, self._seed = exchange, content, seed
        self._aligns, self._penalises = aligns, penalises

    def __call__(
        self,
        model: Model,
        step: StepInput,
        e_nD: Tensor,
        text_n: TextRows | None,
        key_model: Model | None,
        trainable: Trainable,
    ) -> StepOutputs:
        """As `SampledForward`, with all rows of this shard and their texts.

        Collective: every rank must call, in forward and in backward.
        """
        operator, rows = step.operator, step.plan.local_rows
        assert operator is not None, "full propagation without an operator"
        z = text_view(model, text_n)
        graph = operator.view(model.num_layers, step.hidden, rows, step.edges)
        e, base = with_rows(e_nD, rows) if self._penalises else (e_nD, None)
        own = self._embed(model, graph, step, e, z, trainable)
        inner = own.layers[CONTRASTED_LAYER] if isinstance(model, XSimGCL) else own.final
        wants_views = self._aligns or isinstance(model, RecMind)
        columns = [own.final, own.graph, own.text] if wants_views else [own.final] * 3
        columns += [own.final if base is None else base, inner]
        final, graph_view, text, base, inner = self._lookup(columns, step, step.main_index)
        main = NodeEmbeddings(final, graph_view, text)
        contrast = (graph_view, inner) if isinstance(model, XSimGCL) else None
        keys = self._keys(key_model, graph, e_nD, text_n, step) if key_model is not None else None
        gate_final = None
        if step.gate is not None:
            gate_final = self._gate(model, step, own, e_nD, z)
        return StepOutputs(main, base, gate_final, keys, contrast)

    def _embed(
        self,
        model: Model,
        graph: FullGraphView,
        step: StepInput,
        e_nD: Tensor,
        z: Tensor | None,
        trainable: Trainable,
    ) -> NodeEmbeddings:
        """Embeddings of the rows that the step wants. Collective: every rank must call."""
        if isinstance(model, RecMind):
            if trainable == "embeddings":  # gates learn from the gate batch: `final` is not read
                views = model.views(graph, e_nD, z)
                return NodeEmbeddings(views[0], *views)
            beside = self._content_and_newest(model, graph.operator, e_nD, z, graph.rows)
            embeddings: NodeEmbeddings = model(graph, e_nD, z, trainable, *beside)
            return embeddings
        extra: dict[str, Any] = {}
        if isinstance(model, XSimGCL):
            extra["noise"] = partial(self._noise, model, graph.operator, step.step)
        z = _of_all(model, z, graph.operator)
        made: NodeEmbeddings = model(graph, e_nD, z, trainable, **extra)
        return made

    def _gate(
        self,
        model: Model,
        step: StepInput,
        own: NodeEmbeddings,
        e_nD: Tensor,
        z: Tensor | None,
    ) -> Tensor:
        """Final embeddings of the gate batch, with all edges but the held-out ones.

        Collective: every rank must call.

        Args:
            own: the main batch's, of the same rows: where it hides no edges, these are its views.
        """
        operator, rows = step.operator, step.plan.local_rows
        assert operator is not None
        graph = operator.view(model.num_layers, None, rows)
        if not isinstance(model, RecMind):
            final = model(graph, e_nD, _of_all(model, z, operator), "gates").final
            [final] = self._lookup([final], step, step.gate_index)
            return final
        with torch.no_grad():  # gates learn, not what they weigh
            views = own.graph, own.text
            if step.hides_edges:  # of the global batch: this rank may have none of them
                views = model.views(graph, e_nD, z)
            content, recent = self._content_and_newest(model, operator, e_nD, z, rows)
            feature, is_user = graph.select(operator.feature), graph.select(operator.is_user)
            columns = [
                *views,
                *content,
                *recent,
                feature[:, None],
                is_user[:, None].to(feature.dtype),
            ]
            *columns, feature, is_user = self._lookup(columns, step, step.gate_index)
        split = 2 + len(content)
        is_user = is_user[:, 0] > 0
        mixed: Tensor = model.mix(columns[:split], columns[split:], feature[:, 0], is_user)
        return mixed

    def _keys(
        self,
        key_model: Model,
        graph: FullGraphView,
        e_nD: Tensor,
        text_n: TextRows | None,
        step: StepInput,
    ) -> NodeEmbeddings:
        """The momentum copy's views of the main batch's seeds. Collective: every rank must call."""
        with torch.no_grad():
            z = text_view(key_model, text_n)
            graph = replace(graph, edges=None)
            if isinstance(key_model, RecMind):
                views = key_model.views(graph, e_nD, z)
            else:
                made = key_model(graph, e_nD, _of_all(key_model, z, graph.operator))
                views = made.graph, made.text
            graph_view, text = self._lookup(list(views), step, step.main_index)
        return NodeEmbeddings(graph_view, graph_view, text)

    @torch.no_grad()
    def _content_and_newest(
        self,
        model: RecMind,
        operator: FullPropagation,
        e_nD: Tensor,
        z: Tensor | None,
        rows: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Content view and newest items' means at `rows`. Collective: every rank must call."""
        newest: list[Tensor] = []
        if model.settings.recent_decay:
            views = model.views(operator.view(model.num_layers), e_nD, z)
            means = newest_item_views(operator, views, model.settings.recent_decay)
            newest = [x[rows] for x in means]
        if self._content is None:
            return [], newest
        content, newest_content = self._content.select(rows)
        return [content], [*newest, *newest_content]

    def _noise(
        self, model: XSimGCL, operator: FullPropagation, step: int, state: Tensor, layer: int
    ) -> Tensor:
        """Uniform noise in the state's orthant, of fixed length. Source: arXiv:2112.08679 eq. 7."""
        key = stream_key(self._seed, "noise-first", step, layer)
        drawn = torch.from_numpy(uniform_rows(key, operator.own_nodes, state.shape[1])).to(state)
        unit = functional.normalize(drawn, dim=1)
        return state + state.detach().sign() * unit * NOISE_LENGTH

    def _lookup(self, columns: list[Tensor], step: StepInput, index: Tensor | None) -> list[Tensor]:
        """A batch's rows of these columns; what is the same tensor travels once.

        Collective: every rank must call.

        Args:
            columns: [u, C] each.
        """
        distinct = list({id(c): c for c in columns}.values())
        rows = torch.cat(distinct, 1) if len(distinct) > 1 else distinct[0]
        found = _at(index, self._exchange.lookup(rows, step.plan))
        split = torch.split(found, [c.shape[1] for c in distinct], dim=1)
        parts = dict(zip(map(id, distinct), split, strict=True))
        return [parts[id(c)] for c in columns]


def text_view(model: Model, text: TextRows | None) -> Tensor | None:
    """z of the rows whose texts are given; None of a model without a text view."""
    view = getattr(model, "text_view", None)
    if text is None or view is None:
        return None
    z: Tensor = view(text)
    return z


def _at(index: Tensor | None, x: Any) -> Any:
    """Rows of x; without an index x itself, which is in their order."""
    return x if index is None or x is None else x.index_select(0, index)


def _of_all(model: Model, z: Tensor | None, operator: FullPropagation) -> Tensor | None:
    """z of this rank's rows where the model reads them between hops; zero of rows not given."""
    if z is None or len(z) == len(operator.is_user) or not acts_between_hops(model):
        return z
    return z.new_zeros(len(operator.is_user), z.shape[1]).index_copy(0, operator.items, z)
