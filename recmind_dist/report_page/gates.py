"""Section on the gates: what γ, the weight of the graph, is by degree, layer and side."""

from collections.abc import Sequence
from typing import Any

from recmind_dist.report_page.html import figure, figures, note, section, table
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.report_page.svg import Axes, line_chart

CORRELATION = ("side", "layer", "spearman", "spearman_low", "spearman_high", "count")


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
    names = sorted({row["degree_bin"] for row in rows}, key=lowest_degree)
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


def lowest_degree(name: str) -> int:
    """Of a bin's name: 4 for "4-7"."""
    return int(name.partition("-")[0])
