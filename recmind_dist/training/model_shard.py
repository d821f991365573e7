"""A rank's share of the model: its table rows, its text rows and a whole dense part; and the
vectors they give.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.errors import CheckpointError, StoreError
from recmind_dist.graph import EdgeRows, Graph, row_bounds
from recmind_dist.model import GatedLightGCN
from recmind_dist.propagation.full_graph import FinalEmbeddings, FullPropagation
from recmind_dist.randomness import stream_key, torch_seeded
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.edge_masks import (
    NOTHING_MASKED,
    edge_endpoints,
    heldout_edges,
    heldout_slice,
    users_of_edges,
)
from recmind_dist.sampling.graph_access import GraphAccess, WholeGraph
from recmind_dist.sampling.partitioned_graph import PartitionedGraph
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.text_features import (
    TextFeatures,
    degree_feature,
    initial_rows,
    load_text_features,
    text_scale,
)
from recmind_dist.types import IntArray

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Inputs:
    """A run's prepared things, as paths and keys that travel to workers.

    Attributes:
        texts: JSON of all texts, which the warm-up's adapters read; texts_key: key of texts and
        language model;
        store_key: `TextStore.content_key` when the vectors were made.
    """

    graph: Path
    text: Path | None = None
    whitening: Path | None = None
    texts: Path | None = None
    texts_key: str = ""
    store_key: str = ""

    def to_json(self) -> dict[str, str | None]:
        """Plain data, for inputs.json and for workers."""
        return {name: str(value) if value else None for name, value in vars(self).items()}

    @staticmethod
    def from_json(values: Any) -> "Inputs":
        """What `to_json` gave. Raises StoreError for anything else."""
        names = [field.name for field in fields(Inputs)]
        told = [values.get(name) for name in names] if isinstance(values, dict) else []
        if (
            not told
            or not told[0]
            or not all(v is None or (isinstance(v, str) and "\0" not in v) for v in told)
        ):
            raise StoreError(f"inputs.json: not the inputs of a run: {DOCTOR}")
        graph, text, whitening, texts = (Path(str(value)) if value else None for value in told[:4])
        assert graph is not None
        return Inputs(graph, text, whitening, texts, str(told[4] or ""), str(told[5] or ""))


def run_identity(config: RunConfig, graph_key: str, texts_key: str) -> dict[str, Any]:
    """What a checkpoint must have been made from to be continued."""
    return {
        "settings": config.identity(),
        "graph": graph_key,
        "texts": texts_key if config.model.use_text else "",
    }


class ModelShard:
    """Built alike for training, evaluation and serving. Every rank must build it: owners tell
    held-out edges.

    Args:
        inputs: prepared stores; ranks: who takes part.
    """

    def __init__(self, config: RunConfig, inputs: Inputs, context: DistContext) -> None:
        self.config, self.inputs, self.context = config, inputs, context
        partitioned = config.graph.placement == "partitioned"
        self.graph = Graph.open(inputs.graph, edges=not partitioned)
        self.bounds = row_bounds(self.graph, context.world_size)
        self.rows = (
            EdgeRows.share(self.graph, self.bounds, context.rank)
            if partitioned
            else EdgeRows.all_of(self.graph)
        )
        self.edges: GraphAccess = (
            PartitionedGraph(self.rows, self.bounds, context)
            if partitioned
            else WholeGraph(self.graph, context.rank, context.world_size)
        )
        self.row_range = (int(self.bounds[context.rank]), int(self.bounds[context.rank + 1]))
        self.nodes = (
            self.rows.nodes
            if partitioned
            else np.argsort(self.graph.row_of_node)[slice(*self.row_range)]
        )
        self.whitening = (
            Whitening.load(inputs.whitening) if config.model.use_text and inputs.whitening else None
        )
        self.text = self._load_text()
        self.table = ShardedTable(
            self.row_range,
            self.graph.num_nodes,
            config.model.embedding_dim,
            config.table,
            context.device,
        )
        self.model = self.build_dense()
        self._propagation: FullPropagation | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made from to be continued here."""
        return run_identity(self.config, self.graph.key, self.inputs.texts_key)

    def initialise(self) -> None:
        """Fills this rank's rows for a run that starts."""
        for start in range(
            0, len(self.nodes), _BLOCK_ROWS
        ):  # what draws a row takes many times its memory
            rows = slice(start, start + _BLOCK_ROWS)
            text = self.text.select(rows) if self.text is not None else None
            self.table.weight[rows] = initial_rows(
                self.nodes[rows], text, self.config.model, self.config.train.seed
            )

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
    def final_embeddings(self) -> FinalEmbeddings:
        """Exact full propagation with the present parameters. Every rank must call."""
        if self._propagation is None:
            self._propagation = self.operator()
        return self._propagation.final_embeddings(
            self.model,
            self.table.weight,
            self._text_views(),
            self.text.rows.text if self.text else None,
        )

    def operator(self, held_out: IntArray | None = None) -> FullPropagation:
        """Full propagation without held-out edges (positions in the user half), over the degrees of
        `degrees`.
        """
        degree = self.degrees(held_out)
        feature = degree_feature(torch.from_numpy(degree), int(self.graph.degree.max()))
        return FullPropagation(
            self.graph, self.bounds, self.context, feature, held_out, degree, self.rows
        )

    def held_out(self, share: float, withheld_items: float = 0.0) -> IntArray:
        """Positions of the edges from which the gates learn, ascending; see `heldout_slice`."""
        seed = self.config.graph.seed
        if self.rows.whole:
            return np.flatnonzero(heldout_slice(self.graph, share, seed, withheld_items))
        return heldout_edges(self.graph, self.rows.newest(), share, seed)

    def degrees(self, held_out: IntArray | None = None) -> IntArray:
        """As which nodes count while edges (positions in the user half) are held out, [N]: by those
        that are left where items
        are withheld or views are mixed, so that what gates learn of a degree is true of it; else by
        all.
        """
        degree: IntArray = np.array(self.graph.degree)
        model = self.config.model
        if held_out is not None and (model.gate.withheld_items or model.readout == "mix"):
            for ends in edge_endpoints(self.graph, held_out):
                degree -= np.bincount(ends, minlength=self.graph.num_nodes)
        return degree

    def _text_views(self) -> Tensor | None:
        if self.text is None or self.model.text_view is None:
            return None
        everything = torch.arange(len(self.nodes), device=self.context.device)
        starts = range(0, max(len(self.nodes), 1), _BLOCK_ROWS)
        return torch.cat(
            [
                self.model.text_view(self.text.select(everything[s : s + _BLOCK_ROWS]))
                for s in starts
            ]
        )

    def _load_text(self) -> TextFeatures | None:
        """What this rank knows of its nodes' texts. Every rank must call."""
        if self.whitening is None or self.inputs.text is None:
            return None
        store = TextStore.open(self.inputs.text)
        if store.content_key() != self.inputs.store_key:
            raise StoreError(
                f"{store.path}: holds vectors of other texts than this run's, made by a run that "
                "shares the cache: "
                "run `recmind run` with this run's config again, which embeds them anew"
            )
        gate = self.config.model.gate
        held_out = (
            self.held_out(gate.heldout_share, gate.withheld_items)
            if self.config.heldout_gates
            else None
        )
        fallback, device = self.config.model.fallback, self.context.device
        hidden = NOTHING_MASKED
        if held_out is not None:
            users = users_of_edges(self.graph, held_out)
            hidden = self.edges.mask_edges(
                users, self.edges.items_of_edges(held_out, users), held_out
            )
        return load_text_features(
            self.rows, store, self.whitening, self.nodes, fallback, device, hidden
        )

    def build_dense(self) -> GatedLightGCN:
        """A dense part at its start, the same on every rank: drawn from the run's seed alone."""
        settings = self.config.model
        text_dim = (
            self.whitening.dim if self.whitening is not None and self.config.views_text else 0
        )
        with torch_seeded(stream_key(self.config.train.seed, "dense")):
            model = GatedLightGCN(
                None, settings.embedding_dim, settings.num_layers, text_dim, settings
            )
        if (
            model.text_view is not None
            and settings.init != "normal"
            and not settings.projection_hidden_dim
        ):
            # z starts where E⁰ starts, so that gates mix like with like
            projection = model.text_view.projection
            assert isinstance(projection, nn.Linear)
            weight = projection.weight
            with torch.no_grad():
                weight.zero_().fill_diagonal_(text_scale(text_dim))
        return model.to(self.context.device)
