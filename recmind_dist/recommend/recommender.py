"""What a finished run is for: ranked items for a user."""

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
    """One ranked item: its external id, its title by text.item_title (empty without one), and its
    score.
    """

    item_id: str
    title: str
    score: float


class Recommender:
    """Final vectors of a run's best checkpoint, held in memory.

    Args:
        model: on one rank alone; norm_exponent: p of the score, as chosen on validation.
    """

    def __init__(self, model: ModelShard, norm_exponent: float) -> None:
        self.graph, self.norm_exponent = Graph.open(model.graph.path), norm_exponent
        self._h = model.final_embeddings().h
        self._text_absent = (
            model.text.rows.absent[torch.from_numpy(np.argsort(model.nodes))]
            if model.text
            else None
        )
        self._titles = _titles(self.graph.items_frame(), model.config.text.item_title)

    def recommend(self, user_id: str | int, k: int = 10) -> list[Recommendation]:
        """The k best items that the user has not had, best first.

        Raises:
            DataError: the user is not in the graph, or nothing is known of the user at all.
        """
        user = self.graph.user_index(user_id)
        known = int(self.graph.degree[user]) > 0 or (
            self._text_absent is not None and not bool(self._text_absent[user])
        )
        if not known:
            raise DataError(
                f"user {str(user_id)!r} has no training interaction and no text: add one of them, "
                "and train again"
            )
        _, seen = seen_items(self.graph, "test", user, user + 1)
        test = self.graph.held_out("test")  # had as well, though the model has not seen it
        seen = np.concatenate(
            [seen, test.indices[test.indptr[user] : test.indptr[user + 1]] - self.graph.num_users]
        )
        indptr = np.array([0, len(seen)])
        ids, scores = rank_items(
            self._h[user : user + 1],
            self._h[self.graph.num_users :],
            min(k, self.graph.num_items),
            indptr,
            seen,
            norm_exponent=self.norm_exponent,
        )
        pairs = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        return [
            Recommendation(str(self.graph.item_ids[i]), self._titles[i], s)
            for i, s in pairs
            if i >= 0
        ]


def _titles(frame: pl.DataFrame, template: str) -> list[str]:
    """Titles as user texts have them; empty where the item file has none of the template's fields."""
    parsed = Template.parse(template)
    there = [name for name in parsed.fields if name in frame.columns]
    return [parsed.render(row) or "" for row in frame.select("id", *there).iter_rows(named=True)]


def load(run_dir: str | Path) -> Recommender:
    """Opens a trained run for recommending, on one rank alone.

    Raises StoreError or CheckpointError if it is not one, or is damaged.
    """
    run, config = read_run(Path(run_dir))
    model, cursor = load_best(config, read_inputs(run), run, DistContext.alone())
    return Recommender(model, cursor.norm_exponent)
