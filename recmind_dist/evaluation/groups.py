"""Groups of users and of items: by a column of their files, by activity, by popularity.

Legend: x nodes of a side (U users or I items), m memberships, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmind_dist.errors import ConfigError
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.graph import Graph
from recmind_dist.types import BoolArray, IntArray

ACTIVITY = "activity"
POPULARITY = "popularity"
HEAD_SHARE = 0.2
"""Of all training edges: those of the head, the most popular items, and of the tail, the least."""
MAX_GROUPS = 200
_FEW_VALUES = 10  # a column of more different numbers is cut into quarters
_SEPARATORS = r", |\|"  # of lists, as files have them and as the import joins them


@dataclass(frozen=True)
class Groups:
    """Who is in which group of one column; items may be in several, and nodes in none.

    Attributes:
        name: of the column.
        labels: [G].
        indptr: memberships of node k are [indptr[k], indptr[k + 1]), int64 [x + 1].
        group: int64 [m].
    """

    name: str
    labels: list[str]
    indptr: IntArray
    group: IntArray

    @staticmethod
    def of_pairs(
        name: str, labels: list[str], node: IntArray, group: IntArray, size: int
    ) -> "Groups":
        """From memberships in any order, each once."""
        order = np.lexsort([group, node])
        indptr = np.r_[0, np.cumsum(np.bincount(node, minlength=size))]
        return Groups(name, labels, indptr, group[order].astype(np.int64))

    @staticmethod
    def of_codes(name: str, labels: list[str], codes: IntArray) -> "Groups":
        """From a group a node, −1 for none. Shape of codes: [x]."""
        node = np.flatnonzero(codes >= 0)
        return Groups.of_pairs(name, labels, node, codes[node], len(codes))

    @property
    def node(self) -> IntArray:
        """[m] the node of each membership."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def codes(self) -> IntArray:
        """The group of each node, −1 for none. Shape: [x]. Of users, who are in one at most."""
        codes = np.full(len(self.indptr) - 1, -1)
        codes[self.node] = self.group
        return codes

    def members(self, g: int) -> BoolArray:
        """Which nodes are in a group. Shape: [x]."""
        inside = np.zeros(len(self.indptr) - 1, np.bool_)
        inside[self.node[self.group == g]] = True
        return inside


def check_groups(graph: Graph, settings: GroupSettings, split: str = "test") -> None:
    """Before a run is trained. Raises ConfigError: a column is missing, has one value or too many,
    or all its groups are too small.
    """
    held = graph.held_out(split)
    users = np.flatnonzero(np.diff(held.indptr))
    user = np.repeat(np.arange(graph.num_users), np.diff(held.indptr))
    item = np.asarray(held.indices) - graph.num_users
    for groups in user_groups(graph, settings.users):
        largest = max(groups.members(g)[users].sum() for g in range(len(groups.labels)))
        check_size(groups, "users", int(largest), settings.min_users)
    for groups in item_groups(graph, settings.items):
        labels = range(len(groups.labels))
        most = max(len(np.unique(user[groups.members(g)[item]])) for g in labels)
        check_size(groups, "items", most, settings.min_users)


def check_size(groups: Groups, side: str, largest: int, min_users: int) -> None:
    """Raises ConfigError: the largest group has fewer users with held-out items than this."""
    if largest < min_users:
        raise ConfigError(
            f"evaluation.groups.{side}: the largest group of {groups.name} has {largest} users "
            f"with held-out items, below evaluation.groups.min_users {min_users}: lower it, or "
            f"leave {groups.name} out"
        )


def user_groups(graph: Graph, names: Sequence[str]) -> list[Groups]:
    """Of each column, the same on every rank. Raises ConfigError: it is missing, has one value or
    too many.
    """
    return [_of_users(graph, name) for name in names]


def item_groups(graph: Graph, names: Sequence[str]) -> list[Groups]:
    """As `user_groups`, the same on every rank; `popularity` is head, middle and tail."""
    return [_of_items(graph, name) for name in names]


def _of_users(graph: Graph, name: str) -> Groups:
    if name != ACTIVITY:
        return _of_column(graph, "users", name)
    degree = np.asarray(graph.degree)[: graph.num_users]
    return _of_numbers(name, "users", degree.astype(np.float64))


