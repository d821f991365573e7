"""Metrics by group, as sums of values and of squares that ranks add up.

Legend: v users with held-out items, k ranked items, M metrics, G groups.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from recmind_dist.evaluation.groups import Groups, check_size
from recmind_dist.evaluation.metrics import HeldItems, metrics_of_hits
from recmind_dist.types import BoolArray

Z_95 = 1.959964


def sums_by_user_group(codes_v: Tensor, values_vM: Tensor, num_groups: int) -> Tensor:
    """Users, then sums of metrics, then sums of their squares. Shape: float64 [G, 1 + 2 M].

    Args:
        codes_v: group of each user, −1 for none.
    """
    inside = codes_v >= 0
    values = values_vM[inside]
    rows = torch.cat([torch.ones_like(values[:, :1]), values, values.square()], 1)
    sums = values_vM.new_zeros((num_groups, rows.shape[1]))
    return sums.index_add_(0, codes_v[inside], rows)


def sums_by_item_group(
    ranked_vk: Tensor, hits_vk: Tensor, held: HeldItems, groups: Groups, ks: Sequence[int]
) -> Tensor:
    """As `sums_by_user_group`, of `accuracy_on_group` for each group of items."""
    rows = []
    for g in range(len(groups.labels)):
        users, values = accuracy_on_group(ranked_vk, hits_vk, held, groups.members(g), ks)
        whole = torch.zeros(len(users), dtype=torch.int64, device=values.device)
        rows.append(sums_by_user_group(whole, values, 1)[0])
    return torch.stack(rows)


def accuracy_on_group(
    ranked_vk: Tensor, hits_vk: Tensor, held: HeldItems, members_I: BoolArray, ks: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The accuracy where only a group's items count as held out.

    Returns:
        places among the v users of those who have such an item [n], and their metrics in the order
            of `metric_names`, float64 [n, M].
    """
    inside_I = torch.from_numpy(members_I).to(ranked_vk.device)
    counts = held.counts(inside_I[held.item])
    users = counts.nonzero().squeeze(1)
    hits = hits_vk[users] & inside_I[ranked_vk[users].clamp(min=0)]
    return users, metrics_of_hits(hits, counts[users], ks)


def rows_of_groups(
    groups: Groups, sums: Tensor, names: Sequence[str], side: str, min_users: int
) -> dict[str, dict[str, Any]]:
    """By label: the number of users, and by metric mean and 95 % interval over them. Groups of
    fewer users are left out.

    Args:
        sums: of all ranks, [G, 1 + 2 M].
        side: users or items.
    Raises:
        ConfigError: all groups are too small.
    """
    rows = {}
    for label, (users, *values) in zip(groups.labels, sums.tolist(), strict=True):
        if users >= min_users:
            pairs = zip(names, values[: len(names)], values[len(names) :], strict=True)
            metrics = {name: _interval(users, x, square) for name, x, square in pairs}
            rows[label] = {"users": int(users), "metrics": metrics}
    check_size(groups, side, int(sums[:, 0].max()), min_users)
    return rows


def _interval(users: float, total: float, square: float) -> dict[str, float]:
    mean = total / users
    variance = max(square / users - mean * mean, 0.0) * users / max(users - 1, 1)
    half = Z_95 * sqrt(variance / users)
    return {"mean": mean, "low": mean - half, "high": mean + half}
