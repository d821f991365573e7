"""What the gates do with degree: γ, the weight of the graph, by degree bin, layer and side, over
seeds.
"""

from typing import Any

import numpy as np

from recmind_dist.evaluation.significance import MIN_SEEDS
from recmind_dist.experiments.figures import draw_bins
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm, ArmRuns

CLAIM = "γ rises with degree: Spearman(γ, degree) above 0, so that language speaks where the graph knows little."
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
    """Trains gates on held-out edges, on training edges (the paper's form), and without seeing
    degree; reads their γ.
    """
    found = study.run(ARMS)
    spearman: list[list[Any]] = []
    bins: list[list[Any]] = []
    panels: dict[str, dict[str, list[tuple[str, float, float, float]]]] = {}
    verdicts: dict[str, list[str]] = {}
    for arm in found:
        rows = _rows(arm)
        for layer, side in sorted({(row["layer"], row["side"]) for row in rows}):
            own = [row for row in rows if (row["layer"], row["side"]) == (layer, side)]
            correlated = [row for row in own if row.get("spearman") is not None]
            verdict = _verdict(correlated)
            verdicts.setdefault(arm.name, []).append(verdict)
            middle = float(np.mean([row["spearman"] for row in correlated])) if correlated else None
            low = min((row["spearman_low"] for row in correlated), default=None)
            high = max((row["spearman_high"] for row in correlated), default=None)
            ends = interval(low, high, percent=False)
            spearman.append(
                [arm.name, layer, side, len(arm.runs), middle, ends, "above 0", verdict]
            )
            by_bin = _by_bin(own)
            bins += [
                [arm.name, layer, side, name, *(values[c] for c in COLUMNS)]
                for name, values in by_bin.items()
            ]
            points = [
                (name, values["median"], values["p10"], values["p90"])
                for name, values in by_bin.items()
            ]
            panels.setdefault(f"{side}s, layer {layer}", {})[arm.name] = points
    headers = ("gates learn on", "layer", "side", "runs", "Spearman", "interval", "paper", "seen")
    tables = [
        TableOf(
            (
                "## Spearman(γ, degree): mean over seeds, and an interval that holds those of all "
                "seeds"
            ),
            headers,
            spearman,
        ),
        TableOf(
            "## γ by degree bin, mean over seeds",
            ("gates learn on", "layer", "side", "degree", *COLUMNS),
            bins,
        ),
    ]
    answer = "; ".join(f"{name}: {_count(told)}" for name, told in verdicts.items()) + "."
    notes = how_made(found, study.seeds)
    findings = Findings("probe", "What the gates do with degree", CLAIM, answer, tables, notes)
    findings.write(
        study.home, lambda: draw_bins(panels, "γ by degree: median, band p10 to p90", "γ")
    )
    return findings


def _rows(arm: ArmRuns) -> list[dict[str, Any]]:
    return [row for run in arm.runs for row in run.read_results()["gate"]]


def _verdict(rows: list[dict[str, Any]]) -> str:
    """The paper is right on this layer and side if in every seed the whole interval lies above 0."""
    if not rows:
        return "γ is constant"
    if len(rows) < MIN_SEEDS:
        return f"not significant ({len(rows)} of {MIN_SEEDS} seeds)"
    if all(row["spearman_low"] > 0 for row in rows):
        return "yes"
    return (
        "no, the opposite" if all(row["spearman_high"] < 0 for row in rows) else "not significant"
    )


def _by_bin(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(row["degree_bin"] for row in rows if row.get("degree_bin"))
    ordered = sorted(names, key=lambda name: int(name.partition("-")[0]))
    return {
        name: {
            c: float(np.mean([row[c] for row in rows if row.get("degree_bin") == name]))
            for c in COLUMNS
        }
        for name in ordered
    }


def _count(verdicts: list[str]) -> str:
    yes = sum(verdict == "yes" for verdict in verdicts)
    no = sum(verdict.startswith("no,") for verdict in verdicts)
    return f"γ rises with degree in {yes} of {len(verdicts)} layers and sides, falls in {no}"
