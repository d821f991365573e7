"""Does alignment before the joint phase help: validation NDCG@10 along training, with and without
it, over seeds.
"""

import numpy as np

from recmind_dist.experiments.comparison import compare, seen
from recmind_dist.experiments.figures import Curve, draw_curves
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.pipeline.in_process import validation_curve

METRIC = "ndcg@10"
CLAIM = f"with a warm-up, higher {METRIC} along training, and less variance between seeds."
WORDS = ("evaluation.ks=[10, 20, 40]", f"evaluation.metric={METRIC}", "evaluation.every_epochs=1")
ARMS = (Arm("warm-up", "recmind", WORDS), Arm("no warm-up", "no_warmup", WORDS))


def warmup(study: Study) -> Findings:
    """Runs both and compares their validation curves, and their test metric user by user."""
    warm, cold = found = study.run(ARMS)
    curves = {arm.name: _curve(arm) for arm in found}
    by_epoch = {
        name: {epoch: (mean, sd) for epoch, mean, sd in curve} for name, curve in curves.items()
    }
    rows = []
    for epoch in sorted(set(by_epoch[warm.name]) | set(by_epoch[cold.name])):
        pairs = [by_epoch[arm.name].get(epoch, (None, None)) for arm in found]
        rows.append([int(epoch), *(value for pair in pairs for value in pair)])
    headers = ("epoch", *(f"{arm.name}{what}" for arm in found for what in ("", ", sd")))
    along = TableOf(
        f"## Validation {METRIC} along the joint phase, mean and standard deviation over seeds",
        headers,
        rows,
    )
    result = compare(warm.runs, cold.runs, METRIC) if warm.runs and cold.runs else None
    summary = [
        [
            arm.name,
            len(arm.runs),
            _mean(curves[arm.name], 1),
            _variance(curves[arm.name]),
            _last(curves[arm.name]),
        ]
        for arm in found
    ]
    names = (
        "model",
        "runs",
        f"mean {METRIC} along training",
        "variance between seeds, × 10⁻⁶",
        f"last {METRIC}",
    )
    gain = f"{100 * result.gain:+.1f} %" if result and result.gain is not None else None
    ends = interval(result.low, result.high) if result else None
    test = [["warm-up over none", gain, ends, "above", seen(result, "above")]]
    tables = [
        TableOf("## Over the whole of training", names, summary),
        TableOf(f"## Test {METRIC}", ("", "gain", "interval", "paper", "seen"), test),
        along,
    ]
    with_it, without = (_variance(curves[arm.name]) for arm in found)
    calmer = with_it is not None and without is not None and with_it < without
    answer = (
        f"test {METRIC} higher with a warm-up: {seen(result, 'above')}; less variance between "
        "seeds: "
        f"{'yes' if calmer else 'no'}, by {study.seeds} seeds, too few to call a ratio of "
        "variances significant."
    )
    length = warm.config.train.warmup_epochs
    notes = [
        *how_made(found, study.seeds),
        f"The warm-up is {length} epoch(s) of alignment, beside the joint epochs.",
    ]
    findings = Findings("warmup", "Warm-up by alignment", CLAIM, answer, tables, notes)
    drawn = {name: curve for name, curve in curves.items() if curve}
    findings.write(
        study.home,
        lambda: draw_curves(drawn, "Warm-up by alignment", "joint epoch", f"validation {METRIC}"),
    )
    return findings


def _curve(arm: ArmRuns) -> Curve:
    """(epoch, mean over seeds, standard deviation)."""
    by_epoch: dict[int, list[float]] = {}
    for run in arm.runs:
        for record in validation_curve(run):
            by_epoch.setdefault(int(record["epoch"]), []).append(float(record[METRIC]))
    return [
        (epoch, float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        for epoch, values in sorted(by_epoch.items())
    ]


def _mean(curve: Curve, column: int) -> float | None:
    return float(np.mean([point[column] for point in curve])) if curve else None


def _variance(curve: Curve) -> float | None:
    return 1e6 * float(np.mean([point[2] ** 2 for point in curve])) if curve else None


def _last(curve: Curve) -> float | None:
    return float(curve[-1][1]) if curve else None
