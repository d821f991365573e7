"""Differences between two runs by group of users or of items, over the same users.

Legend: U users with held-out items, k ranked items, I items, M metrics.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recmind_dist.evaluation.gaps import corrected, paired
from recmind_dist.evaluation.group_metrics import accuracy_on_group
from recmind_dist.evaluation.groups import Groups, item_groups, user_groups
from recmind_dist.evaluation.metrics import Float64Array, HeldItems, metric_names
from recmind_dist.evaluation.ranking import csr_of_rows
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.graph import Graph
from recmind_dist.types import IntArray


@dataclass(frozen=True)
class RankedUsers:
    """What a run found for its users.

    Attributes:
        users: nodes, ascending. Shape: [U].
        lists: rows of the graph's items, −1 for none. Shape: [U, k].
        values: by metric, [U].
    """

    users: IntArray
    lists: NDArray[np.int64]
    values: Mapping[str, Float64Array]


def differences_by_group(
    a: RankedUsers,
    b: RankedUsers,
    graph: Graph,
    split: str,
    settings: GroupSettings,
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """What a is above b. Of a group of items, its items alone count as held out, over the users who
    have some.

    Args:
        b: of the same users.
        graph: its edges are not read.
        metrics: of accuracy, such as "recall@20".
    Returns:
        one a column of `settings`, those of users first: "side", users or items; "column"; "rows",
        one a group: "group", its label; "users", how many; and by metric the `Gap` as plain data.
        Groups of fewer than `min_users` users are left out; the p of a metric are corrected
        together.
    Raises:
        ConfigError: a column is missing, or has one value or too many.
    """
    differences_UM = np.stack([a.values[name] - b.values[name] for name in metrics], 1)
    found = []
    for groups in user_groups(graph, settings.users):
        codes = groups.codes()[a.users]
        of_users = ((label, differences_UM[codes == g]) for g, label in enumerate(groups.labels))
        found.append(_of_column("users", groups.name, of_users, metrics, settings.min_users))
    for groups in item_groups(graph, settings.items):
        of_items = _on_items(a, b, graph, split, groups, metrics)
        found.append(_of_column("items", groups.name, of_items, metrics, settings.min_users))
    return found


def _on_items(
    a: RankedUsers, b: RankedUsers, graph: Graph, split: str, groups: Groups, metrics: Sequence[str]
) -> Iterator[tuple[str, Float64Array]]:
    """By group of items: its label, and differences of the users who have one of its items held
    out, [n, M].
    """
    held = graph.held_out(split)
    held_csr = csr_of_rows(held.indptr, held.indices, a.users, graph.num_users)
    items = HeldItems.of(*held_csr, max(graph.num_items, 1), torch.device("cpu"))
    ks = sorted({int(name.partition("@")[2]) for name in metrics})
    columns = [metric_names(ks).index(name) for name in metrics]
    ranked = [torch.from_numpy(run.lists) for run in (a, b)]
    hits = [items.hits(ranked_Uk) for ranked_Uk in ranked]
    for g, label in enumerate(groups.labels):
        mine_nM, theirs_nM = (
            accuracy_on_group(ranked_Uk, hits_Uk, items, groups.members(g), ks)[1].numpy()
            for ranked_Uk, hits_Uk in zip(ranked, hits, strict=True)
        )
        yield label, (mine_nM - theirs_nM)[:, columns]


def _of_column(
    side: str,
    column: str,
    by_label: Iterable[tuple[str, Float64Array]],
    metrics: Sequence[str],
    min_users: int,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"group": label, "users": len(differences_nM)}
        | {name: paired(x_n) for name, x_n in zip(metrics, differences_nM.T, strict=True)}
        for label, differences_nM in by_label
        if len(differences_nM) >= min_users
    ]
    for row in corrected(rows, metrics):
        row.update({name: row[name].to_json() for name in metrics})
    return {"side": side, "column": column, "rows": rows}
