"""From final vectors to metrics over the full catalogue; users are shared out among the ranks.

Items of the training set are masked; on the test split those of validation too, since they came
before.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.metrics import Float64Array, ranking_metrics
from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.strata import degree_bins, strata_metrics
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.types import IndexArray, IntArray

KINDS = ("recall", "ndcg", "hitrate", "mrr")
NORM_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tried on validation where evaluation.norm_exponent is null."""
RankUsers = Callable[[IntArray, IntArray, IntArray], IntArray]


@dataclass(frozen=True)
class Evaluation:
    """Means over all users with held-out items, the same by stratum, and the norm exponent p that
    was used.
    """

    metrics: dict[str, float]
    strata: dict[str, dict[str, Any]]
    norm_exponent: float = 0.0
    tried: dict[float, float] = field(default_factory=dict)
    """Score of each exponent of the grid, where one was chosen."""
    per_user: dict[str, Float64Array] = field(default_factory=dict)
    """Of this rank's users with held-out items, all [v]: "user" (node), "degree" (training degree
    of the held-out item,
    NaN where there are several), then the metrics."""


def evaluate_embeddings(
    h_ND: Tensor,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    norm_exponent: float | None = None,
    rows: EdgeRows | None = None,
) -> Evaluation:
    """Ranks the catalogue for every user with held-out items of `split`. Every rank must call.

    Args:
        h_ND: final vectors in node order; norm_exponent: p chosen before; None: the settings', or
        their grid's best, which is allowed on "valid" alone; rows: of a partitioned graph: each
        rank judges its own users.
    """
    fixed = settings.norm_exponent if norm_exponent is None else norm_exponent
    assert fixed is not None or split == "valid", "the norm exponent is chosen on validation"
    exponents = NORM_EXPONENTS if fixed is None else (fixed,)
    found = [
        evaluate_ranking(_by_score(h_ND, graph, settings, p), graph, split, settings, context, rows)
        for p in exponents
    ]
    tried = {p: e.metrics.get(settings.metric, 0.0) for p, e in zip(exponents, found, strict=True)}
    best = max(range(len(found)), key=lambda i: (tried[exponents[i]], -i))
    tried = tried if fixed is None else {}
    return replace(found[best], norm_exponent=exponents[best], tried=tried)


def evaluate_popularity(
    graph: Graph, split: str, settings: EvaluationSettings, context: DistContext
) -> Evaluation:
    """The same for the items of highest training degree. Every rank must call."""

    def rank_users(users: IntArray, seen_indptr: IntArray, seen: IntArray) -> IntArray:
        return rank_popular(
            np.asarray(graph.degree)[graph.num_users :], max(settings.ks), seen_indptr, seen
        )

    return evaluate_ranking(rank_users, graph, split, settings, context)


