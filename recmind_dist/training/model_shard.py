"""A rank's shard of the model: its rows of the table, their texts, and a whole dense part.

Legend: n rows of this rank, N nodes, D dims, T text dims.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.errors import CheckpointError, StoreError
from recmind_dist.features.content_views import ContentViews, make_content_views
from recmind_dist.features.own_vectors import store_key
from recmind_dist.features.text_features import (
    TextFeatures,
    degree_feature,
    initial_rows,
    load_text_features,
    text_scale,
)
from recmind_dist.graph import EdgeRows, Graph, row_bounds
from recmind_dist.inference.final_embeddings import (
    FinalEmbeddings,
    final_embeddings,
    final_embeddings_of,
)
from recmind_dist.inference.fold_in import FoldIn
from recmind_dist.inference.user_states import UserStates, start_of_texts, user_states
from recmind_dist.model.models import Model, acts_between_hops, build_model
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.gathered_matrix import columns_at_once
from recmind_dist.propagation.item_means import NeighbourMeans
from recmind_dist.randomness import stream_key, torch_seeded
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.device_graph import DeviceGraph
from recmind_dist.sampling.edge_masks import NOTHING_MASKED, EdgeMask, users_of_edges
from recmind_dist.sampling.graph_access import GraphAccess, WholeGraph
from recmind_dist.sampling.partitioned_graph import OwnerMaskedGraph, PartitionedGraph
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.forward import text_view
from recmind_dist.training.run_stores import RunStores, run_identity
from recmind_dist.training.warm_start import WarmStart, carry_rows
from recmind_dist.types import IndexArray, IntArray

_BLOCK_ROWS = 65_536
_SHARE_OF_FREE = 0.25  # of the GPU's memory, for the graph that batches are made from


class ModelShard:
    """Built alike for training, evaluation and export. Collective: every rank must build one,
    because held-out edges are exchanged.

    Args:
        inputs: the prepared stores.
    """

    def __init__(self, config: RunConfig, inputs: RunStores, context: DistContext) -> None:
        self.config, self.inputs, self.context = config, inputs, context
        partitioned = config.graph.placement == "partitioned"
        self.graph = Graph.open(inputs.graph, edges=not partitioned)
        self.bounds = row_bounds(self.graph, context.world_size)
        self.row_range = (int(self.bounds[context.rank]), int(self.bounds[context.rank + 1]))
        self.edges: GraphAccess
        if partitioned:
            self.rows = EdgeRows.share(self.graph, self.bounds, context.rank)
            self.nodes = self.rows.nodes
            self.edges = PartitionedGraph(self.rows, self.bounds, context)
        else:
            self.rows = EdgeRows.of_graph(self.graph)
            self.nodes = np.argsort(self.graph.row_of_node)[slice(*self.row_range)].copy()
            self.edges = self._whole_graph()
        self.whitening: Whitening | None = None
        if inputs.whitening is not None:
            self.whitening = Whitening.load(inputs.whitening)
        self.text: TextFeatures | None = None
        self.content: ContentViews | None = None
        self._load_text()
        dim = config.model.embedding_dim
        self.table = ShardedTable(
            self.row_range, self.graph.num_nodes, dim, config.table, context.device
        )
        self.model = self.build_dense()

    def _whole_graph(self) -> GraphAccess:
        """Access to all edges, as the host reads them."""
        context = self.context
        if context.world_size > 1 and self.config.owners_draw:
            return OwnerMaskedGraph(self.rows, self.bounds, context)
        return WholeGraph(self.graph, context.rank, context.world_size, context)

    @cached_property
    def batches_on_device(self) -> bool:
        """Whether batches are made on the ranks' GPUs: where each has room for all edges.

        Of a partitioned graph, and by pyg-lib, the CPU makes them. Collective, because CPUs
        exchange what GPUs work out: every rank must call.
        """
        if not self._suits_device:
            return False
        fits = torch.tensor([int(self._device_has_room)], device=self.context.device)
        return int(self.context.all_reduce(fits).item()) == self.context.world_size

    @property
    def _suits_device(self) -> bool:
        """Whether a GPU could make the batches; the same on every rank."""
        sampler = self.config.sampler
        return self.context.device.type == "cuda" and self.rows.whole and sampler.backend != "pyg"

    @property
    def _device_has_room(self) -> bool:
        device = self.context.device
        if 2 * self.graph.num_edges > torch.iinfo(torch.int32).max:
            return False  # positions of edges are int32 there
        free, _ = torch.cuda.mem_get_info(device)
        needed = DeviceGraph.bytes_needed(self.graph.num_nodes, self.graph.num_edges)
        return needed <= _SHARE_OF_FREE * free

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made from to be continued here."""
        return run_identity(self.config, self.graph.key, self.inputs.texts_key)

    def initialise(self) -> None:
        """Fills this rank's rows for a run that starts."""
        model, seed = self.config.model, self.config.train.seed
        # in blocks: what draws a row takes many times its memory
        for start in range(0, len(self.nodes), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            text = self.text.select(rows) if self.text is not None else None
            self.table.weight[rows] = initial_rows(self.nodes[rows], text, model, seed)

    def carry_over(self, checkpoint: Checkpoint, start: WarmStart) -> None:
        """Takes rows of a checkpoint by external id, over those of `initialise`, which stay where a
        node is new: measured, a mean of its neighbours' trained rows ranks worse (docs/update.md).
        """
        carry_rows(checkpoint, start.old_rows[slice(*self.row_range)], self.table)

    def load_for_inference(self, checkpoint: Checkpoint) -> None:
        """Takes rows and dense parameters of a checkpoint, without optimizers."""
        self.table.weight.copy_(checkpoint.rows(*self.row_range)["weight"])
        dense = checkpoint.dense()
        names = list(self.model.state_dict())
        missing = [name for name in names if f"param.model.{name}" not in dense]
        if missing:
            raise CheckpointError(
                f"{checkpoint.path}: has no tensor 'model.{missing[0]}': it is of another model"
            )
        self.model.load_state_dict({name: dense[f"param.model.{name}"] for name in names})

    @torch.no_grad()
    def final_embeddings(self, users: IntArray | None = None) -> FinalEmbeddings:
        """By exact propagation with the present parameters. Collective: every rank must call.

        Args:
            users: global ids, to have those of all items and of these alone.
        """
        operator, rows = self._propagation, None
        if self.config.only_items_have_text and not acts_between_hops(self.model):
            rows = operator.items
        text = self.text.rows.text if self.text is not None else None
        states = self.table.weight, self._text_views(rows), text
        if users is not None:
            return final_embeddings_of(users, operator, self.model, *states)
        return final_embeddings(operator, self.model, *states)

    @torch.no_grad()
    def fold_in(self) -> FoldIn:
        """Makes users' final vectors from other histories. Collective: every rank must call.

        Raises:
            ConfigError: the model reads no histories.
        """
        return FoldIn(self._propagation, self.rows, self.model, *self.states())

    @torch.no_grad()
    def user_states(self) -> UserStates:
        """What items that come later take from users. Collective: every rank must call."""
        e_nD, z_nD, text_nT = self.states()
        start = None
        if text_nT is not None and self.config.model.init == "text":
            start = start_of_texts(text_nT, self.config.model.embedding_dim)
        return user_states(self._propagation, self.model, e_nD, z_nD, start)

    def operator(self, heldout: IntArray | None = None, fixed: bool = False) -> FullPropagation:
        """Full propagation over all edges but the held-out ones, with the degrees of `degrees`.

        Collective with a partitioned graph: every rank must call.

        Args:
            heldout: positions in the user half.
            fixed: no other edges are hidden, see `FullPropagation`.
        """
        degree = self.degrees(heldout)
        feature = degree_feature(torch.from_numpy(degree), int(self.graph.degree.max()))
        return FullPropagation(
            self.graph, self.bounds, self.context, feature, heldout, degree, self.rows, fixed
        )

    def heldout_edges(self, share: float, withheld_items: float = 0.0) -> IntArray:
        """Positions of the edges that gates learn from, ascending; see `heldout_slice`.

        Collective with a partitioned graph: every rank must call.
        """
        return self.edges.heldout_edges(share, self.config.graph.seed, withheld_items)

    def degrees(self, heldout: IntArray | None = None) -> IndexArray:
        """Degrees of all nodes while edges are held out, [N]; int32 where they are not the graph's.

        Those of the edges that are left, for RecMind and where items are withheld, so that what its
        gates learn of a degree is true of it; else those of the whole training graph. Collective
        with a partitioned graph: every rank must call.
        """
        degree, gate = np.asarray(self.graph.degree), self.config.gate
        if heldout is None or gate is None:
            return degree
        if gate.withheld_items or isinstance(self.config.model, RecMindSettings):
            left, users = degree.astype(np.int32), users_of_edges(self.graph, heldout)
            for ends in (users, self.edges.items_of_edges(heldout, users)):
                left -= np.bincount(ends, minlength=self.graph.num_nodes).astype(np.int32)
            return left
        return degree

    def build_dense(self) -> Model:
        """A dense part at its start, the same on every rank: drawn from the run's seed alone."""
        settings = self.config.model
        text_dim = self.whitening.dim if self.whitening is not None else 0
        with torch_seeded(stream_key(self.config.train.seed, "dense")):
            model = build_model(settings, text_dim)
        projection = getattr(getattr(model, "text_view", None), "projection", None)
        if settings.init == "text" and isinstance(projection, nn.Linear):
            # z starts where E⁰ starts, so that gates mix like with like
            with torch.no_grad():
                projection.weight.zero_().fill_diagonal_(text_scale(text_dim))
        return model.to(self.context.device)

    @cached_property
    def _propagation(self) -> FullPropagation:
        """Over all edges, made once. Collective: every rank must call.

        Where steps do not propagate the whole graph it is a large one: no memory is spent on speed.
        """
        return self.operator(fixed=not self.config.propagates_fully)

    def states(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """E⁰, text views and text vectors of this rank's rows."""
        text = self.text.rows.text if self.text is not None else None
        return self.table.weight, self._text_views(), text

    def _text_views(self, rows: Tensor | None = None) -> Tensor | None:
        """Of these rows of this rank, by default all. Shape: [rows, D]."""
        if self.text is None or not self.config.model.has_text_view:
            return None
        if rows is None:
            rows = torch.arange(len(self.nodes), device=self.context.device)
        blocks = torch.split(rows, _BLOCK_ROWS)
        views = (text_view(self.model, self.text.select(block)) for block in blocks)
        return torch.cat([view for view in views if view is not None])

    def _load_text(self) -> None:
        """Text vectors and content views of this rank's nodes. Collective: every rank must call."""
        if self.whitening is None or self.inputs.text is None:
            return
        store = TextStore.open(self.inputs.text)
        if store_key(store, self.context) != self.inputs.store_key:
            raise StoreError(
                f"{store.path}: holds vectors of other texts than this run's: run `recmind run` "
                "with this run's config again, which embeds them anew"
            )
        device, means = self.context.device, self._neighbour_means(self._heldout_mask())
        whitening, items = self.whitening, self._item_vectors()
        self.text = load_text_features(
            self.rows, store, whitening, self.nodes, self.bounds, means(None), self.context, items
        )
        model = self.config.model
        if isinstance(model, RecMindSettings) and model.has_content_view:
            is_user = torch.from_numpy(self.nodes < self.graph.num_users).to(device)
            newest = means(model.recent_decay) if model.recent_decay else None
            text = self.text.rows.text
            text_columns = columns_at_once(self.graph.num_nodes, self.context.world_size)
            self.content = make_content_views(text, is_user, means(1.0), newest, text_columns)

    def _item_vectors(self) -> TextStore | None:
        """Items' own vectors, where the run has learnt them."""
        if self.inputs.item_vectors is None:
            return None
        store = TextStore.open(self.inputs.item_vectors)
        if store.meta["encoder"].get("vectors") != self.inputs.store_key:
            raise StoreError(
                f"{store.path}: learnt from other texts than this run's: delete it and run "
                "`recmind run` with this run's config again"
            )
        return store

    def _neighbour_means(self, heldout: EdgeMask) -> Callable[[float | None], NeighbourMeans]:
        """decay → means over all edges but the held-out ones."""
        visible = np.ones(len(self.rows.indices), np.bool_)
        visible[heldout.in_csr(self.rows)] = False
        if self.rows.whole:  # a share's edges are in the order of this rank's nodes
            visible = visible[self.rows.edges_of(self.nodes)[1]]
        counts = np.diff(self.bounds).tolist()
        return partial(NeighbourMeans, self.rows, self.nodes, visible, counts, self.context)

    def _heldout_mask(self) -> EdgeMask:
        """Held-out edges in this rank's rows. Collective: every rank must call."""
        gate = self.config.gate
        if not self.config.heldout_gates or gate is None:
            return NOTHING_MASKED
        heldout = self.heldout_edges(gate.heldout_share, gate.withheld_items)
        users = users_of_edges(self.graph, heldout)
        return self.edges.mask_edges(users, self.edges.items_of_edges(heldout, users), heldout)
