"""How gates depend on degree: γ, the weight of the graph, by degree bin, layer and side."""

from typing import Any

import numpy as np

from recmind_dist.evaluation.significance import MIN_SEEDS
from recmind_dist.experiments.figures import draw_bins
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm

CLAIM = (
    "γ rises with degree: Spearman(γ, degree) above 0, so that language speaks where the graph "
    "knows little."
)
ARMS = (
    Arm("held-out edges", "recmind", ("model.gate.learn_on=heldout",)),
    Arm("training edges", "recmind", ("model.gate.learn_on=train",)),
    Arm(
        "held-out edges, no degree input",
        "recmind",
        ("model.gate.learn_on=heldout", "model.gate.degree_input=false"),
    ),
)
COLUMNS = ("mean", "median", "p10", "p90")


def probe(study: Study) -> Findings:
    """Trains gates on held-out edges, on training edges (as the paper does), and without degree."""
    arms = study.run(ARMS)
    spearman: list[list[Any]] = []
    bins: list[list[Any]] = []
    panels: dict[str, dict[str, list[tuple[str, float, float, float]]]] = {}
    verdicts: dict[str, list[str]] = {}
    for arm in arms:
        rows = [row for run in arm.runs for row in run.read_results()["gate"]]
        for layer, side in sorted({(row["layer"], row["side"]) for row in rows}):
            selected = [row for row in rows if (row["layer"], row["side"]) == (layer, side)]
            correlated = [row for row in selected if row.get("spearman") is not None]
            verdict = _verdict(correlated)
            verdicts.setdefault(arm.name, []).append(verdict)
            middle = float(np.mean([row["spearman"] for row in correlated])) if correlated else None
            low = min((row["spearman_low"] for row in correlated), default=None)
            high = max((row["spearman_high"] for row in correlated), default=None)
            ends = interval(low, high, percent=False)
            row = [arm.name, layer, side, len(arm.runs), middle, ends, "above 0", verdict]
            spearman.append(row)
            points = []
            for name, values in by_bin(selected).items():
                bins.append([arm.name, layer, side, name, *(values[c] for c in COLUMNS)])
                points.append((name, values["median"], values["p10"], values["p90"]))
            panels.setdefault(f"{side}s, layer {layer}", {})[arm.name] = points
    headers = ("gates learn on", "layer", "side", "runs", "Spearman", "interval", "paper", "seen")
    caption = (
        "## Spearman(γ, degree): mean over seeds, and an interval that holds those of all seeds"
    )
    bin_headers = ("gates learn on", "layer", "side", "degree", *COLUMNS)
    tables = [
        TableOf(caption, headers, spearman),
        TableOf("## γ by degree bin, mean over seeds", bin_headers, bins),
    ]
    answer = "; ".join(f"{name}: {_count(found)}" for name, found in verdicts.items()) + "."
    notes = how_made(arms, study.seeds)
    findings = Findings("probe", "What the gates do with degree", CLAIM, answer, tables, notes)
    title = "γ by degree: median, band p10 to p90"
    findings.write(study.home, lambda: draw_bins(panels, title, "γ"))
    return findings


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Whether every seed's interval lies above 0 on this layer and side."""
    if not rows:
        return "γ is constant"
    if len(rows) < MIN_SEEDS:
        return f"not significant ({len(rows)} of {MIN_SEEDS} seeds)"
    if all(row["spearman_low"] > 0 for row in rows):
        return "yes"
    if all(row["spearman_high"] < 0 for row in rows):
        return "no, the opposite"
    return "not significant"


def by_bin(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names = {row["degree_bin"] for row in rows if row.get("degree_bin")}
    means = {}
    for name in sorted(names, key=lambda name: int(name.partition("-")[0])):
        same = [row for row in rows if row.get("degree_bin") == name]
        means[name] = {c: float(np.mean([row[c] for row in same])) for c in COLUMNS}
    return means


def _count(verdicts: list[str]) -> str:
    yes = sum(verdict == "yes" for verdict in verdicts)
    no = sum(verdict.startswith("no,") for verdict in verdicts)
    return f"γ rises with degree in {yes} of {len(verdicts)} layers and sides, falls in {no}"
