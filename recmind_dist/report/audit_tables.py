"""audit.json, and differences between runs by group, as tables for a terminal and for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recmind_dist.report.metric_names import metric_label

KEPT = ("recall", "ndcg", "popularity", "tail", "coverage", "gini", "novelty")
SHARES = ("catalogue", "relevance", "exposure")
STAR = "Intervals are 95 %, over users; *: significant, corrected within a column of a table."


@dataclass(frozen=True)
class AuditTable:
    """Cells are texts and whole numbers."""

    title: str
    headers: list[str]
    rows: list[list[Any]]


def audit_tables(found: Mapping[str, Any]) -> list[AuditTable]:
    """All tables of an audit, in the order in which they are read.

    Args:
        found: content of audit.json.
    """
    beside = found["against"] is not None
    tables = [_of_all(found, beside)]
    tables += [_of_users(name, rows, beside) for name, rows in found["user_groups"].items()]
    tables += [_of_items(name, rows, beside) for name, rows in found["item_groups"].items()]
    return tables + ([_of_curve(found["curve"])] if found["curve"] else [])


def difference_table(runs: str, found: Mapping[str, Any], metrics: Sequence[str]) -> AuditTable:
    """What one run is above another by group of a column.

    Args:
        runs: such as "recmind over lightgcn".
        found: of `differences_by_group`.
    """
    rows = [[row["group"], row["users"], *(_gap(row[m]) for m in metrics)] for row in found["rows"]]
    title = f"{runs} by {found['column']} of the {found['side']}, the same users in both"
    return AuditTable(title, [found["column"], "users", *map(metric_label, metrics)], rows)


def _of_all(found: Mapping[str, Any], beside: bool) -> AuditTable:
    title = f"{found['run']}, {found['users']} users, lists of {found['k']}"
    if beside:
        title += f"; change: above {found['against']}"
    kinds = ["against_run"] * beside
    rows = [[row["metric"], _mean(row), *_gaps(row, kinds)] for row in found["all"]]
    return AuditTable(title, ["all users", "mean", *["change"] * beside], rows)


def _of_users(name: str, found: Sequence[Mapping[str, Any]], beside: bool) -> AuditTable:
    kinds = ["gap", "gap_against", "change"] if beside else ["gap"]
    rows = [
        [row["group"], row["users"], row["metric"], _mean(row), *_gaps(row, kinds)] for row in found
    ]
    headers = [name, "users", "metric", "mean", *kinds]
    return AuditTable(f"users by {name}: gap to the others", headers, rows)


def _of_items(name: str, found: Sequence[Mapping[str, Any]], beside: bool) -> AuditTable:
    kinds = ["against_relevance", "against_catalogue", *(["against_run"] * beside)]
    rows = [
        [row["group"], row["items"], *(f"{row[s]:.4f}" for s in SHARES), *_gaps(row, kinds)]
        for row in found
    ]
    title = f"items by {name}: exposure above relevance, above the share of the catalogue"
    return AuditTable(title, [name, "items", *SHARES, *kinds], rows)


def _of_curve(found: Sequence[Mapping[str, Any]]) -> AuditTable:
    rows = [
        [
            f"{row['penalty']:g}",
            *(f"{row[name]:.4f}" for name in KEPT[:2]),
            _gap(row["ndcg_change"]),
            *(f"{row[name]:.4g}" for name in KEPT[2:]),
        ]
        for row in found
    ]
    title = "evaluation.popularity_penalty: what it costs, what it shows"
    return AuditTable(title, ["penalty", *KEPT[:2], "ndcg_change", *KEPT[2:]], rows)


def _mean(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3g} ({row['low']:.3g} … {row['high']:.3g})"


def _gaps(row: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    return [_gap(row[kind]) if kind in row else "" for kind in kinds]


def _gap(gap: Mapping[str, Any]) -> str:
    star = "*" if gap["significant"] else " "
    return f"{gap['gap']:+.3g} ({gap['low']:+.3g} … {gap['high']:+.3g}){star}"
