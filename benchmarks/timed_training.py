"""Training that notes Recall@20 on test after epochs, outside its clock."""

from typing import Any

import numpy as np

from recmind_dist.evaluation.metrics import ranking_metrics
from recmind_dist.evaluation.ranking import seen_items
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.training.trainer import Trainer

K = 20


class Reached(Exception):
    """The last of the wanted qualities is there."""


class TimedTrainer(Trainer):
    """Notes Recall@20 on the test split after epochs, outside the clock. Nothing is chosen by it.

    Attributes:
        curve: (seconds of training, epoch, recall).
    """

    def __init__(self, *words: Any, until: float, every: int) -> None:
        super().__init__(*words)
        self.until, self.every = until, every
        self.trained_s, self.curve = 0.0, []  # type: ignore[var-annotated]

    def _log(self, kind: str, **fields: Any) -> None:
        super()._log(kind, **fields)
        if kind != "epoch":
            return
        self.trained_s += fields["seconds"]
        if (fields["epoch"] + 1) % self.every == 0:
            self.curve.append((self.trained_s, fields["epoch"] + 1, self._test_recall()))
            if self.curve[-1][2] >= self.until:
                raise Reached

    def _test_recall(self) -> float:
        graph, h = self.shard.graph, self.shard.final_embeddings().final
        held, users = graph.held_out("test"), graph.num_users
        seen_indptr, seen = seen_items(graph, "test", 0, users)
        exponent = self.config.evaluation.norm_exponent or 0.0
        ranked, _ = rank_items(h[:users], h[users:], K, seen_indptr, seen, norm_exponent=exponent)
        items = np.asarray(held.indices, np.int64) - users
        return ranking_metrics(ranked.cpu().numpy(), np.asarray(held.indptr), items, (K,)).means()[
            f"recall@{K}"
        ]
