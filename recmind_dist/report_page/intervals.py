"""Intervals over users of what a report shows, and which run is significantly the best, where some
runs may lack a metric or their users' values.
"""

from collections.abc import Iterable, Sequence

from recmind_dist.experiments.comparison import columns_of, evidence_of
from recmind_dist.report.results import FOLDED
from recmind_dist.report.tables import COLD, Evidence
from recmind_dist.report_page.runs import ReportedRun

STAR = "*: significantly above every other run: paired t-tests over the same users, Holm, one seed."


def evidence(
    runs: Sequence[ReportedRun], metrics: Iterable[str], prefix: str = ""
) -> dict[str, Evidence]:
    """`evidence_of` each metric over the runs that have it by user. None of them is the best where
    another run has its mean alone.

    Args:
        prefix: `FOLDED` for histories with the validation item.
    """
    columns = {run.label: set(columns_of(run.directory)) for run in runs}
    together: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        labels = tuple(label for label, names in columns.items() if prefix + metric in names)
        together.setdefault(labels, []).append(metric)
    half: dict[str, dict[str, float]] = {run.label: {} for run in runs}
    best: dict[str, set[str]] = {run.label: set() for run in runs}
    for labels, names in together.items():
        of_users = {run.label: run.directory for run in runs if run.label in labels}
        for label, found in evidence_of(of_users, names, prefix).items():
            half[label] |= found.half
            best[label] |= {
                name
                for name in found.best
                if sum(value_of(run, prefix + name) is not None for run in runs) <= len(labels)
            }
    return {label: Evidence(half[label], frozenset(best[label])) for label in half}


def value_of(run: ReportedRun, metric: str) -> float | None:
    """A mean of results.json; None where it is not there.

    Args:
        metric: `cold recall@20` is of cold items, `folded_recall@20` of histories with the
            validation item.
    """
    results = run.results or {}
    if metric.startswith(FOLDED):
        metric, results = metric.removeprefix(FOLDED), results.get("folded") or {}
    rows = results.get("metrics", {})
    if metric.startswith(COLD):
        metric, rows = metric.removeprefix(COLD), results.get("strata", {}).get("cold", {})
    value: float | None = rows.get(metric)
    return value


def with_interval(value: float | None, half: float | None, best: bool = False) -> str | None:
    """A cell such as "0.2512 ± 0.0141*"."""
    if value is None:
        return None
    shown = f"{value:.4f}" if half is None else f"{value:.4f} ± {half:.4f}"
    return f"{shown}*" if best else shown
