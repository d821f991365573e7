"""Gates against plain fusion of graph and language, above all on items with few interactions."""

from typing import Any

from recmind_dist.evaluation.significance import Comparison
from recmind_dist.experiments.comparison import compare, seen, spread
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm, ArmRuns

K = 40
CLAIM = f"gates above concatenation and above a fixed α in Recall@{K} on items of degree 3 or less."
WORDS = (f"evaluation.ks=[20, {K}]", "evaluation.metric=ndcg@20")
ARMS = (
    Arm("gates", "recmind", WORDS),
    Arm("concatenation", "late_fusion", ("model.readout=concat", *WORDS)),
    Arm("fixed α", "late_fusion", WORDS),
)


def gating(study: Study) -> Findings:
    """Trains the three models and compares gates with the others, on cold items and on all."""
    gates, *others = found = study.run(ARMS)
    metric = f"recall@{K}"
    headers = ("model", "runs", "users", metric, "sd", "gates over it", "interval", "paper", "seen")
    tables = []
    panels = {}
    verdicts = []
    for title, stratum in (("items of degree ≤ 3", "cold"), ("all items", None)):
        rows = [[*_columns(gates, metric, stratum), None, None, "", ""]]
        bars: dict[str, tuple[float | None, float | None, float | None]] = {}
        for arm in others:
            result = _compare(gates, arm, metric, stratum)
            verdict = seen(result, "above")
            gain = f"{100 * result.gain:+.1f} %" if result and result.gain is not None else None
            low, high = (result.low, result.high) if result else (None, None)
            row = [*_columns(arm, metric, stratum), gain, interval(low, high)]
            rows.append([*row, "gates above", verdict])
            if stratum:
                verdicts.append(f"against {arm.name}: {verdict}")
        for arm in found:
            mean, sd = spread(arm.runs, metric, stratum)
            bars[arm.name] = (mean, None, None)
            if mean is not None and sd is not None:
                bars[arm.name] = (mean, mean - sd, mean + sd)
        tables.append(TableOf(f"## {metric}, {title}", headers, rows))
        panels[title] = bars
    answer = "; ".join(verdicts) + "."
    title, label = "Gates against plain fusion", f"{metric} (± sd over seeds)"
    findings = Findings("gating", title, CLAIM, answer, tables, how_made(found, study.seeds))
    findings.write(study.home, lambda: draw_bars(panels, title, label))
    return findings


def _compare(gates: ArmRuns, arm: ArmRuns, metric: str, stratum: str | None) -> Comparison | None:
    if not (gates.runs and arm.runs):
        return None
    return compare(gates.runs, arm.runs, metric, "cold" if stratum else "users")


def _columns(arm: ArmRuns, metric: str, stratum: str | None) -> list[Any]:
    users = None
    if stratum and arm.runs:
        users = int(arm.runs[0].read_results()["strata"][stratum]["users"])
    return [arm.name, len(arm.runs), users, *spread(arm.runs, metric, stratum)]
