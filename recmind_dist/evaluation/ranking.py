"""From final vectors to metrics over the full catalogue; each rank ranks its own users.

Final vectors stay with their owners: blocks of items pass by (`ItemShare`). Training items are
masked, and on the test split validation items too, which came before. On a GPU all is computed
there; the host waits a few times for each `USERS_AT_ONCE` users.

Legend: u users, v users with held-out items, n nodes of this rank, N of all, C columns, k ranked
items, M metrics, S strata.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import counts_of_ranks
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.degree_bins import ALWAYS, strata_bins
from recmind_dist.evaluation.groups import item_degree
from recmind_dist.evaluation.item_shares import ItemShare, share_items
from recmind_dist.evaluation.metrics import (
    Float64Array,
    HeldItems,
    checked_metrics,
    metric_names,
    metrics_of_hits,
)
from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.popularity_penalty import penalised
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.strata import row_of_sums, stratum_sums
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.graph.csr import entries_of_rows
from recmind_dist.types import Int32Array, IntArray

NORM_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tried on validation where evaluation.norm_exponent is null."""
USERS_AT_ONCE = 1 << 18
"""Users whose rankings are held at a time."""
Csr = tuple[IntArray, Int32Array]
"""Row starts from 0, and local item ids."""
RankUsers = Callable[[IntArray, IntArray, Int32Array], IntArray | Tensor]
"""(users, seen indptr, seen local items) → [u, k] local item ids, on any device."""


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
    lists: Int32Array = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """[v, k] their ranked items, best first, −1 for none, where they were kept."""


def evaluate_embeddings(
    h_nC: Tensor,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    norm_exponent: float | None = None,
    rows: EdgeRows | None = None,
    nodes: IntArray | None = None,
    users: IntArray | None = None,
    penalty: float = 0.0,
    keep_lists: bool = False,
) -> Evaluation:
    """Ranks the catalogue for this rank's users with held-out items. Collective: every rank must
    call.

    Args:
        h_nC: final vectors of `nodes`
        norm_exponent: p chosen before; None: from the settings, or the best on "valid"
        rows: edges, of this rank's users at least; default: those of the graph
        nodes: [n] this rank's, ascending; default: all, on one rank alone
        users: ascending, to be judged by these alone (`sampled_users`); default: all
        penalty: of popularity; see `penalised`
        keep_lists: `Evaluation.lists` are wanted
    """
    fixed = settings.norm_exponent if norm_exponent is None else norm_exponent
    assert fixed is not None or split == "valid", "the norm exponent is chosen on validation"
    exponents = NORM_EXPONENTS if fixed is None else (fixed,)
    nodes = np.arange(graph.num_nodes) if nodes is None else nodes
    assert len(nodes) == len(h_nC), "a vector for each of this rank's nodes"
    own = nodes[: np.searchsorted(nodes, graph.num_users)]
    h_uC, h_iC = h_nC[: len(own)], h_nC[len(own) :]
    items = share_items(nodes[len(own) :] - graph.num_users, h_iC, context)
    judged = own if users is None else np.intersect1d(own, users, assume_unique=True)
    k = max(settings.ks)
    if penalty:
        assert fixed is not None, "the norm exponent is chosen without a penalty"
        h_uC, items = penalised(h_uC, items, item_degree(graph), fixed, penalty)
        rankings = [partial(_rank_by_score, h_uC, own, items, k, 0.0)]
    else:
        rankings = [partial(_rank_by_score, h_uC, own, items, k, p) for p in exponents]
    evaluations = _evaluate_rankings(
        rankings, graph, split, settings, context, rows, judged, keep_lists
    )
    found = dict(zip(exponents, evaluations, strict=True))
    scores = {p: evaluation.metrics.get(settings.metric, 0.0) for p, evaluation in found.items()}
    best = max(exponents, key=lambda p: scores[p])  # the first of equal ones
    return replace(found[best], norm_exponent=best, tried=scores if fixed is None else {})