def evaluate_ranking(
    rank_users: RankUsers,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    rows: EdgeRows | None = None,
) -> Evaluation:
    """Judges any ranking. Every rank must call.

    Args:
        rank_users: (users, seen indptr, seen local items) → [u, k] local item ids; rows: as
        `evaluate_embeddings`.
    """
    if rows is None or rows.whole:
        rows = EdgeRows.all_of(graph)
        users = np.arange(
            *(graph.num_users * r // context.world_size for r in (context.rank, context.rank + 1))
        )
    else:
        users = np.sort(rows.nodes[rows.nodes < graph.num_users])
    held = graph.held_out(split)
    indptr, items = _local(held.indptr, held.indices, users, graph.num_users)
    ranked = rank_users(users, *_seen(rows, split, users))
    degree = np.asarray(graph.degree)[graph.num_users :]
    overall = ranking_metrics(ranked, indptr, items, settings.ks)
    strata = strata_metrics(ranked, indptr, items, degree, settings.ks)
    names = ["all", "cold", *(name for name, _, _ in degree_bins(int(degree.max(initial=0))))]
    table: dict[str, dict[str, Any]] = {
        "all": {"users": len(overall.users), "pairs": len(items), **overall.means()},
        **strata,
    }
    total = context.all_reduce(
        torch.tensor(
            list(_sums(table, names, settings)), dtype=torch.float64, device=context.device
        )
    )
    one = np.diff(indptr)[overall.users] == 1
    held_degree = np.where(one, degree[items[indptr[overall.users]]], np.nan)
    per_user = {
        "user": users[overall.users].astype(np.float64),
        "degree": held_degree,
        **overall.per_user,
    }
    return replace(_means(total.tolist(), names, settings), per_user=per_user)


def seen_items(graph: Graph, split: str, start: int, stop: int) -> tuple[IntArray, IntArray]:
    """Local ids of the items to mask for users [start, stop): training, and validation where test
    is ranked. CSR.
    """
    return _seen(EdgeRows.all_of(graph), split, np.arange(start, stop))


def _seen(rows: EdgeRows, split: str, users: IntArray) -> tuple[IntArray, IntArray]:
    num_users = rows.graph.num_users
    indptr, items = _local(rows.indptr, rows.indices, rows.rows_of(users), num_users)
    if split != "test":
        return indptr, items
    valid = rows.graph.held_out("valid")
    more_indptr, more = _local(valid.indptr, valid.indices, users, num_users)
    place = np.concatenate(
        [np.repeat(np.arange(len(users)), np.diff(p)) for p in (indptr, more_indptr)]
    )
    order = np.argsort(place, kind="stable")
    return indptr + more_indptr, np.concatenate([items, more])[order]


def _by_score(
    h_ND: Tensor, graph: Graph, settings: EvaluationSettings, exponent: float
) -> RankUsers:
    def rank_users(users: IntArray, seen_indptr: IntArray, seen: IntArray) -> IntArray:
        in_a_row = len(users) > 0 and int(users[-1]) - int(users[0]) == len(users) - 1
        index = slice(int(users[0]), int(users[-1]) + 1) if in_a_row else torch.from_numpy(users)
        ids, _ = rank_items(
            h_ND[index],
            h_ND[graph.num_users :],
            min(max(settings.ks), graph.num_items),
            seen_indptr,
            seen,
            norm_exponent=exponent,
        )
        return np.pad(
            ids.cpu().numpy(), ((0, 0), (0, max(settings.ks) - ids.shape[1])), constant_values=-1
        )

    return rank_users


def _local(
    indptr: IntArray, indices: IndexArray, rows: IntArray, num_users: int
) -> tuple[IntArray, IntArray]:
    """CSR of some rows, as local item ids."""
    starts = np.asarray(indptr)[rows]
    counts = np.asarray(indptr)[rows + 1] - starts
    own = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    at = np.repeat(starts - own[:-1], counts) + np.arange(own[-1])
    return own, np.asarray(indices[at], dtype=np.int64) - num_users


def _columns(settings: EvaluationSettings) -> list[str]:
    return [f"{kind}@{k}" for k in settings.ks for kind in KINDS]


def _sums(
    rows: dict[str, dict[str, Any]], names: list[str], settings: EvaluationSettings
) -> Iterable[float]:
    for name in names:
        row = rows.get(name, {})
        users = row.get("users", 0)
        yield from (
            users,
            row.get("pairs", 0),
            *((row.get(c) or 0.0) * users for c in _columns(settings)),
        )


def _means(total: list[float], names: list[str], settings: EvaluationSettings) -> Evaluation:
    columns = _columns(settings)
    rows: dict[str, dict[str, Any]] = {}
    width = len(columns) + 2
    for i, name in enumerate(names):
        users, pairs, *sums = total[i * width : (i + 1) * width]
        means = {c: s / users if users else None for c, s in zip(columns, sums, strict=True)}
        rows[name] = {"users": int(users), "pairs": int(pairs), **means}
    overall = rows.pop("all")
    always = {
        name: row for name, row in rows.items() if row["users"] or name in ("0", "1-3", "cold")
    }
    return Evaluation({c: overall[c] for c in columns if overall[c] is not None}, always)
