"""Ranks items for a user of a finished run."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recmind_dist.errors import DataError
from recmind_dist.evaluation.ranking import seen_items
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.graph import Graph
from recmind_dist.launch.device_memory import kept_bytes_of_run
from recmind_dist.launch.in_process import context_to_rank
from recmind_dist.pipeline.train import read_inputs
from recmind_dist.propagation.histories import Histories
from recmind_dist.text.template import Template
from recmind_dist.training.evaluate import load_best, read_run
from recmind_dist.training.fold_in import FoldIn
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.types import IntArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: external id, title by text.item_title (empty without one), score."""

    item_id: str
    title: str
    score: float


class Recommender:
    """Final vectors of a run's best checkpoint, in memory.

    Args:
        model: on one rank alone
        norm_exponent: p of the score, as chosen on validation
    """

    def __init__(self, model: ModelShard, norm_exponent: float) -> None:
        self._model = model
        self.graph = Graph.open(model.graph.path)
        self.norm_exponent = norm_exponent
        self._h = model.final_embeddings().final
        self._has_text = None
        if model.text:
            row_of_node = torch.from_numpy(np.argsort(model.nodes))
            self._has_text = ~model.text.rows.absent.cpu()[row_of_node]
        self._titles = _titles(self.graph.items_frame(), model.config.text.item_title)

    def recommend(self, user_id: str | int, k: int = 10) -> list[Recommendation]:
        """The k best items that the user has not seen, best first.

        Raises:
            DataError: the user is not in the graph, or has neither interactions nor text.
        """
        user = self.graph.user_index(user_id)
        has_text = self._has_text is not None and bool(self._has_text[user])
        if int(self.graph.degree[user]) == 0 and not has_text:
            raise DataError(
                f"user {str(user_id)!r} has no training interaction and no text: add one, and "
                "train again"
            )
        _, seen = seen_items(self.graph, "test", user, user + 1)
        test = self.graph.held_out("test")  # the user has seen these too
        seen_test = test.indices[test.indptr[user] : test.indptr[user + 1]] - self.graph.num_users
        return self._rank(self._h[user : user + 1], np.concatenate([seen, seen_test]), k)

    def recommend_from(
        self, history: Sequence[str | int], k: int = 10, user_id: str | int | None = None
    ) -> list[Recommendation]:
        """The k best items that are not in a history, best first, without training.

        Args:
            history: external ids of all items that count, the oldest first. It stands in place of
                what the run knows of the user.
            user_id: whose own row and text join the items; None: a new user.
        Raises:
            DataError: the history is empty, names an item twice or one that the run does not know;
                or the user is not in the graph.
            ConfigError: the run's model reads no histories.

        Example:
            >>> load("runs/shop").recommend_from(["B-17", "B-1042"], k=5)
        """
        items = self._items_of(history)
        rows = None
        if user_id is not None:
            user = self.graph.user_index(user_id)
            rows = torch.tensor([int(self.graph.row_of_node[user])], device=self._h.device)
        h_1C = self._fold_in(Histories.of_one(items), rows)
        return self._rank(h_1C, np.array(items), k)

    @cached_property
    def _fold_in(self) -> FoldIn:
        """Made when the first history comes, on one rank alone."""
        return self._model.fold_in()

    @cached_property
    def _item_of_id(self) -> dict[str, int]:
        return {str(item_id): i for i, item_id in enumerate(self.graph.item_ids)}

    def _items_of(self, history: Sequence[str | int]) -> list[int]:
        """Local ids of a history."""
        ids = [str(item_id) for item_id in history]
        if not ids:
            raise DataError(
                "the history is empty: give item ids, the oldest first, or rank for a user of "
                f"{self.graph.name}"
            )
        if unknown := [item_id for item_id in ids if item_id not in self._item_of_id]:
            raise DataError(
                f"item {unknown[0]!r} of the history is not in {self.graph.name}, whose "
                f"{self.graph.num_items} items have ids like {self.graph.item_ids[0]!r}: leave it "
                "out, or train again with it"
            )
        if twice := [item_id for item_id, count in Counter(ids).items() if count > 1]:
            raise DataError(
                f"item {twice[0]!r} stands twice in the history: give it once, at its newest place"
            )
        return [self._item_of_id[item_id] for item_id in ids]

    def _rank(self, h_1C: Tensor, seen: IntArray, k: int) -> list[Recommendation]:
        """The k best items but those seen (local ids)."""
        ids, scores = rank_items(
            h_1C,
            self._h[self.graph.num_users :],
            min(k, self.graph.num_items),
            np.array([0, len(seen)]),
            seen,
            norm_exponent=self.norm_exponent,
        )
        ranked = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        items = [(str(self.graph.item_ids[i]), self._titles[i], s) for i, s in ranked if i >= 0]
        return [Recommendation(*item) for item in items]


def _titles(frame: pl.DataFrame, template: str | None) -> list[str]:
    """Titles as in user texts; empty where the items have none of the template's fields."""
    if template is None:
        return [""] * frame.height
    parsed = Template.parse(template)
    fields = [name for name in parsed.fields if name in frame.columns]
    return [parsed.render(row) or "" for row in frame.select("id", *fields).iter_rows(named=True)]


def load(run_dir: str | Path) -> Recommender:
    """Opens a trained run for recommending, on one rank alone: on a GPU if there is one with room,
    unless scaling.device is cpu.

    Raises:
        StoreError, CheckpointError: not a trained run, or a damaged one.
    """
    run, config = read_run(Path(run_dir))
    inputs = read_inputs(run)
    context = context_to_rank(config.scaling, partial(kept_bytes_of_run, config, inputs), log.info)
    model, cursor = load_best(config, inputs, run, context)
    return Recommender(model, cursor.norm_exponent)
