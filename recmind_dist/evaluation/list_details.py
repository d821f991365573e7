"""What a test says beside accuracy: metrics of the lists, and all metrics by group.

Each rank describes the lists of its own users; sums, and slots of items, are added up over ranks.

Legend: v users with held-out items of this rank, k ranked items, I items, M metrics, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.all_gather import counts_of_ranks
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.group_metrics import (
    rows_of_groups,
    sums_by_item_group,
    sums_by_user_group,
)
from recmind_dist.evaluation.groups import (
    POPULARITY,
    Groups,
    item_degree,
    item_groups,
    user_groups,
)
from recmind_dist.evaluation.item_shares import ItemShare
from recmind_dist.evaluation.list_metrics import (
    POPULARITY_METRICS,
    Categories,
    ItemFacts,
    coverage,
    diversity,
    gini,
    history_shares,
    miscalibration,
    popularity_metrics,
    slots,
)
from recmind_dist.evaluation.metrics import Float64Array, HeldItems, metric_names
from recmind_dist.evaluation.ranking import Evaluation, csr_of_rows
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.types import IntArray

USERS_AT_ONCE = 1 << 16
"""Users whose sums of text vectors are in memory."""


@dataclass(frozen=True)
class ListDetails:
    """Of one evaluation.

    Attributes:
        lists: means over all users, coverage and Gini index, by name such as "novelty@20".
        groups: side → column → label → users and metrics, as `rows_of_groups`.
        per_user: the list metrics of this rank's users, [v] each.
    """

    lists: dict[str, float]
    groups: dict[str, dict[str, dict[str, Any]]]
    per_user: dict[str, Float64Array]


def describe_lists(
    found: Evaluation,
    graph: Graph,
    split: str,
    settings: EvaluationSettings,
    context: DistContext,
    rows: EdgeRows | None = None,
    text: ItemShare | None = None,
) -> ListDetails:
    """Collective: every rank must call.

    Args:
        found: with its lists.
        rows: edges, of this rank's users at least; default: those of the graph.
        text: this rank's items that have a text, by unit text vectors; None: the run has no texts.
    Raises:
        ConfigError: a column of `settings.groups` is missing, has one value, or all its groups are
            too small.
    """
    rows = rows or EdgeRows.of_graph(graph)
    describe = _Describe(found, graph, split, settings, context, rows)
    users = user_groups(graph, settings.groups.users)
    items = item_groups(graph, settings.groups.items)
    category = next((groups for groups in items if groups.name != POPULARITY), None)
    named = describe.list_metrics(category, text)
    accuracy = metric_names(settings.ks)
    values_vM = torch.from_numpy(
        np.stack([found.per_user[name] for name in accuracy] + list(named.values()), 1)
    ).to(context.device)
    names, least = [*accuracy, *named], settings.groups.min_users
    by_side: dict[str, dict[str, Any]] = {"users": {}, "items": {}}
    for groups in users:
        sums = describe.by_user_group(groups, values_vM)
        by_side["users"][groups.name] = rows_of_groups(groups, sums, names, "users", least)
    for groups in items:
        sums = describe.by_item_group(groups)
        by_side["items"][groups.name] = rows_of_groups(groups, sums, accuracy, "items", least)
    return ListDetails(describe.means(named) | describe.of_catalogue(), by_side, named)


class _Describe:
    """The lists of this rank's users, block by block. Collective: every rank must make one."""

    def __init__(
        self,
        found: Evaluation,
        graph: Graph,
        split: str,
        settings: EvaluationSettings,
        context: DistContext,
        rows: EdgeRows,
    ) -> None:
        self._graph, self._context, self._rows, self._ks = graph, context, rows, settings.ks
        self._users: IntArray = found.per_user["user"].astype(np.int64)
        self._lists, self._held_out = found.lists, graph.held_out(split)
        self._rounds = range(0, max(counts_of_ranks(len(self._users), context)), USERS_AT_ONCE)
        assert len(found.lists) == len(self._users), "the lists were not kept"

    def _blocks(self) -> Iterator[tuple[IntArray, Tensor]]:
        """Users and their lists, [v, k]; as many blocks, the same on every rank, at the end without
        users.
        """
        for start in self._rounds:
            block = slice(start, start + USERS_AT_ONCE)
            lists = torch.from_numpy(self._lists[block].astype(np.int64))
            yield self._users[block], lists.to(self._context.device)

    def _hits(self, users: IntArray, ranked_vk: Tensor) -> tuple[HeldItems, Tensor]:
        held_csr = csr_of_rows(
            self._held_out.indptr, self._held_out.indices, users, self._graph.num_users
        )
        held = HeldItems.of(*held_csr, max(self._graph.num_items, 1), ranked_vk.device)
        return held, held.hits(ranked_vk)

    def list_metrics(
        self, category: Groups | None, text: ItemShare | None
    ) -> dict[str, Float64Array]:
        """By name, [v] each. Collective: every rank must call."""
        device, parts = self._context.device, []
        facts = ItemFacts.of(item_degree(self._graph), self._graph.num_users, device)
        kinds = [*POPULARITY_METRICS, *(["ild_text"] if text else [])]
        categories = None
        if category is not None:
            categories = Categories.of(category, device)
            kinds += ["ild_category", "miscalibration"]
        for users, ranked_vk in self._blocks():
            hits_vk = self._hits(users, ranked_vk)[1]
            of_block = [popularity_metrics(ranked_vk, hits_vk, facts, k) for k in self._ks]
            columns = torch.stack(of_block, 2)  # [v, kinds, cut-offs]
            if text is not None:
                spread = diversity(ranked_vk, text.passing_blocks(), text.h_iC.shape[1], self._ks)
                columns = torch.cat([columns, spread[:, None]], 1)
            if categories is not None:
                columns = torch.cat([columns, self._by_category(users, ranked_vk, categories)], 1)
            parts.append(columns.cpu().numpy())
        values = np.concatenate(parts) if parts else np.empty((0, len(kinds), len(self._ks)))
        return {
            f"{kind}@{k}": values[:, row, place]
            for place, k in enumerate(self._ks)
            for row, kind in enumerate(kinds)
        }

    def _by_category(self, users: IntArray, ranked_vk: Tensor, categories: Categories) -> Tensor:
        history_vG = history_shares(self._rows, users, categories)
        apart = [miscalibration(history_vG, ranked_vk, categories, k) for k in self._ks]
        spread = diversity(ranked_vk, categories.blocks(), categories.num, self._ks)
        return torch.stack([spread, torch.stack(apart, 1)], 1)

    def by_user_group(self, groups: Groups, values_vM: Tensor) -> Tensor:
        """Sums over the users of all ranks. Collective: every rank must call."""
        codes = torch.from_numpy(groups.codes()[self._users]).to(values_vM.device)
        sums = sums_by_user_group(codes, values_vM, len(groups.labels))
        return self._context.all_reduce(sums).cpu()

    def by_item_group(self, groups: Groups) -> Tensor:
        """Sums over the lists of all ranks. Collective: every rank must call."""
        total = torch.zeros(
            len(groups.labels),
            1 + 2 * len(metric_names(self._ks)),
            dtype=torch.float64,
            device=self._context.device,
        )
        for users, ranked_vk in self._blocks():
            held, hits_vk = self._hits(users, ranked_vk)
            total += sums_by_item_group(ranked_vk, hits_vk, held, groups, self._ks)
        return self._context.all_reduce(total).cpu()

    def means(self, named: dict[str, Float64Array]) -> dict[str, float]:
        """Over the users of all ranks; empty without users. Collective: every rank must call."""
        sums = torch.tensor(
            [float(len(self._users)), *(x.sum() for x in named.values())],
            dtype=torch.float64,
            device=self._context.device,
        )
        users, *totals = self._context.all_reduce(sums).tolist()
        return {name: x / users for name, x in zip(named, totals, strict=True) if users}

    def of_catalogue(self) -> dict[str, float]:
        """Coverage and Gini index; empty without users. Collective: every rank must call."""
        slots_kI = torch.zeros(
            len(self._ks), self._graph.num_items, dtype=torch.int64, device=self._context.device
        )
        for _, ranked_vk in self._blocks():
            for row, k in enumerate(self._ks):
                slots_kI[row] += slots(ranked_vk, self._graph.num_items, k)
        self._context.all_reduce(slots_kI)
        shown = [(k, row) for k, row in zip(self._ks, slots_kI, strict=True) if row.any()]
        return {
            f"{name}@{k}": measure(row)
            for k, row in shown
            for name, measure in (("coverage", coverage), ("gini", gini))
        }