def _of_items(graph: Graph, name: str) -> Groups:
    if name != POPULARITY:
        return _of_column(graph, "items", name)
    return Groups.of_codes(name, ["head", "middle", "tail"], popularity_codes(item_degree(graph)))


def item_degree(graph: Graph) -> IntArray:
    """Training edges of each item. Shape: [I]."""
    return np.asarray(graph.degree)[graph.num_users :]


def popularity_codes(degree_I: IntArray) -> IntArray:
    """0: the most popular items that have a fifth of the training edges; 2: the least popular ones
    that have a fifth, and those without edges; 1: the others. Of equal degrees the lower id counts
    as more popular. Shape: [I].

    Source: arXiv:2103.06364, section 3.
    """
    order = np.argsort(-degree_I, kind="stable")
    before = np.cumsum(degree_I[order]) - degree_I[order]
    share = before / max(int(degree_I.sum()), 1)
    codes = np.empty(len(degree_I), np.int64)
    codes[order] = np.digitize(share, [HEAD_SHARE, 1 - HEAD_SHARE])
    return codes


def quarters(values: NDArray[np.float64]) -> tuple[list[str], IntArray]:
    """Labels such as "18–24", and the group of each value, −1 for NaN. Ties fall in one group."""
    cuts = np.unique(np.nanquantile(values, [0.25, 0.5, 0.75], method="lower"))
    codes = np.where(np.isfinite(values), np.searchsorted(cuts, values), -1)
    present, codes_of = np.unique(codes[codes >= 0], return_inverse=True)
    labels = [_span(values[codes == code]) for code in present.tolist()]
    codes[codes >= 0] = codes_of
    return labels, codes


def _of_numbers(name: str, side: str, values: NDArray[np.float64]) -> Groups:
    labels, codes = quarters(values)
    if len(labels) < 2:
        raise ConfigError(
            f"evaluation.groups.{side}: {name}: three of four have the same value, {labels[0]}: "
            "leave it out"
        )
    return Groups.of_codes(name, labels, codes)


def _span(values: NDArray[np.float64]) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _of_column(graph: Graph, side: str, name: str) -> Groups:
    column = _read(graph, side, name)
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() == column.null_count() and numbers.n_unique() > _FEW_VALUES:
        return _of_numbers(name, side, numbers.fill_null(np.nan).to_numpy())
    pairs = pl.DataFrame(
        {"node": pl.int_range(len(column), eager=True), "value": column}
    ).drop_nulls()
    if side == "items":
        split = pl.col("value").str.replace_all(_SEPARATORS, "\0").str.split("\0")
        pairs = pairs.with_columns(split).explode("value")
    pairs = (
        pairs.with_columns(pl.col("value").str.strip_chars()).filter(pl.col("value") != "").unique()
    )
    labels = sorted(pairs["value"].unique().to_list())
    if len(labels) < 2 or len(labels) > MAX_GROUPS:
        found = f"{len(labels)} different values" if labels else "no value"
        if len(labels) == 1:
            found = f"one value, {labels[0]!r}"
        raise ConfigError(
            f"evaluation.groups.{side}: column {name!r} has {found}: name one with 2 to "
            f"{MAX_GROUPS} of them"
        )
    code = dict(zip(labels, range(len(labels)), strict=True))
    group = pairs["value"].replace_strict(code, return_dtype=pl.Int64).to_numpy()
    return Groups.of_pairs(name, labels, pairs["node"].to_numpy(), group, len(column))


def _read(graph: Graph, side: str, name: str) -> pl.Series:
    """A column of the users' or the items' file, as text."""
    path = graph.path / f"{side}.parquet"
    names = [column for column in pl.read_parquet_schema(path) if column != "id"]
    if name not in names:
        own = ACTIVITY if side == "users" else POPULARITY
        has = f"{', '.join(names)} and {own}" if names else f"{own} alone"
        raise ConfigError(
            f"evaluation.groups.{side}: no column {name!r}: the {side} of {graph.name} have {has}: "
            f"name one of these, or a file with it as dataset.{side}"
        )
    return pl.read_parquet(path, columns=[name]).get_column(name).cast(pl.String)
