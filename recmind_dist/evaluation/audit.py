"""Gaps between groups in what a run shows to whom, each with a 95 % interval over users.

A figure is a mean over users, so that a gap between groups of users is Welch's t-test, and one
between exposure and relevance, or between two runs, a paired one. The p of a table are corrected
together (Holm). docs/audit.md defines the figures.

Legend: U users with held-out items, k ranked items, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recmind_dist.evaluation.gaps import between, corrected, of_mean, paired
from recmind_dist.evaluation.groups import Groups, item_degree
from recmind_dist.evaluation.list_metrics import Categories
from recmind_dist.evaluation.metrics import Float64Array
from recmind_dist.graph import Graph
from recmind_dist.types import BoolArray, IntArray

LIFT = "lift"
"""How much more popular the items shown are than those of the history: mean over mean, less 1."""


@dataclass(frozen=True)
class AuditedLists:
    """What a run showed.

    Attributes:
        users: nodes, ascending. Shape: [U].
        lists: rows of the graph's items, −1 for none. Shape: [U, k].
        values: by metric, [U].
        history: mean training degree of the items of each user's history, NaN without one. [U].
    """

    users: IntArray
    lists: NDArray[np.int64]
    values: dict[str, Float64Array]
    history: Float64Array

    def sample(self, metric: str, inside: BoolArray) -> Float64Array:
        """Values of some users, whose mean is the metric of these users, NaN for those without."""
        if metric != LIFT:
            return self.values[metric][inside]
        shown, history = self.values["popularity"][inside], self.history[inside]
        known = np.isfinite(history)
        mean = history[known].mean() if known.any() else np.nan
        ratio = shown[known].mean() / mean if known.any() else np.nan
        return (shown - ratio * history) / mean + ratio - 1  # linearised, so that it has a variance


def mean_history(graph: Graph, users: IntArray) -> Float64Array:
    """Mean training degree of the items of each user's history, NaN without one."""
    degree, starts, stops = item_degree(graph), graph.indptr[users], graph.indptr[users + 1]
    total = np.r_[0, np.cumsum(degree[graph.indices[: graph.num_edges] - graph.num_users])]
    count = stops - starts
    with np.errstate(invalid="ignore"):
        return np.asarray((total[stops] - total[starts]) / np.where(count, count, np.nan))


def user_gaps(
    a: AuditedLists, b: AuditedLists | None, groups: Groups, metrics: Sequence[str], min_users: int
) -> list[dict[str, Any]]:
    """A row a group and metric: the group's mean, its gap to all other users of the column and,
    beside another run, that run's gap and the change. Of two groups the gap stands once.
    """
    codes = groups.codes()[a.users]
    labels = [g for g in range(len(groups.labels)) if (codes == g).sum() >= min_users]
    rows = []
    for g in labels:
        inside, others = codes == g, (codes >= 0) & (codes != g)
        for metric in metrics:
            mine = a.sample(metric, inside)
            row: dict[str, Any] = {
                "group": groups.labels[g],
                "users": int(inside.sum()),
                "metric": metric,
                **of_mean(mine),
            }
            if others.sum() >= min_users and not (len(labels) == 2 and g == labels[1]):
                rest = a.sample(metric, others)
                row["gap"] = between(mine, rest)
                if b is not None:
                    mine_b, rest_b = b.sample(metric, inside), b.sample(metric, others)
                    row["gap_against"] = between(mine_b, rest_b)
                    row["change"] = between(mine - mine_b, rest - rest_b)
            rows.append(row)
    return corrected(rows, ("gap", "gap_against", "change"))


def item_gaps(
    a: AuditedLists,
    b: AuditedLists | None,
    groups: Groups,
    graph: Graph,
    split: str,
    min_users: int,
) -> list[dict[str, Any]]:
    """A row a group: its shares of the catalogue, of held-out items and of the slots shown, what
    exposure is above relevance and above the catalogue's share and, beside another run, above its.

    Shares are means over users of the shares of their items; an item of several groups counts for
    each in equal parts. Groups whose held-out items have fewer users are left out.
    """
    categories = Categories.of(groups, torch.device("cpu"))
    held = graph.held_out(split)
    counts = np.diff(held.indptr)[a.users]
    row = np.repeat(np.arange(len(a.users)), counts)
    start = np.repeat(held.indptr[a.users] - np.r_[0, np.cumsum(counts)[:-1]], counts)
    item = held.indices[start + np.arange(len(row))].astype(np.int64) - graph.num_users
    relevance = _shares(categories, row, item, len(a.users))
    shown = _shares_shown(categories, a)
    shown_b = None if b is None else _shares_shown(categories, b)
    all_items = np.arange(graph.num_items)
    catalogue = _shares(categories, np.zeros_like(all_items), all_items, 1)[0]
    known = (relevance.sum(1) > 0) & (shown.sum(1) > 0)
    rows = []
    for g, label in enumerate(groups.labels):
        if np.count_nonzero(relevance[:, g]) < min_users:
            continue
        exposure = shown[known, g]
        found: dict[str, Any] = {
            "group": label,
            "items": int(groups.members(g).sum()),
            "catalogue": float(catalogue[g]),
            "relevance": float(relevance[known, g].mean()),
            "exposure": float(exposure.mean()),
            "against_relevance": paired(exposure - relevance[known, g]),
            "against_catalogue": paired(exposure - catalogue[g]),
        }
        if shown_b is not None:
            found["against_run"] = paired(exposure - shown_b[known, g])
        rows.append(found)
    return corrected(rows, ("against_relevance", "against_catalogue", "against_run"))


def _shares_shown(categories: Categories, of: AuditedLists) -> Float64Array:
    row, place = np.nonzero(of.lists >= 0)
    return _shares(categories, row, of.lists[row, place], len(of.users))


def _shares(categories: Categories, row: IntArray, item: IntArray, size: int) -> Float64Array:
    found = categories.shares(torch.from_numpy(row), torch.from_numpy(item), size)
    return np.asarray(found.numpy(), np.float64)
