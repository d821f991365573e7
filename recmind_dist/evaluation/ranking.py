"""From final vectors to metrics over the full catalogue; ranks share the users.

Training items are masked, and on the test split validation items too, which came before.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.metrics import Float64Array, ranking_metrics
from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.strata import ALWAYS, degree_bins, strata_metrics
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.types import IndexArray, IntArray

KINDS = ("recall", "ndcg", "hitrate", "mrr")
NORM_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tried on validation where evaluation.norm_exponent is null."""
RankUsers = Callable[[IntArray, IntArray, IntArray], IntArray]


@dataclass(frozen=True)
class Evaluation:
    """Means over all users with held-out items, and by stratum."""

    metrics: dict[str, float]
    strata: dict[str, dict[str, Any]]
    norm_exponent: float = 0.0
    tried: dict[float, float] = field(default_factory=dict)
    """Validation score of each exponent, where one was chosen."""
    per_user: dict[str, Float64Array] = field(default_factory=dict)
    """Of this rank's users with held-out items, [v] each: "user" (node), "degree" (of the held-out
    item in training, NaN if they have several), then the metrics.
    """


def evaluate_embeddings(
    h_ND: Tensor,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    norm_exponent: float | None = None,
    rows: EdgeRows | None = None,
) -> Evaluation:
    """Ranks the catalogue for every user with held-out items. Collective: every rank must call.

    Args:
        h_ND: final vectors in node order
        norm_exponent: p chosen before; None: from the settings, or the best on "valid"
        rows: of a partitioned graph, where each rank evaluates its own users
    """
    fixed = settings.norm_exponent if norm_exponent is None else norm_exponent
    assert fixed is not None or split == "valid", "the norm exponent is chosen on validation"
    exponents = NORM_EXPONENTS if fixed is None else (fixed,)
    found = {}
    for p in exponents:
        rank_users = partial(_rank_by_score, h_ND, graph, settings, p)
        found[p] = evaluate_ranking(rank_users, graph, split, settings, context, rows)
    scores = {p: evaluation.metrics.get(settings.metric, 0.0) for p, evaluation in found.items()}
    best = max(exponents, key=lambda p: scores[p])  # the first of equal ones
    return replace(found[best], norm_exponent=best, tried=scores if fixed is None else {})


def evaluate_popularity(
    graph: Graph, split: str, settings: EvaluationSettings, context: DistContext
) -> Evaluation:
    """Measures the items of highest training degree. Collective: every rank must call."""
    degree, k = np.asarray(graph.degree)[graph.num_users :], max(settings.ks)
    return evaluate_ranking(
        lambda _, seen_indptr, seen: rank_popular(degree, k, seen_indptr, seen),
        graph,
        split,
        settings,
        context,
    )


def evaluate_ranking(
    rank_users: RankUsers,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    rows: EdgeRows | None = None,
) -> Evaluation:
    """Measures any ranking. Collective: every rank must call.

    Args:
        rank_users: (users, seen indptr, seen local items) → [u, k] local item ids
        rows: as in `evaluate_embeddings`
    """
    if rows is None or rows.whole:
        rows = EdgeRows.of_graph(graph)
        share = range(context.world_size + 1)
        bounds = [graph.num_users * rank // context.world_size for rank in share]
        users = np.arange(bounds[context.rank], bounds[context.rank + 1])
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
    sums = torch.tensor(list(_sums(table, names, settings)), dtype=torch.float64)
    total = context.all_reduce(sums.to(context.device))
    has_one = np.diff(indptr)[overall.users] == 1
    held_degree = np.where(has_one, degree[items[indptr[overall.users]]], np.nan)
    nodes = users[overall.users].astype(np.float64)
    per_user = {"user": nodes, "degree": held_degree, **overall.per_user}
    return replace(_means(total.tolist(), names, settings), per_user=per_user)


def seen_items(graph: Graph, split: str, start: int, stop: int) -> tuple[IntArray, IntArray]:
    """Local ids, as CSR, of the items to mask for users [start, stop)."""
    return _seen(EdgeRows.of_graph(graph), split, np.arange(start, stop))


def _seen(rows: EdgeRows, split: str, users: IntArray) -> tuple[IntArray, IntArray]:
    num_users = rows.graph.num_users
    indptr, items = _local(rows.indptr, rows.indices, rows.rows_of(users), num_users)
    if split != "test":
        return indptr, items
    valid = rows.graph.held_out("valid")
    valid_indptr, valid_items = _local(valid.indptr, valid.indices, users, num_users)
    counts = np.concatenate([np.diff(indptr), np.diff(valid_indptr)])
    row_of_item = np.repeat(np.tile(np.arange(len(users)), 2), counts)
    order = np.argsort(row_of_item, kind="stable")
    return indptr + valid_indptr, np.concatenate([items, valid_items])[order]


def _rank_by_score(
    h_ND: Tensor,
    graph: Graph,
    settings: EvaluationSettings,
    exponent: float,
    users: IntArray,
    seen_indptr: IntArray,
    seen: IntArray,
) -> IntArray:
    contiguous = len(users) > 0 and int(users[-1]) - int(users[0]) == len(users) - 1
    index = slice(int(users[0]), int(users[-1]) + 1) if contiguous else torch.from_numpy(users)
    k = max(settings.ks)
    ids, _ = rank_items(
        h_ND[index],
        h_ND[graph.num_users :],
        min(k, graph.num_items),
        seen_indptr,
        seen,
        norm_exponent=exponent,
    )
    return np.pad(ids.cpu().numpy(), ((0, 0), (0, k - ids.shape[1])), constant_values=-1)


def _local(
    indptr: IntArray, indices: IndexArray, rows: IntArray, num_users: int
) -> tuple[IntArray, IntArray]:
    """CSR of some rows, with local item ids."""
    starts = np.asarray(indptr)[rows]
    counts = np.asarray(indptr)[rows + 1] - starts
    local_indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    at = np.repeat(starts - local_indptr[:-1], counts) + np.arange(local_indptr[-1])
    return local_indptr, np.asarray(indices[at], dtype=np.int64) - num_users


def _columns(settings: EvaluationSettings) -> list[str]:
    return [f"{kind}@{k}" for k in settings.ks for kind in KINDS]


def _sums(
    rows: dict[str, dict[str, Any]], names: list[str], settings: EvaluationSettings
) -> Iterable[float]:
    for name in names:
        row = rows.get(name, {})
        users = row.get("users", 0)
        yield users
        yield row.get("pairs", 0)
        yield from ((row.get(column) or 0.0) * users for column in _columns(settings))


def _means(total: list[float], names: list[str], settings: EvaluationSettings) -> Evaluation:
    columns = _columns(settings)
    rows: dict[str, dict[str, Any]] = {}
    width = len(columns) + 2
    for i, name in enumerate(names):
        users, pairs, *sums = total[i * width : (i + 1) * width]
        means = {c: s / users if users else None for c, s in zip(columns, sums, strict=True)}
        rows[name] = {"users": int(users), "pairs": int(pairs), **means}
    overall = rows.pop("all")
    strata = {name: row for name, row in rows.items() if row["users"] or name in ALWAYS}
    return Evaluation({c: overall[c] for c in columns if overall[c] is not None}, strata)
