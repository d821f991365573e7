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
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.types import IntArray

BIAS = "bias"
LANGUAGE = "language"
"""Text and content together."""


@dataclass(frozen=True)
class ViewMargins:
    """Of the test split's pairs.

    Attributes:
        degree: [h] of the item in training.
        margins: by view, [h]: what it adds to the item's score, less its mean over the catalogue.
    """

    degree: IntArray
    margins: dict[str, Float64Array]

    def shares(self, low: float = 0, high: float = np.inf) -> dict[str, float]:
        """Each view's share of what all views, without the bias, add for items of these degrees;
        they sum to one. Empty where there are no such items.
        """
        here = (self.degree >= low) & (self.degree <= high)
        views = {name: margin for name, margin in self.margins.items() if name != BIAS}
        sums = {name: float(margin[here].sum()) for name, margin in views.items()}
        whole = sum(sums.values())
        return {name: value / whole for name, value in sums.items()} if whole else {}

    @property
    def language(self) -> float | None:
        """The share of text and content; None without held-out pairs."""
        shares = self.shares()
        return 1.0 - shares["graph"] if shares else None

    def leans(self) -> dict[str, float]:
        """Each view's share, and that of language, on the quarter of the pairs with items of the
        lowest degrees less that on the quarter of the highest; above 0 where it speaks for what is
        cold. Empty where items are all of one degree.
        """
        if not len(self.degree) or self.degree.min() == self.degree.max():
            return {}
        first, third = np.quantile(self.degree, (0.25, 0.75))
        cold, warm = self.shares(high=first), self.shares(low=third)
        if not warm:
            return {}
        leans = {name: share - warm[name] for name, share in cold.items()}
        return {**leans, LANGUAGE: -leans["graph"]}

    def by_bin(self) -> dict[str, dict[str, float]]:
        """`shares` of each degree bin that has items, after the number of its "pairs"."""
        rows = {}
        for name, low, high in degree_bins(int(self.degree.max(initial=0))):
            pairs = int(((self.degree >= low) & (self.degree <= high)).sum())
            if pairs:
                rows[name] = {"pairs": pairs, **self.shares(low, high)}
        return rows


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
