"""Gates against the plain ways to join graph and language, where it matters most: items that hardly
anyone has had.
"""

from recmind_dist.evaluation.significance import Comparison
from recmind_dist.experiments.comparison import compare, seen, spread
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.report import RunDirectory

K = 40
CLAIM = f"gates above concatenation and above a fixed α in Recall@{K} on items of degree 3 or less."
WORDS = (f"evaluation.ks=[20, {K}]", "evaluation.metric=ndcg@20")
ARMS = (
    Arm("gates", "recmind", WORDS),
    Arm("concatenation", "late_fusion", ("model.readout=concat", *WORDS)),
    Arm("fixed α", "late_fusion", WORDS),
)


def gating(study: Study) -> Findings:
    """Runs the three models and compares gates with each of the others, on cold items and on all."""
    gates, *others = found = study.run(ARMS)
    metric, tables, panels = f"recall@{K}", [], {}
    verdicts = []
    for title, stratum in (("items of degree ≤ 3", "cold"), ("all items", None)):
        rows = [
            [
                gates.name,
                *_numbers(gates, stratum),
                *spread(gates.runs, metric, stratum),
                None,
                None,
                "",
                "",
            ]
        ]
        bars = {}
        for arm in others:
            result = _compare(gates, arm, metric, stratum)
            verdict = seen(result, "above")
            gain = f"{100 * result.gain:+.1f} %" if result and result.gain is not None else None
            low, high = (result.low, result.high) if result else (None, None)
            row = [
                arm.name,
                *_numbers(arm, stratum),
                *spread(arm.runs, metric, stratum),
                gain,
                interval(low, high),
            ]
            rows.append([*row, "gates above", verdict])
            if stratum:
                verdicts.append(f"against {arm.name}: {verdict}")
        for arm in found:
            middle, deviation = spread(arm.runs, metric, stratum)
            ends = (
                (None, None)
                if middle is None or deviation is None
                else (middle - deviation, middle + deviation)
            )
            bars[arm.name] = (middle, *ends)
        headers = (
            "model",
            "runs",
            "users",
            metric,
            "sd",
            "gates over it",
            "interval",
            "paper",
            "seen",
        )
        tables.append(TableOf(f"## {metric}, {title}", headers, rows))
        panels[title] = bars
    answer = "; ".join(verdicts) + "."
    findings = Findings(
        "gating", "Gates against plain fusion", CLAIM, answer, tables, how_made(found, study.seeds)
    )
    findings.write(
        study.home,
        lambda: draw_bars(panels, "Gates against plain fusion", f"{metric} (± sd over seeds)"),
    )
    return findings


def _compare(gates: ArmRuns, arm: ArmRuns, metric: str, stratum: str | None) -> Comparison | None:
    if not (gates.runs and arm.runs):
        return None
    return compare(gates.runs, arm.runs, metric, "cold" if stratum else "users")


def _numbers(arm: ArmRuns, stratum: str | None) -> tuple[int, int | None]:
    return len(arm.runs), _users(arm.runs[0], stratum) if arm.runs else None


def _users(run: RunDirectory, stratum: str | None) -> int | None:
    """How many users the metric is a mean of."""
    strata = run.read_results()["strata"]
    if stratum:
        return int(strata[stratum]["users"])
    return None
