"""Sections on how training went: losses, validation, speed, stall, memory, traffic."""

from collections.abc import Mapping, Sequence
from typing import Any

from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.html import figure, figures, note, section, table
from recmind_dist.report_page.runs import Record, ReportedRun
from recmind_dist.report_page.svg import Axes, Line, line_chart

MOST_POINTS = 200
"""Of a line: of more, neighbours are averaged."""
PLACE = {"time", "kind", "phase", "step", "total", "epoch", "epochs", "queue_staleness"}
TRAFFIC = {
    "ids_bytes": "ids",
    "rows_bytes": "rows",
    "gradients_bytes": "gradients",
    "queue_bytes": "keys of the queue",
    "dense_bytes": "dense part",
}
SPEED = (
    ("epoch", "steps_per_s", "Steps a second", "steps a second"),
    ("epoch", "sampler_stall_percent", "Time spent waiting for batches", "% of time"),
    ("epoch", "peak_memory_mb", "Peak memory of rank 0", "MB"),
    ("step", "queue_staleness", "Age of the queue's keys", "steps"),
)
"""Kind of record, its key, title and unit."""
PHASES = {"warmup": "warm-up", "joint": "joint phase"}


def losses_section(runs: Sequence[ReportedRun]) -> str:
    """The loss and its terms over steps, by phase."""
    parts = []
    for phase in PHASES:
        steps = {run.label: _of_phase(run, "step", phase) for run in runs}
        terms = dict.fromkeys(
            key for records in steps.values() for record in records for key in record
        )
        for term in sorted(terms.keys() - PLACE, key=lambda name: name != "loss"):
            if any(record.get(term) for records in steps.values() for record in records):
                name = term.replace("_", " ")
                axes = Axes(f"{name}, {PHASES[phase]}", "step", name)
                parts.append(_over(axes, steps, "step", term))
    return section("losses", "Losses", [figures(parts)] if any(parts) else [])


def validation_section(runs: Sequence[ReportedRun]) -> str:
    """Metrics on validation over epochs."""
    records = {run.label: run.records.get("validation", []) for run in runs}
    names = {key for rows in records.values() for row in rows for key in row if "@" in key}
    if not names:
        return ""
    parts = []
    for metric in table_metrics({"": {"metrics": dict.fromkeys(names)}}):
        axes = Axes(f"{metric_label(metric)} on validation", "epoch", metric_label(metric))
        parts.append(_over(axes, records, "epoch", metric))
    return section("validation", "Validation", [figures(parts)])


def speed_section(runs: Sequence[ReportedRun]) -> str:
    """Throughput, waiting for batches, memory, staleness of the queue, by phase."""
    parts = []
    for phase, name in PHASES.items():
        of_kind = {
            kind: {run.label: _of_phase(run, kind, phase) for run in runs}
            for kind in ("epoch", "step")
        }
        for label, steps in of_kind["step"].items():
            for epoch in of_kind["epoch"][label] if steps else ():
                per_epoch = steps[-1]["total"] / max(steps[-1]["epochs"], 1)
                epoch["steps_per_s"] = per_epoch / max(epoch["seconds"], 1e-9)
        for kind, key, title, unit in SPEED:
            parts.append(_over(Axes(f"{title}, {name}", kind, unit), of_kind[kind], kind, key))
    return section("speed", "Speed and memory", [figures(parts)] if any(parts) else [])


def traffic_section(runs: Sequence[ReportedRun]) -> str:
    """Bytes between ranks by kind."""
    rows: list[list[Any]] = []
    for run in runs:
        records = run.records.get("traffic", [])
        sums = [sum(record.get(kind, 0) for record in records) / 1e6 for kind in TRAFFIC]
        if any(sums):
            rows.append([run.label, *sums])
    if not any(run.records.get("traffic") for run in runs):
        return ""
    if not rows:
        return section("traffic", "Traffic", [note("One rank each: nothing travels.")])
    headers = ("run", *TRAFFIC.values())
    shown = table("Sent and received by rank 0 in the whole training, MB", headers, rows)
    return section("traffic", "Traffic", [shown])


def _of_phase(run: ReportedRun, kind: str, phase: str) -> list[Record]:
    return [record for record in run.records.get(kind, []) if record.get("phase") == phase]


def _over(axes: Axes, records: Mapping[str, list[Record]], at: str, key: str) -> str:
    """A chart of a key's values over epochs (from 1) or steps; "" where no run has it."""
    lines: dict[str, Line] = {}
    for label, rows in records.items():
        first = 1 if at == "epoch" and rows and rows[0]["kind"] != "validation" else 0
        points = [(float(row[at] + first), row.get(key)) for row in rows]
        if known := [(x, y) for x, y in points if y is not None]:
            lines[label] = _thinned(known)
    if not lines:
        return ""
    xs = sorted({x for line in lines.values() for x, _ in line})
    by_x = [dict(line) for line in lines.values()]
    rows_of_table = [[x, *(line.get(x) for line in by_x)] for x in xs]
    return figure(line_chart(axes, lines), axes.title, (at, *lines), rows_of_table)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // MOST_POINTS)
    return [
        (part[-1][0], sum(y for _, y in part) / len(part))
        for start in range(0, len(points), size)
        if (part := points[start : start + size])
    ]
