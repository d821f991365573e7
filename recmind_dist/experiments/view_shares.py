"""How much each view counts in the scores of held-out items, by degree.

A score is a sum over views, so what a view adds to a held-out item's score over its mean in the
catalogue says how much that view has to do with the item being found. Unlike γ this is fixed by the
scores alone: the item's γ of a view may grow, and the user's shrink, without a change in any score.

Legend: h held-out pairs, C columns of a vector, K views and the bias.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.degree_bins import degree_bins
from recmind_dist.evaluation.metrics import Float64Array
from recmind_dist.export.write_bundle import views_of
from recmind_dist.report import RunDirectory
from recmind_dist.training.evaluate import load_best, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.moved import read_inputs
from recmind_dist.types import IntArray

BIAS = "bias"


@dataclass(frozen=True)
class ViewMargins:
    """Of the test split's pairs.

    Attributes:
        degree: [h] of the item in training.
        margins: by view, [h]: what it adds to the item's score, less its mean over the catalogue.
    """

    degree: IntArray
    margins: dict[str, Float64Array]

    def shares(self, low: int, high: int) -> dict[str, float]:
        """Each view's share of the margin of items of these degrees; they sum to one. Empty where
        there are no such items.
        """
        here = (self.degree >= low) & (self.degree <= high)
        if not here.any():
            return {}
        sums = {name: float(margin[here].sum()) for name, margin in self.margins.items()}
        return {name: value / sum(sums.values()) for name, value in sums.items()}

    def language(self, low: int = 0, high: int | None = None) -> float | None:
        """Language's share of what graph and language add, without the bias."""
        shares = self.shares(low, self.highest if high is None else high)
        graph = shares.get("graph", 0.0)
        both = sum(value for name, value in shares.items() if name != BIAS)
        return (both - graph) / both if both else None

    def lean(self) -> float | None:
        """Language's share on the half of the pairs with items of lower degree, less that on the
        others: above 0 where language speaks for what is cold.
        """
        middle = int(np.median(self.degree)) if len(self.degree) else 0
        cold, warm = self.language(0, middle), self.language(middle + 1)
        return None if cold is None or warm is None else cold - warm

    @property
    def highest(self) -> int:
        """The highest degree of a held-out item."""
        return int(self.degree.max(initial=0))

    def by_bin(self) -> dict[str, dict[str, float]]:
        """`shares` of each degree bin that has items."""
        rows = {name: self.shares(low, high) for name, low, high in degree_bins(self.highest)}
        return {name: row for name, row in rows.items() if row}


def best_model(run: RunDirectory) -> ModelShard:
    """The model that was evaluated, on one rank alone.

    Raises:
        CheckpointError: the run has no checkpoint.
    """
    config = read_run(run.path)[1]
    return load_best(config, read_inputs(run), run, DistContext.alone())[0]


@torch.no_grad()
def margins_of(model: ModelShard) -> ViewMargins:
    """Of a model on one rank alone."""
    graph, h_NC = model.graph, model.final_embeddings().final.double()
    held = graph.held_out("test")
    user = np.repeat(np.arange(graph.num_users), np.diff(held.indptr))
    item = np.asarray(held.indices, np.int64) - graph.num_users
    users, items = h_NC[: graph.num_users], h_NC[graph.num_users :]
    added = users[user] * (items[item] - items.mean(0))
    margins: dict[str, Float64Array] = {}
    views = views_of(model)
    ends = np.cumsum([0, *(width for _, width in views)]).tolist()
    for (name, _), (start, stop) in zip(views, pairwise(ends), strict=True):
        part = added[:, start:stop].sum(1).numpy()
        margins[name] = margins.get(name, 0.0) + part
    if added.shape[1] > ends[-1]:
        margins[BIAS] = added[:, ends[-1] :].sum(1).numpy()
    degree = np.asarray(graph.degree)[graph.num_users + item].astype(np.int64)
    return ViewMargins(degree, margins)
