"""Whether alignment before the joint phase helps: validation NDCG@10 with and without it."""

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
    """Trains both; compares their validation curves, and their test metric user by user."""
    warm, cold = found = study.run(ARMS)
    curves = {arm.name: _curve(arm) for arm in found}
    result = compare(warm.runs, cold.runs, METRIC) if warm.runs and cold.runs else None
    means = f"mean {METRIC} along training"
    names = ("model", "runs", means, "variance between seeds, × 10⁻⁶", f"last {METRIC}")
    summary = []
    for arm in found:
        curve = curves[arm.name]
        mean = float(np.mean([point[1] for point in curve])) if curve else None
        last = float(curve[-1][1]) if curve else None
        summary.append([arm.name, len(arm.runs), mean, _variance(curve), last])
    gain = f"{100 * result.gain:+.1f} %" if result and result.gain is not None else None
    ends = interval(result.low, result.high) if result else None
    test = [["warm-up over none", gain, ends, "above", seen(result, "above")]]
    tables = [
        TableOf("## Over the whole of training", names, summary),
        TableOf(f"## Test {METRIC}", ("", "gain", "interval", "paper", "seen"), test),
        _by_epoch(curves),
    ]
    with_warmup, without = (_variance(curves[arm.name]) for arm in found)
    calmer = with_warmup is not None and without is not None and with_warmup < without
    answer = (
        f"test {METRIC} higher with a warm-up: {seen(result, 'above')}; less variance between "
        f"seeds: {'yes' if calmer else 'no'}, by {study.seeds} seeds, too few to call a ratio of "
        "variances significant."
    )
    length = warm.config.train.warmup_epochs
    notes = [
        *how_made(found, study.seeds),
        f"The warm-up is {length} epoch(s) of alignment, beside the joint epochs.",
    ]
    findings = Findings("warmup", "Warm-up by alignment", CLAIM, answer, tables, notes)
    drawn = {name: curve for name, curve in curves.items() if curve}
    label = f"validation {METRIC}"
    findings.write(study.home, lambda: draw_curves(drawn, findings.title, "joint epoch", label))
    return findings


def _by_epoch(curves: dict[str, Curve]) -> TableOf:
    by_epoch = [{epoch: (mean, sd) for epoch, mean, sd in curve} for curve in curves.values()]
    rows = []
    for epoch in sorted({epoch for points in by_epoch for epoch in points}):
        pairs = [points.get(epoch, (None, None)) for points in by_epoch]
        rows.append([int(epoch), *(value for pair in pairs for value in pair)])
    headers = ("epoch", *(f"{name}{column}" for name in curves for column in ("", ", sd")))
    title = f"## Validation {METRIC} along the joint phase, mean and standard deviation over seeds"
    return TableOf(title, headers, rows)


def _curve(arm: ArmRuns) -> Curve:
    """(epoch, mean over seeds, standard deviation)."""
    by_epoch: dict[int, list[float]] = {}
    for run in arm.runs:
        for record in validation_curve(run):
            by_epoch.setdefault(int(record["epoch"]), []).append(float(record[METRIC]))
    curve = []
    for epoch, values in sorted(by_epoch.items()):
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        curve.append((epoch, float(np.mean(values)), sd))
    return curve


def _variance(curve: Curve) -> float | None:
    return 1e6 * float(np.mean([point[2] ** 2 for point in curve])) if curve else None
