"""Sections on what the runs are: their state, the data in numbers, their settings."""

from collections.abc import Sequence
from typing import Any

from recmind_dist.ingest.summary import REASONS
from recmind_dist.report_page.html import note, section, table
from recmind_dist.report_page.runs import ReportedRun, settings_beside_defaults

COUNTS = {
    "num_users": "users",
    "num_items": "items",
    "num_edges": "training interactions",
    "num_valid": "validation interactions",
    "num_test": "test interactions",
    "num_withheld": "items withheld",
    "users_without_test": "users without a test item",
}

LONGEST = 200
"""Letters of a setting: prompts and templates may be long."""
PLACES = ("run_dir", "cache_dir", "variant", "compare", "fetch")


def runs_section(runs: Sequence[ReportedRun]) -> str:
    """What each run is and how far."""
    rows = []
    for run in runs:
        start = (run.records.get("start") or [{}])[-1]
        commit = (run.results or {}).get("commit")
        where = start.get("device"), start.get("world_size"), commit[:10] if commit else None
        what = run.label, run.state, run.config.model.kind, run.config.train.seed
        rows.append([*what, *where, str(run.directory.path)])
    headers = ("run", "state", "model", "seed", "device", "ranks", "commit", "directory")
    return section("runs", "Runs", [table("Runs of this report", headers, rows)])


def data_section(runs: Sequence[ReportedRun], with_ids: bool = True) -> str:
    """The graph in numbers, and what was read of the files that it is made of.

    Args:
        with_ids: whether rows and warnings are quoted, which may name users and files.
    """
    title = f"Data: {runs[0].config.dataset.name}"
    graph = next((run.graph for run in runs if run.graph), None)
    if graph is None:
        missing = "Its graph is not where the run made it, so that it cannot be counted."
        return section("data", title, [note(missing), *_reading(runs, with_ids)])
    users, items, edges = (graph[key] for key in ("num_users", "num_items", "num_edges"))
    rows: list[list[Any]] = [[label, graph[key]] for key, label in COUNTS.items() if graph.get(key)]
    rows += [
        ["training interactions of a user, mean", edges / max(users, 1)],
        ["training interactions of an item, mean", edges / max(items, 1)],
        ["share of all pairs that is known", f"{100 * edges / max(users * items, 1):.3f} %"],
        ["split", graph["split"]],
    ]
    return section(
        "data",
        title,
        [table("The graph in numbers", ("", "value"), rows), *_reading(runs, with_ids)],
    )


def _reading(runs: Sequence[ReportedRun], with_ids: bool) -> list[str]:
    """Rows of the log by what became of them, then the other lines that `prepare` prints."""
    read = next((found for run in runs if (found := run.read)), None)
    if read is None:
        missing = "What was read of its files is not known: neither its data set nor results say it"
        return [note(f"{missing}.")]
    counts, examples = read["counts"], read["examples"] if with_ids else {}
    rows: list[list[Any]]
    rows = [["read", counts["rows_in"], None], ["kept", counts["rows_kept"], None]]
    rows += [
        [words, counts[name], examples.get(name)]
        for name, words in REASONS.items()
        if counts.get(name)
    ]
    lines = [note(line) for line in read["lines"][1:] if with_ids]  # the first is the table
    return [table("Rows of the log", ("", "rows", "the first"), rows), *lines]


def settings_section(runs: Sequence[ReportedRun]) -> str:
    """Keys that are not at their default in some run."""
    found = [settings_beside_defaults(run.config) for run in runs]
    for settings in found:
        for key in PLACES:
            settings.pop(key, None)
    keys = list(dict.fromkeys(key for settings in found for key in settings))
    rows = []
    for key in keys:
        default = next(settings[key][0] for settings in found if key in settings)
        values = [_shown(settings[key][1]) if key in settings else None for settings in found]
        rows.append([key, _shown(default), *values])
    if not rows:
        return ""
    about = note("– means the default. What follows from the data is listed too.")
    headers = ("key", "default", *(run.label for run in runs))
    parts = [about, table("Settings that differ from defaults", headers, rows)]
    return section("settings", "Settings", parts)


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None or len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return str(value).lower() if isinstance(value, bool) else str(value)
