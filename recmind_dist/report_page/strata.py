"""Section on cold and popular items: metrics by the training degree of the held-out item."""

from collections.abc import Mapping, Sequence
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.evaluation.degree_bins import COLD_MAX
from recmind_dist.experiments.comparison import half_of_mean, halves_of_strata, read_users
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.gates import lowest_degree
from recmind_dist.report_page.html import figure, figures, note, section
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.report_page.svg import Axes, bar_chart

HEADERS = ("run", "cold", "± cold", "warm", "± warm")
NO_WARM = (
    "No value of warm items: users have several held-out items, and what is kept of a user is of "
    "all of them. Cold and each degree are of their own items alone."
)
Results = Mapping[str, Mapping[str, Any]]


def strata_section(runs: Sequence[ReportedRun]) -> str:
    """The first metrics by the training degree of the held-out item, and cold against warm."""
    done = [run for run in runs if run.results is not None]
    results = {run.label: run.results for run in done if run.results is not None}
    if not results:
        return ""
    metrics = table_metrics(results)
    parts = [_by_degree(done, results, metric) for metric in metrics[:2]]
    rows = [_cold_and_warm(run, metrics[0]) for run in done]
    metric = metric_label(metrics[0])
    title = f"{metric} of cold items (degree up to {COLD_MAX}) and warm ones"
    axes = Axes(title, "held-out item", metric, ("cold", "warm"))
    bars = {label: [cold, warm] for label, cold, _, warm, _ in rows}
    parts.append(figure(bar_chart(axes, bars), title, HEADERS, rows))
    about = [note("± is half a 95 % interval over users.")]
    if all(warm is None for *_, warm, _ in rows):
        about.append(note(NO_WARM))
    return section("strata", "Cold and popular items", [*about, figures(parts)])


def _by_degree(runs: Sequence[ReportedRun], results: Results, metric: str) -> str:
    strata = {name: row for result in results.values() for name, row in result["strata"].items()}
    names = sorted((name for name in strata if name[0].isdigit()), key=lowest_degree)
    bars = {
        label: [result["strata"].get(name, {}).get(metric) for name in names]
        for label, result in results.items()
    }
    halves = [_halves(run, metric) for run in runs]
    title = f"{metric_label(metric)} by training degree of the held-out item"
    axes = Axes(title, "degree of the item", metric_label(metric), tuple(names))
    rows = [
        [name, strata[name]["users"], *means, *(half.get(name) for half in halves)]
        for name, *means in zip(names, *bars.values(), strict=True)
    ]
    headers = ("degree", "users", *bars, *(f"± {label}" for label in bars))
    return figure(bar_chart(axes, bars), title, headers, rows)


def _halves(run: ReportedRun, metric: str) -> dict[str, float]:
    try:
        return halves_of_strata(run.directory, metric)
    except StoreError:
        return {}  # the section of results says so


def _cold_and_warm(run: ReportedRun, metric: str) -> list[Any]:
    """Label, then mean and half its interval over users of cold items, and of the others."""
    cold = (run.results or {})["strata"]["cold"].get(metric)
    half, warm, half_of_warm = _halves(run, metric).get("cold"), None, None
    try:
        values_SU, _, degree = read_users([run.directory], metric)
    except StoreError:
        degree = None
    if degree is not None and (at := degree > COLD_MAX).any():
        warm, half_of_warm = float(values_SU[0][at].mean()), half_of_mean(values_SU[0][at])
    return [run.label, cold, half, warm, half_of_warm]
