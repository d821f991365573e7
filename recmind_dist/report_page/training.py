"""Sections on how training went: losses, validation, speed, stall, memory, traffic."""

from collections.abc import Mapping, Sequence

from recmind_dist.distributed.traffic import KINDS
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.tables import table_metrics
from recmind_dist.report_page.html import figure, figures, note, section
from recmind_dist.report_page.runs import Record, ReportedRun
from recmind_dist.report_page.svg import Axes, Line, bar_chart, line_chart

MOST_POINTS = 200
"""Of a line: of more, neighbours are averaged."""
PLACE = {"time", "kind", "phase", "step", "total", "epoch", "epochs", "queue_staleness"}
TRAFFIC_HEADERS = ("run", *KINDS, "all", "rank that sends most")
ABOUT_TRAFFIC = (
    "What a rank sends to others in a step, the mean over ranks; beside it the rank that sends "
    "most. Gradients: of rows; queue: keys and views of the alignment; dense: gradients and "
    "parameters of all weights but rows."
)
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
        for term in sorted(terms.keys() - PLACE, key=lambda name: (name != "loss", name)):
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
            "epoch": {run.label: _with_speed(_of_phase(run, "epoch", phase)) for run in runs},
            "step": {run.label: _of_phase(run, "step", phase) for run in runs},
        }
        for kind, key, title, unit in SPEED:
            parts.append(_over(Axes(f"{title}, {name}", kind, unit), of_kind[kind], kind, key))
    return section("speed", "Speed and memory", [figures(parts)] if any(parts) else [])


def _with_speed(epochs: Sequence[Record]) -> list[Record]:
    """Epochs with their steps a second: of the steps that `seconds` are of, which are not all of an
    epoch that a restart went on with.
    """
    return [
        epoch | {"steps_per_s": epoch["steps"] / max(epoch["seconds"], 1e-9)}
        if epoch.get("steps")
        else epoch
        for epoch in epochs
    ]


def traffic_section(runs: Sequence[ReportedRun]) -> str:
    """Bytes that a rank sends to others in a step, by kind and phase."""
    if not any(run.records.get("traffic") for run in runs):
        return ""
    parts = []
    for phase, name in PHASES.items():
        sent = {
            run.label: found for run in runs if (found := _sent(_of_phase(run, "traffic", phase)))
        }
        if not any(found["most"] for found in sent.values()):
            continue  # one rank each, or no such phase
        title = f"Sent to other ranks in a step, {name}"
        axes = Axes(title, "kind of data", "kB, mean over ranks", KINDS)
        bars = {label: [found[kind] for kind in KINDS] for label, found in sent.items()}
        rows = [[label, *found.values()] for label, found in sent.items()]
        parts.append(figure(bar_chart(axes, bars), f"{title}, kB", TRAFFIC_HEADERS, rows))
    if not parts:
        return section("traffic", "Traffic", [note("One rank each: nothing travels.")])
    return section("traffic", "Traffic", [note(ABOUT_TRAFFIC), figures(parts)])


def _sent(records: Sequence[Record]) -> dict[str, float]:
    """kB a step by kind, of all kinds, and of the rank that sends most: means over the steps of
    all epochs. Empty without a step.
    """
    steps = [record.get("steps", 1) for record in records]
    if not sum(steps):
        return {}

    def mean(key: str) -> float:
        sent = sum(record.get(key, 0) * n for record, n in zip(records, steps, strict=True))
        return float(sent / sum(steps) / 1e3)

    found = {kind: mean(f"{kind}_bytes") for kind in KINDS}
    return {**found, "all": sum(found.values()), "most": mean("most_bytes")}


def _of_phase(run: ReportedRun, kind: str, phase: str) -> list[Record]:
    return [record for record in run.records.get(kind, []) if record.get("phase") == phase]


def _over(axes: Axes, records: Mapping[str, list[Record]], at: str, key: str) -> str:
    """A chart of a key's values over epochs (from 1) or steps; "" where no run has it."""
    lines: dict[str, Line] = {}
    for label, rows in records.items():
        first = 1 if at == "epoch" and rows and rows[0]["kind"] != "validation" else 0
        points = [(float(row[at] + first), row.get(key)) for row in rows]
        lines[label] = _thinned([(x, y) for x, y in points if y is not None])
    if not any(lines.values()):
        return ""
    xs = sorted({x for line in lines.values() for x, _ in line})
    by_x = {label: dict(line) for label, line in lines.items() if line}
    rows_of_table = [[int(x), *(line.get(x) for line in by_x.values())] for x in xs]
    return figure(line_chart(axes, lines), axes.title, (at, *by_x), rows_of_table)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = max(-(-len(points) // MOST_POINTS), 1)
    return [
        (part[-1][0], sum(y for _, y in part) / len(part))
        for start in range(0, len(points), size)
        if (part := points[start : start + size])
    ]
