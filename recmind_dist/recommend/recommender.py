"""Ranks items for a user of a finished run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError
from recmind_dist.evaluation.ranking import seen_items
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.graph import Graph
from recmind_dist.pipeline.train import read_inputs
from recmind_dist.text.template import Template
from recmind_dist.training.evaluate import load_best, read_run
from recmind_dist.training.model_shard import ModelShard


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
        self.graph = Graph.open(model.graph.path)
        self.norm_exponent = norm_exponent
        self._h = model.final_embeddings().final
        self._has_text = None
        if model.text:
            row_of_node = torch.from_numpy(np.argsort(model.nodes))
            self._has_text = ~model.text.rows.absent[row_of_node]
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
        num_users = self.graph.num_users
        _, seen = seen_items(self.graph, "test", user, user + 1)
        test = self.graph.held_out("test")  # the user has seen these too
        seen_test = test.indices[test.indptr[user] : test.indptr[user + 1]] - num_users
        seen = np.concatenate([seen, seen_test])
        ids, scores = rank_items(
            self._h[user : user + 1],
            self._h[num_users:],
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
    """Opens a trained run for recommending, on one rank alone.

    Raises:
        StoreError, CheckpointError: not a trained run, or a damaged one.
    """
    run, config = read_run(Path(run_dir))
    model, cursor = load_best(config, read_inputs(run), run, DistContext.alone())
    return Recommender(model, cursor.norm_exponent)