def evaluate_popularity(
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    keep_lists: bool = False,
) -> Evaluation:
    """Measures the items of highest training degree. Collective: every rank must call."""
    degree, k = np.asarray(graph.degree)[graph.num_users :], max(settings.ks)
    return evaluate_ranking(
        lambda _, seen_indptr, seen: rank_popular(degree, k, seen_indptr, seen),
        graph,
        split,
        settings,
        context,
        keep_lists,
    )


def evaluate_ranking(
    rank_users: RankUsers,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    keep_lists: bool = False,
) -> Evaluation:
    """Measures any ranking; ranks share the users evenly. Collective: every rank must call.

    Args:
        rank_users: called with up to `USERS_AT_ONCE` users at a time
    """
    rank, world = context.rank, context.world_size
    users = np.arange(graph.num_users * rank // world, graph.num_users * (rank + 1) // world)
    return _evaluate_rankings(
        [rank_users], graph, split, settings, context, None, users, keep_lists
    )[0]


def _evaluate_rankings(
    rankings: Sequence[RankUsers],
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    rows: EdgeRows | None,
    users: IntArray,
    keep_lists: bool,
) -> list[Evaluation]:
    """Collective: every rank must call, with its own users."""
    rows = rows or EdgeRows.of_graph(graph)
    held_out = graph.held_out(split)
    tallies = [_Tally(graph, settings, context.device, keep_lists) for _ in rankings]
    # as often on every rank, because items pass by in each round
    for start in range(0, max(counts_of_ranks(len(users), context)), USERS_AT_ONCE):
        block = users[start : start + USERS_AT_ONCE]
        held = csr_of_rows(held_out.indptr, held_out.indices, block, graph.num_users)
        seen = _seen(rows, split, block)
        for tally, rank_users in zip(tallies, rankings, strict=True):
            tally.add(block, rank_users(block, *seen), held)
    totals = context.all_reduce(torch.stack([tally.sums for tally in tallies])).cpu()
    return [tally.evaluation(total) for tally, total in zip(tallies, totals, strict=True)]


class _Tally:
    """Sums over users, of all and by stratum, and the metrics of each user.

    Attributes:
        sums: float64 [1 + S, 2 + M] of all and of each stratum, on the device: users, pairs, then
            sums of metrics.
    """

    def __init__(
        self, graph: Graph, settings: EvaluationSettings, device: torch.device, keep_lists: bool
    ) -> None:
        self.ks, self.device = settings.ks, device
        self._lists: list[Int32Array] | None = [] if keep_lists else None
        self._degree = np.asarray(graph.degree)[graph.num_users :]
        self._degree_I = torch.from_numpy(self._degree).to(device)
        self._strata = strata_bins(int(self._degree.max(initial=0)))
        shape = 1 + len(self._strata), 2 + len(metric_names(self.ks))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self._per_user: list[dict[str, Float64Array]] = []

    def add(self, users: IntArray, ranked: IntArray | Tensor, held_csr: Csr) -> None:
        """Takes the rankings of some users, [u, k], in their order."""
        held = HeldItems.of(*held_csr, max(len(self._degree), 1), self.device)
        with_held = torch.from_numpy(held.users).to(self.device)
        assert ranked.shape[1] >= max(self.ks), "a ranking is shorter than the cut-offs"
        ranked_vk = torch.as_tensor(ranked, device=self.device)[with_held]
        hits, counts = held.hits(ranked_vk), held.counts()
        metrics = metrics_of_hits(hits, counts, self.ks)
        self.sums[0, 0] += len(held.users)
        self.sums[0, 1] += len(held.user)
        self.sums[0, 2:] += metrics.sum(0)
        for row, (_, low, high) in enumerate(self._strata, 1):
            self.sums[row] += stratum_sums(
                ranked_vk, hits, held, self._degree_I, (low, high), self.ks
            )
        indptr, items = held_csr
        single = np.diff(indptr)[held.users] == 1
        degree = np.where(single, self._degree[items[indptr[held.users]]], np.nan)
        nodes = users[held.users].astype(np.float64)
        found = checked_metrics(held, metrics, self.ks)
        self._per_user.append({"user": nodes, "degree": degree, **found.per_user})
        if self._lists is not None:
            self._lists.append(ranked_vk[:, : max(self.ks)].int().cpu().numpy())

    def evaluation(self, total: Tensor) -> Evaluation:
        """Means. Args: total: `sums` over all ranks."""
        overall, *strata = (row_of_sums(sums, self.ks) for sums in total.tolist())
        rows = {name: row for (name, _, _), row in zip(self._strata, strata, strict=True)}
        names = metric_names(self.ks)
        means = {name: overall[name] for name in names}
        columns = ["user", "degree", *names]
        nothing = [{name: np.zeros(0) for name in columns}]
        return Evaluation(
            {name: mean for name, mean in means.items() if mean is not None},
            {name: row for name, row in rows.items() if row["users"] or name in ALWAYS},
            per_user={
                name: np.concatenate([part[name] for part in self._per_user or nothing])
                for name in columns
            },
            lists=np.concatenate([np.empty((0, max(self.ks)), np.int32), *(self._lists or ())]),
        )


def seen_items(graph: Graph, split: str, start: int, stop: int) -> Csr:
    """Local ids, as CSR, of the items to mask for users [start, stop)."""
    return _seen(EdgeRows.of_graph(graph), split, np.arange(start, stop))


def _seen(rows: EdgeRows, split: str, users: IntArray) -> Csr:
    num_users = rows.graph.num_users
    train = csr_of_rows(rows.indptr, rows.indices, rows.rows_of(users), num_users)
    if split != "test":
        return train
    valid = rows.graph.held_out("valid")
    return _joined(train, csr_of_rows(valid.indptr, valid.indices, users, num_users))


def _joined(left: Csr, right: Csr) -> Csr:
    """Each row's items of `left`, then those of `right`."""
    (left_indptr, left_items), (right_indptr, right_items) = left, right
    items = np.empty(len(left_items) + len(right_items), np.int32)
    shift = np.repeat(right_indptr[:-1], np.diff(left_indptr))
    items[np.arange(len(left_items)) + shift] = left_items
    shift = np.repeat(left_indptr[1:], np.diff(right_indptr))
    items[np.arange(len(right_items)) + shift] = right_items
    return left_indptr + right_indptr, items


def _rank_by_score(
    h_uC: Tensor,
    own: IntArray,
    items: ItemShare,
    k: int,
    exponent: float,
    users: IntArray,
    seen_indptr: IntArray,
    seen: Int32Array,
) -> Tensor:
    """Collective: every rank must call.

    Args:
        own: whose vectors `h_uC` are.
    """
    num_items = sum(items.counts)
    h = h_uC[_index(np.searchsorted(own, users), h_uC.device)]
    ids = items.rank_catalogue(h, min(k, num_items), seen_indptr, seen, exponent)
    return torch.nn.functional.pad(ids, (0, k - ids.shape[1]), value=-1)


def _index(rows: IntArray, device: torch.device) -> slice | Tensor:
    """Rows as an index: a slice, which copies nothing, where they are neighbours."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows).to(device)


def csr_of_rows(indptr: IntArray, indices: Int32Array, rows: IntArray, num_users: int) -> Csr:
    """CSR of some rows, with local item ids."""
    starts = np.asarray(indptr)[rows]
    counts = np.asarray(indptr)[rows + 1] - starts
    local_indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    neighbours = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    entries: slice | IntArray  # a slice reads them ten times as fast
    if neighbours:
        entries = slice(int(starts[0]), int(starts[0] + local_indptr[-1]))
    else:
        entries = entries_of_rows(indptr, rows)
    return local_indptr, np.asarray(indices[entries] - num_users, dtype=np.int32)
