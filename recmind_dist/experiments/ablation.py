"""What each part of the model is worth: the full model against models without it (table II)."""

from recmind_dist.experiments.comparison import compare, seen, spread
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import Findings, Study, TableOf, how_made, interval
from recmind_dist.experiments.runs import Arm
from recmind_dist.model.settings import PaperSettings
from recmind_dist.run_config.run_config import RunConfig

CLAIM = "the full model above each of the others."
ARMS = (
    Arm("full"),
    Arm("no alignment", "no_alignment"),
    Arm("no user alignment", "no_user_alignment"),
    Arm("no item alignment", "no_item_alignment"),
    Arm("no gates", "late_fusion"),
    Arm("LLM only", "llm_only"),
    Arm("no warm-up", "no_warmup"),
    Arm("gate on items only", "gate_items_only"),
)


def ablation(study: Study) -> Findings:
    """Trains all models and compares the full one with each other in Recall and NDCG at every K.

    Parts that the config does not have are not taken away.
    """
    full, *others = found = study.run(_arms_of(study.configure("recmind", [])))
    ks = full.config.evaluation.ks
    main_metric = full.config.evaluation.metric
    tables = []
    panels = {}
    verdicts = []
    for metric in (f"{kind}@{k}" for k in ks for kind in ("recall", "ndcg")):
        rows = [[full.name, len(full.runs), *spread(full.runs, metric), None, None, "", ""]]
        bars = {}
        for arm in others:
            result = compare(full.runs, arm.runs, metric) if full.runs and arm.runs else None
            verdict = seen(result, "above")
            gain = result.gain if result else None
            ends = (result.low, result.high) if result else (None, None)
            change = None if gain is None else f"{100 * gain:+.1f} %"
            row = [arm.name, len(arm.runs), *spread(arm.runs, metric), change, interval(*ends)]
            rows.append([*row, "full above", verdict])
            bars[arm.name] = (_percent(gain), _percent(ends[0]), _percent(ends[1]))
            if metric == main_metric:
                verdicts.append(verdict)
        headers = ("model", "runs", metric, "sd", "full over it", "interval", "paper", "seen")
        tables.append(TableOf(f"## {metric}", headers, rows))
        if metric.endswith(f"@{ks[0]}"):
            panels[metric] = bars
    yes, no, unclear = (sum(v.startswith(word) for v in verdicts) for word in ("yes", "no,", "not"))
    answer = (
        f"of {len(verdicts)} parts, by {main_metric}: {yes} as the paper expects, {no} the "
        f"opposite, {unclear} not significant."
    )
    notes = how_made(found, study.seeds)
    findings = Findings("ablation", "What each part is worth", CLAIM, answer, tables, notes)
    findings.write(study.home, lambda: draw_bars(panels, "Full model over the others", "gain, %"))
    return findings


def _arms_of(config: RunConfig) -> list[Arm]:
    lacking = set[str]()
    if not config.aligns:
        lacking |= {"no_alignment", "no_user_alignment", "no_item_alignment"}
    if not config.has_warmup:
        lacking |= {"no_warmup"}
    if not isinstance(config.model, PaperSettings):
        lacking |= {"gate_items_only"}
    return [arm for arm in ARMS if arm.variant not in lacking]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
