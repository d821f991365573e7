"""Sections on groups of users and items: metrics of each, and the gaps that an audit found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.experiments.comparison import compare_groups, read_users
from recmind_dist.report.audit_tables import SHARES, STAR, audit_tables, difference_table
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.accuracy import MOST_USERS
from recmind_dist.report_page.html import figure, figures, note, section, table, text
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.report_page.svg import Axes, bar_chart, line_chart
from recmind_dist.storage import read_json


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
    done = [run for run in runs if run.results is not None]
    beside = _differences(done, table_metrics(results)[:2])
    return section("groups", "Groups of users and items", [note(about), figures(parts), *beside])


def _differences(runs: Sequence[ReportedRun], metrics: Sequence[str]) -> list[str]:
    """What the first run is above each other one, a table a column; a sentence where that cannot be
    said.
    """
    first, *others = runs
    graph = next((run.graph_path for run in runs if run.graph_path is not None), None)
    rows: dict[str, list[list[Any]]] = {}
    notes = []
    for run in others:
        names = f"{first.label} over {run.label}"
        try:
            for found in _compared(runs, run, graph, metrics):
                title = f"Differences by {found['column']} of the {found['side']}"
                of_run = difference_table(names, found, metrics).rows
                rows.setdefault(title, []).extend([names, *row] for row in of_run)
        except (ConfigError, StoreError) as error:
            notes.append(note(f"No differences by group of {names}: {error}."))
    headers = ("runs", "group", "users", *map(metric_label, metrics))
    tables = [
        table(f"{title}, the same users in both", headers, of_column)
        for title, of_column in rows.items()
    ]
    return [*notes, *([note(STAR), *tables] if tables else [])]


def _compared(
    runs: Sequence[ReportedRun], other: ReportedRun, graph: Path | None, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Raises ConfigError or StoreError."""
    first = runs[0]
    settings = [run.config.evaluation.groups for run in runs]
    chosen = next((one for one in settings if one.users or one.items), settings[0])
    if graph is None:
        raise StoreError("the graph, which knows who is in which group, is not there any more")
    if len(read_users([first.directory], metrics[0])[1]) > MOST_USERS:
        raise StoreError(f"more than {MOST_USERS:,} users, of which it would take long")
    return compare_groups(first.directory, other.directory, graph, chosen, metrics)


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
    return figures(parts + _curve(found, label))


def _curve(found: Mapping[str, Any], label: str) -> list[str]:
    """What a penalty on popularity costs and what it shows, by penalty, and one against the other,
    with 95 % intervals of the paired change against no penalty.
    """
    rows = found["curve"]
    ndcg, tail = (metric_label(f"{name}@{found['k']}") for name in ("ndcg", "tail"))
    change = f"change of {ndcg}"
    penalty = [row["penalty"] for row in rows]
    price = [_around(row["ndcg_change"]["gap"], row["ndcg_change"]) for row in rows]
    shown = [_around(row["tail"], row.get("tail_change")) for row in rows]
    drawn = (
        (Axes(f"Price of a penalty on popularity, {label}", "penalty", change), penalty, price),
        (Axes(f"{tail} by penalty on popularity, {label}", "penalty", tail), penalty, shown),
        (
            Axes(f"Price against gain of a penalty, {label}", tail, change),
            [y[0] for y in shown],
            price,
        ),
    )
    return [_curve_figure(axes, label, penalty, xs, ys) for axes, xs, ys in drawn if rows]


def _around(value: float, change: Mapping[str, float] | None) -> tuple[float, float, float]:
    """A value with the interval of its change, if that is known: value, low, high."""
    if change is None:
        return value, value, value
    return value, value + change["low"] - change["gap"], value + change["high"] - change["gap"]


def _curve_figure(
    axes: Axes,
    label: str,
    penalty: Sequence[float],
    xs: Sequence[float],
    ys: Sequence[tuple[float, float, float]],
) -> str:
    points = sorted((x, *y) for x, y in zip(xs, ys, strict=True))
    line = {label: [(x, y) for x, y, _, _ in points]}
    chart = line_chart(axes, line, {label: [(x, low, high) for x, _, low, high in points]})
    headers = ["penalty", axes.x, axes.y, "low", "high"]
    cells = [[p, x, *y] for p, x, y in zip(penalty, xs, ys, strict=True)]
    if axes.x == "penalty":
        headers, cells = headers[1:], [row[1:] for row in cells]
    return figure(chart, axes.title, headers, cells)
