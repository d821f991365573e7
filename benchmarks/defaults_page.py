"""The defaults' section of benchmarks/baselines.md: what they reach, and how far they are ahead."""

from pathlib import Path

import numpy as np

from benchmarks.defaults_compare import NO_TEXTS, OURS, Compared, read_comparisons
from benchmarks.rank_store import RankStore, Row
from recmind_dist.report.tables import markdown_table

METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
_HEAD = (
    "## Defaults alone\n\n"
    "`python benchmarks/defaults.py DATASET…`: configs of data and language model and nothing else"
    " (defaults.yaml). The validation item\n"
    "is folded in without training. whole_shape: two workers by Ray, graph partitioned and sampled,"
    " ZeRO 2, LoRA, queue, as\n"
    "configs/amazon-beauty-cluster.yaml. no_texts: the log alone, whose item vectors learn alone."
    " Gowalla is the published split\n"
    "without validation: the last epoch, and no second history.\n"
    "Seconds are of training, by runs that shared their device with others. ± is the standard"
    " deviation over seeds.\n"
)
_COMPARED = (
    "RecMind's defaults over the best baseline (bold), over LightGCN by the same defaults and over"
    " SASRec. The best is the one that is\n"
    "best on *test*, for each metric and history by itself. Intervals are 95 %, p is two-sided, by"
    " paired bootstrap over users and seeds,\n"
    "corrected for all {count} comparisons of this table (Holm). A baseline that draws and has one"
    " seed counts as if it had no other.\n"
    "“tuned” are models of accuracy.md, whose users' ranks are not kept: no interval; the best of"
    " the others is compared, too, and\n"
    "they were not ranked with the validation item. Looks: validations that chose the baseline's"
    " settings; RecMind's and LightGCN's\n"
    "rules were made on these data sets (results/tuning/defaults.md). SASRec's is one look, one"
    " seed, by sampled softmax: another look\n"
    "on Beauty, by full softmax, whose ranks are not kept, had .0854/.0382 (Recall/NDCG@20), and"
    " .1109/.0570 with the validation item.\n"
)


_WITHOUT_TEXTS = (
    "The same of the defaults on the log alone, without any text (no_texts), against the same"
    " rivals, of which some read texts;\n"
    "corrected for the {count} comparisons of this table.\n"
)


def defaults_section(folder: Path) -> list[str]:
    """All tables; nothing where no runs are stored."""
    rows = RankStore(folder, "defaults").rows()
    if not rows:
        return []
    parts = [_HEAD, _metric_table(rows)]
    for model, caption in ((OURS, _COMPARED), (NO_TEXTS, _WITHOUT_TEXTS)):
        compared = read_comparisons(folder, model)
        if compared:
            paired = sum("p" in row for row in compared)
            parts += [caption.format(count=paired), _comparison_table(compared)]
    return parts


def _metric_table(rows: list[Row]) -> str:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["model"], row["history"]), []).append(row)
    header = ("data", "model", "history", "seeds", *METRICS, "best epoch", "s", "device", "commit")
    lines = [
        [
            *key,
            len(runs),
            *(_mean_and_deviation([run[metric] for run in runs]) for metric in METRICS),
            ", ".join(str(run["epoch"]) for run in runs),
            f"{np.mean([run['seconds'] for run in runs]):.0f}",
            *(" ".join(dict.fromkeys(str(r[field]) for r in runs)) for field in header[-2:]),
        ]
        for key, runs in found.items()
    ]
    return markdown_table(header, lines)


def _comparison_table(compared: list[Compared]) -> str:
    by_rival: dict[tuple[str, str, str], dict[str, Compared]] = {}
    for row in compared:
        key = (row["dataset"], row["history"], row["rival"])
        by_rival.setdefault(key, {})[row["metric"]] = row
    lines = []
    for key, metrics in by_rival.items():
        first = next(iter(metrics.values()))
        cells = [_cell(metrics.get(metric)) for metric in ("recall@20", "ndcg@20")]
        lines.append([*key, first["rival_seeds"], first["looks"], *cells])
    header = ("data", "history", "over", "its seeds", "looks", "recall@20", "ndcg@20")
    return markdown_table(header, lines)


def _cell(row: Compared | None) -> str | None:
    """The gain over a rival, bold if it is the best one."""
    if row is None:
        return None
    gain = f"{100 * row['gain']:+.1f} %"
    gain = f"**{gain}**" if row["best"] else gain
    gain = f"{row['a']:.4f} against {row['b']:.4f}: {gain}"
    if "p" not in row:
        return gain
    low, high, p = (row[name] for name in ("low", "high", "p_corrected"))
    return f"{gain} ({100 * low:+.1f} … {100 * high:+.1f}), p = {p:.2g}"


def _mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"
