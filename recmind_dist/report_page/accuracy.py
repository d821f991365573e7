"""Section on what the runs achieve: test metrics, what the lists are like, the first run against
the others.
"""

from collections.abc import Sequence
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.experiments.comparison import columns_of, compare, halves_of_lists, read_users
from recmind_dist.report import folded_results
from recmind_dist.report.metric_names import ACCURACY, CATALOGUE, LISTS, metric_label
from recmind_dist.report.results import FOLDED
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.html import note, section, table
from recmind_dist.report_page.intervals import STAR, evidence, value_of, with_interval
from recmind_dist.report_page.runs import ReportedRun

MOST_USERS = 200_000
"""More are compared without an interval: it would take longer than the rest of the report."""
GAINS = ("runs", "metric", "difference", "95 % interval")


def results_section(runs: Sequence[ReportedRun]) -> str:
    """Test metrics with their intervals, and how far the first run is above the others."""
    done = [run for run in runs if run.results is not None]
    if not done:
        return section("results", "Results", [note("No run is evaluated yet.")])
    results = {run.label: run.results for run in done if run.results is not None}
    metrics = table_metrics(results)
    rows = _rows(done, metrics)
    if folded_results(results):
        rows += _rows(done, metrics, FOLDED, ", validation item in the history")
    about = f"± is half a 95 % interval over users. The whole catalogue is ranked. {STAR}"
    headers = ("metric", *results)
    parts = [note(about), *_without_users(done), table("Metrics on the test split", headers, rows)]
    parts += _differences(done, metrics[:2])
    if more := _rows(done, [name for name in _accuracy(results) if name not in metrics]):
        parts.append(table("Other metrics of accuracy on the test split", headers, more))
    if lists := _list_rows(done):
        about = "Of lists more is not better, so that none is marked; docs/metrics.md defines them."
        parts += [note(about), table("What the lists are like", headers, lists)]
    return section("results", "Results", parts)


def _rows(
    runs: Sequence[ReportedRun], metrics: Sequence[str], prefix: str = "", behind: str = ""
) -> list[list[str | None]]:
    """A row a metric: the mean of each run with half its interval, the best marked.

    Args:
        behind: ends the name of the metric.
    """
    found = evidence(runs, metrics, prefix)
    return [
        [
            metric_label(name) + behind,
            *(
                with_interval(
                    value_of(run, prefix + name),
                    found[run.label].half.get(name),
                    name in found[run.label].best,
                )
                for run in runs
            ),
        ]
        for name in metrics
    ]


def _accuracy(results: dict[str, Any]) -> list[str]:
    """All metrics of accuracy that some run has, by cut-off."""
    found = {name for result in results.values() for name in result["metrics"]}
    cutoffs = sorted({int(name.partition("@")[2]) for name in found})
    return [f"{kind}@{k}" for k in cutoffs for kind in ACCURACY if f"{kind}@{k}" in found]


def _list_rows(runs: Sequence[ReportedRun]) -> list[list[str | None]]:
    """A row a metric of lists, at each cut-off; coverage and Gini are of all users together."""
    values = {run.label: (run.results or {}).get("lists", {}) for run in runs}
    found = {name for of_run in values.values() for name in of_run}
    cutoffs = sorted({int(name.partition("@")[2]) for name in found})
    names = [f"{kind}@{k}" for k in cutoffs for kind in (LISTS | CATALOGUE)]
    names = [name for name in names if name in found]
    half = {run.label: halves_of_lists(run.directory, names) for run in runs}
    return [
        [
            metric_label(name),
            *(_list_cell(values[run.label].get(name), half[run.label].get(name)) for run in runs),
        ]
        for name in names
    ]


def _list_cell(value: float | None, half: float | None) -> str | None:
    """Four digits, since novelty is in bits and popularity in interactions."""
    if value is None:
        return None
    return f"{value:.4g}" if half is None else f"{value:.4g} ± {half:.2g}"


def _without_users(runs: Sequence[ReportedRun]) -> list[str]:
    return [
        note(
            f"No intervals of {run.label}: its metrics by user are missing or damaged: run "
            f"`recmind evaluate {run.directory.path}`."
        )
        for run in runs
        if not columns_of(run.directory)
    ]


def _differences(runs: Sequence[ReportedRun], metrics: Sequence[str]) -> list[str]:
    """The first run against each other one; a sentence where that cannot be said."""
    first, *others = runs
    rows, notes = [], []
    for run in others:
        names = f"{first.label} over {run.label}"
        try:
            users = len(read_users([first.directory], metrics[0])[1])
            if users > MOST_USERS:
                notes.append(f"No difference of {names}: more than {MOST_USERS:,} users.")
            elif users:
                rows += [_gain(first, run, names, metric) for metric in metrics]
        except StoreError as error:
            notes.append(f"No difference of {names}: {error}.")
    caption = "Differences over the same users, one run each"
    return [*map(note, notes), *([table(caption, GAINS, rows)] if rows else [])]


def _gain(ours: ReportedRun, theirs: ReportedRun, names: str, metric: str) -> list[Any]:
    found = compare([ours.directory], [theirs.directory], metric)
    assert found is not None, "all users are compared"
    if found.gain is None or found.low is None or found.high is None:
        return [names, metric_label(metric), None, f"{theirs.label} is 0, or nearly"]
    low, high = 100 * found.low, 100 * found.high
    interval = f"{low:+.1f} … {high:+.1f} %"
    if low <= 0 <= high:
        interval += ", not significant"
    return [names, metric_label(metric), f"{100 * found.gain:+.1f} %", interval]
