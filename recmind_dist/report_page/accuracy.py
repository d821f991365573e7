"""Sections on what the runs achieve: test metrics, strata by degree, gates."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recmind_dist.errors import StoreError
from recmind_dist.evaluation.degree_bins import COLD_MAX
from recmind_dist.experiments.comparison import compare, read_users
from recmind_dist.report import folded_results
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.results import FOLDED
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.html import figure, figures, note, section, table
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.report_page.svg import Axes, bar_chart, line_chart

MOST_USERS = 200_000
"""More are compared without an interval: it would take longer than the rest of the report."""


def results_section(runs: Sequence[ReportedRun]) -> str:
    """Test metrics with their intervals, and how far the first run is above the others."""
    done = [run for run in runs if run.results is not None]
    if not done:
        return section("results", "Results", [note("No run is evaluated yet.")])
    results = {run.label: run.results for run in done if run.results is not None}
    metrics = table_metrics(results)
    folded = folded_results(results)
    rows: list[list[str | None]]
    rows = [[metric_label(name), *(_measured(run, name) for run in done)] for name in metrics]
    for name in metrics if folded else ():
        label = f"{metric_label(name)}, validation item in the history"
        rows.append([label, *(_measured(run, FOLDED + name) for run in done)])
    about = "± is half a 95 % interval over users. The whole catalogue is ranked."
    headers = ("metric", *(run.label for run in done))
    parts = [note(about), table("Metrics on the test split", headers, rows)]
    if gains := [row for run in done[1:] for row in _gains(done[0], run, metrics[:2])]:
        parts.append(table("Differences over the same users, one run each", GAINS, gains))
    return section("results", "Results", parts)


CORRELATION = ("side", "layer", "spearman", "spearman_low", "spearman_high", "count")
GAINS = ("runs", "metric", "difference", "95 % interval")


def _measured(run: ReportedRun, metric: str) -> str | None:
    results = run.results or {}
    folded, name = metric.startswith(FOLDED), metric.removeprefix(FOLDED)
    values = (results.get("folded") or {"metrics": {}}) if folded else results
    if (value := values["metrics"].get(name)) is None:
        return None
    try:
        per_user, users, _ = read_users([run.directory], metric)
    except StoreError:
        return f"{value:.4f}"
    half = 1.96 * per_user[0].std() / np.sqrt(max(len(users), 1))
    return f"{value:.4f} ± {half:.4f}"


def _gains(ours: ReportedRun, theirs: ReportedRun, metrics: Sequence[str]) -> list[list[Any]]:
    names, rows = f"{ours.label} over {theirs.label}", []
    for metric in metrics:
        try:
            if len(read_users([ours.directory], metric)[1]) > MOST_USERS:
                continue
            found = compare([ours.directory], [theirs.directory], metric)
        except StoreError:
            continue
        if found is None or found.gain is None:
            continue
        assert found.low is not None
        assert found.high is not None
        low, high = 100 * found.low, 100 * found.high
        interval = f"{low:+.1f} … {high:+.1f} %"
        if low <= 0 <= high:
            interval += ", not significant"
        rows.append([names, metric_label(metric), f"{100 * found.gain:+.1f} %", interval])
    return rows


def strata_section(runs: Sequence[ReportedRun]) -> str:
    """The first metrics by the training degree of the held-out item, and cold against warm."""
    done = {run.label: run.results for run in runs if run.results is not None}
    if not done:
        return ""
    parts = []
    for metric in table_metrics(done)[:2]:
        strata = {name: row for result in done.values() for name, row in result["strata"].items()}
        names = sorted((name for name in strata if name[0].isdigit()), key=_lowest)
        bars = {
            label: [result["strata"].get(name, {}).get(metric) for name in names]
            for label, result in done.items()
        }
        title = f"{metric_label(metric)} by training degree of the held-out item"
        axes = Axes(title, "degree of the item", metric_label(metric), tuple(names))
        columns = [strata[name]["users"] for name in names], *bars.values()
        rows = [list(row) for row in zip(names, *columns, strict=True)]
        parts.append(
            figure(bar_chart(axes, bars), title, ("degree", "users", *bars), rows),
        )
    if rows := _cold_and_warm([run for run in runs if run.results is not None], done):
        metric = metric_label(table_metrics(done)[0])
        title = f"{metric} of cold items (degree up to {COLD_MAX}) and warm ones"
        axes = Axes(title, "held-out item", metric, ("cold", "warm"))
        bars = {row[0]: [row[1], row[2]] for row in rows}
        parts.append(figure(bar_chart(axes, bars), title, ("run", "cold", "warm"), rows))
    return section("strata", "Cold and popular items", [figures(parts)])


def _cold_and_warm(runs: Sequence[ReportedRun], results: dict[str, Any]) -> list[list[Any]]:
    rows, metric = [], table_metrics(results)[0]
    for run in runs:
        try:
            values, _, degree = read_users([run.directory], metric)
        except StoreError:
            return []
        if degree is None:  # some user has several held-out items
            return []
        cold = degree <= COLD_MAX
        means = [float(values[0][at].mean()) if at.any() else None for at in (cold, ~cold)]
        rows.append([run.label, *means])
    return rows


def gates_section(runs: Sequence[ReportedRun]) -> str:
    """γ, the weight of the graph, by degree, layer and side."""
    parts, correlations = [], []
    for run in runs:
        gate = (run.results or {}).get("gate") or []
        for side in ("user", "item"):
            rows = [row for row in gate if row["side"] == side and row.get("median") is not None]
            if rows:
                parts.append(_gate_figure(f"γ of {side}s by degree, {run.label}", side, rows))
        correlations += [
            [run.label, *(row.get(key) for key in CORRELATION)]
            for row in gate
            if row.get("spearman") is not None
        ]
    if not parts:
        return ""
    about = (
        "γ is the weight of the graph's view; of language, or of what item vectors have learnt "
        "where no text is read, the rest. The band is 80 % of the nodes."
    )
    headers = ("run", "side", "layer", "Spearman", "low", "high", "nodes")
    caption = "Rank correlation of γ with degree, 95 % intervals"
    return section(
        "gates", "Gates", [note(about), figures(parts), table(caption, headers, correlations)]
    )


def _gate_figure(title: str, side: str, rows: list[dict[str, Any]]) -> str:
    names = sorted({row["degree_bin"] for row in rows}, key=_lowest)
    layers = sorted({row["layer"] for row in rows})
    lines, bands = {}, {}
    for layer in layers:
        own = {row["degree_bin"]: row for row in rows if row["layer"] == layer}
        found = [(x, own[name]) for x, name in enumerate(names) if name in own]
        label = f"layer {layer}" if len(layers) > 1 else "median"
        lines[label] = [(float(x), row["median"]) for x, row in found]
        bands[label] = [(float(x), row["p10"], row["p90"]) for x, row in found]
    axes = Axes(title, f"degree of the {side}", "γ", tuple(names))
    keys = ("degree_bin", "layer", "median", "p10", "p90", "count")
    headers = ("degree", "layer", "median", "10 %", "90 %", "nodes")
    cells = [[row[key] for key in keys] for row in rows]
    return figure(line_chart(axes, lines, bands), title, headers, cells)


def _lowest(name: str) -> int:
    return int(name.partition("-")[0])
