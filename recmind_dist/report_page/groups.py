"""Sections on groups of users and items: metrics of each, and the gaps that an audit found."""

from collections.abc import Mapping, Sequence
from typing import Any

from recmind_dist.report.audit_tables import SHARES, STAR, audit_tables
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.html import figure, figures, note, section, table, text
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.report_page.svg import Axes, bar_chart, line_chart
from recmind_dist.storage import read_json

CURVE = ("ndcg", "tail")


def groups_section(runs: Sequence[ReportedRun]) -> str:
    """The first metrics by group, a figure a column of `evaluation.groups`."""
    results = {run.label: run.results for run in runs if run.results is not None}
    columns = dict.fromkeys(
        (side, column)
        for result in results.values()
        for side, found in result.get("groups", {}).items()
        for column in found
    )
    if not columns:
        return ""
    parts = [
        _group_figure(results, side, column, metric)
        for side, column in columns
        for metric in table_metrics(results)[:2]
    ]
    about = "± is half a 95 % interval. Of a group of items, its items alone count as held out."
    return section("groups", "Groups of users and items", [note(about), figures(parts)])


def _group_figure(results: Mapping[str, Any], side: str, column: str, metric: str) -> str:
    of_run = {
        label: result.get("groups", {}).get(side, {}).get(column, {})
        for label, result in results.items()
    }
    users = {name: row["users"] for groups in of_run.values() for name, row in groups.items()}
    bars: dict[str, list[float | None]] = {label: [] for label in of_run}
    rows: list[list[Any]] = [[name, count] for name, count in users.items()]
    for label, groups in of_run.items():
        for row, name in zip(rows, users, strict=True):
            found = groups.get(name, {}).get("metrics", {}).get(metric)
            bars[label].append(found and found["mean"])
            row.append(found and f"{found['mean']:.4f} ± {(found['high'] - found['low']) / 2:.4f}")
    title = f"{metric_label(metric)} by {column} of the {side}"
    axes = Axes(title, column, metric_label(metric), tuple(users))
    return figure(bar_chart(axes, bars), title, (column, "users", *bars), rows)


def audit_section(runs: Sequence[ReportedRun]) -> str:
    """What `recmind audit` has written into the runs."""
    parts = []
    for run in runs:
        if run.results is None or not run.directory.audit.is_file():
            continue
        found = read_json(run.directory.audit)
        if not _is_of(found, run.results):
            remedy = f"run `recmind audit {run.directory.path}`"
            parts.append(note(f"The audit of {run.label} is of another evaluation: {remedy}."))
            continue
        parts.append(f"<h3>{text(run.label)}</h3>{_charts(found, run.label)}")
        parts += [
            table(f"{one.title} ({run.label})", one.headers, one.rows)
            for one in audit_tables(found)
        ]
    return section("audit", "Audit", [note(STAR), *parts] if parts else [])


def _is_of(found: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether an audit read the lists that the results are of."""
    means = {row["metric"]: row["mean"] for row in found["all"]}
    return all(
        abs(means[name] - results["metrics"].get(f"{name}@{found['k']}", -1)) < 1e-6
        for name in ("recall", "ndcg")
    )


def _charts(found: Mapping[str, Any], label: str) -> str:
    parts = []
    for name, rows in found["item_groups"].items():
        title = f"Shares of items by {name}, {label}"
        axes = Axes(title, name, "share", tuple(row["group"] for row in rows))
        bars = {share: [row[share] for row in rows] for share in SHARES}
        cells = [[row["group"], *(row[share] for share in SHARES)] for row in rows]
        parts.append(figure(bar_chart(axes, bars), title, (name, *SHARES), cells))
    for name in CURVE if found["curve"] else ():
        metric = metric_label(f"{name}@{found['k']}")
        title = f"{metric} by penalty on popularity, {label}"
        points = [(row["penalty"], row[name]) for row in found["curve"]]
        chart = line_chart(Axes(title, "penalty", metric), {label: points})
        parts.append(figure(chart, title, ("penalty", metric), points))
    return figures(parts)
