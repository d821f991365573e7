"""Results of `recmind run` and `recmind evaluate`, as tables or as one JSON object."""

from collections.abc import Mapping
from typing import Any

from recmind_dist.cli.app import say, show
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.experiments.comparison import (
    compare_groups,
    evidence_of,
    gain_line,
    gains,
    halves_of_lists,
    halves_of_strata,
)
from recmind_dist.report import (
    RunDirectory,
    comparison_table,
    folded_results,
    print_table,
    strata_table,
)
from recmind_dist.report.audit_tables import STAR, difference_table
from recmind_dist.report.results import FOLDED
from recmind_dist.report.tables import (
    group_tables,
    list_metrics,
    lists_table,
    print_rows,
    table_metrics,
)
from recmind_dist.training.finished_run import graph_of

Results = Mapping[str, Mapping[str, Any]]
"""Variant → content of results.json."""
Runs = Mapping[str, RunDirectory]
"""Variant → its run, the first one compared with the others."""


def print_results(results: Results, runs: Runs, title: str, chosen: str) -> None:
    """Prints all tables; the metric that chose the checkpoint is among them."""
    metrics = _measured(results, chosen)
    evidence = evidence_of(runs, metrics)
    print_table(comparison_table(results, metrics or None, title, evidence))
    if folded := folded_results(results):
        title = "The same, with the validation item in the user's history (folded in, not trained)"
        evidence = evidence_of({name: runs[name] for name in folded}, metrics, FOLDED)
        print_table(comparison_table(folded, metrics or None, title, evidence))
    first, names = table_metrics(results)[0], list_metrics(results)
    strata = {name: halves_of_strata(run, first) for name, run in runs.items() if metrics}
    print_table(strata_table(results, strata))
    lists = {name: halves_of_lists(run, names) for name, run in runs.items() if names}
    of_lists = [lists_table(results, lists)] if metrics else []
    for table in (*of_lists, *group_tables(results)):
        print_table(table)
    say("±: half a 95 % interval over users; *: significantly above all others of its column")


def print_gains(runs: Runs, k: int) -> None:
    """Prints how far the first run is above each other one in Recall and NDCG at `k`."""
    (first, ours), *others = runs.items()
    for other, theirs in others:
        line = gain_line(ours, theirs, _gain_metrics(k))
        show(f"{first} over {other}: {line or 'no held-out items'}")


def print_groups(groups: GroupSettings, runs: Runs, k: int) -> None:
    """Prints what the first run is above each other one by group, where it has groups."""
    if len(runs) < 2 or not (groups.users or groups.items):
        return
    if (gains := _group_gains(groups, runs, k)) is None:
        say("no differences by group: no run has its graph, which knows the groups")
        return
    first = next(iter(runs))
    for other, columns in gains.items():
        for found in columns:
            table = difference_table(f"{first} over {other}", found, _gain_metrics(k))
            print_rows(table.title, table.headers, table.rows)
    say(STAR)


def results_json(
    results: Results, runs: Runs, chosen: str, k: int, groups: GroupSettings
) -> dict[str, dict[str, Any]]:
    """results.json by variant, in each `half_intervals` (± of the tables of all users, by metric),
    `half_intervals_by_stratum` (± of the table by degree) and `best` (stars of the first table); in
    the first, `gains`, what it is above each other run by metric, and `group_gains`, by group.
    """
    metrics = _measured(results, chosen)
    found = {name: dict(result) for name, result in results.items()}
    _add_evidence(found, runs, metrics)
    first_metric, names = table_metrics(results)[0], list_metrics(results)
    for name, result in found.items():
        of_strata = halves_of_strata(runs[name], first_metric) if metrics else {}
        result["half_intervals_by_stratum"] = of_strata
        result["half_intervals"] |= halves_of_lists(runs[name], names) if names else {}
    folded = {name: dict(result) for name, result in folded_results(found).items()}
    _add_evidence(folded, runs, metrics, FOLDED)
    for name, result in folded.items():
        found[name]["folded"] = result
    (first, ours), *others = runs.items()
    found[first]["gains"] = {
        other: {
            metric: gain.to_json() for metric, gain in gains(ours, theirs, _gain_metrics(k)).items()
        }
        for other, theirs in others
    }
    found[first]["group_gains"] = _group_gains(groups, runs, k) or {}
    return found


def _group_gains(
    groups: GroupSettings, runs: Runs, k: int
) -> dict[str, list[dict[str, Any]]] | None:
    """`compare_groups` of the first run with each other one. None where no run has its graph."""
    (_, ours), *others = runs.items()
    graph = next((graph for run in runs.values() if (graph := graph_of(run))), None)
    if graph is None:
        return None
    return {
        other: compare_groups(ours, theirs, graph, groups, _gain_metrics(k))
        for other, theirs in others
    }


def _measured(results: Results, chosen: str) -> tuple[str, ...]:
    """The metrics of the tables; none where nothing is held out."""
    measured = any(result["metrics"] for result in results.values())
    return table_metrics(results, chosen) if measured else ()


def _add_evidence(
    results: dict[str, dict[str, Any]], runs: Runs, metrics: tuple[str, ...], prefix: str = ""
) -> None:
    """Adds `half_intervals` and `best` to each result."""
    if not results:
        return
    for name, found in evidence_of({name: runs[name] for name in results}, metrics, prefix).items():
        results[name] |= {"half_intervals": found.half, "best": sorted(found.best)}


def _gain_metrics(k: int) -> list[str]:
    return [f"{name}@{k}" for name in ("recall", "ndcg")]
