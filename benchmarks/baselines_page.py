"""The page benchmarks/baselines.md, from stored results, and the pages of validations."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defaults_page import defaults_section
from benchmarks.effects import effects_section
from benchmarks.measure import RESULTS
from benchmarks.rank_store import RankStore, Row
from recmind_dist.report.tables import markdown_table
from recmind_dist.storage import write_bytes

PAGE = Path(__file__).parent / "baselines.md"
TRIALS = RESULTS / "tuning"
METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
_HEAD = (
    "# Baselines\n\n"
    "Written by `python benchmarks/baselines.py` from results/baselines.json; do not edit. Test"
    " split of leave-one-out by time, full\n"
    "ranking, training and validation items masked, all users with a held-out item. Every model"
    " learns from the training edges alone.\n"
    "History `train` ends at the last training edge; with `train+valid` the validation item is in"
    " the user's row or sequence when items\n"
    "are ranked, as sequence models are usually reported. Settings were chosen by NDCG@20 on"
    " validation with the first history; looks\n"
    "are the validations that chose. Grids: baselines.yaml; every validation:"
    " results/tuning/baselines-DATASET-MODEL.md; users' ranks:\n"
    "results/baselines/DATASET.parquet.\n"
)


def write_page(store: RankStore, page: Path = PAGE) -> None:
    """The defaults against baselines; then a table a data set, two lines a model."""
    rows, parts = store.rows(), [_HEAD, *defaults_section(store.folder)]
    parts += effects_section(store.folder)
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        parts += [f"## {dataset}\n\n{own[0]['users']:,} users.\n", _table(own)]
    write_bytes(page, "\n".join(parts).encode())


def write_trials(dataset: str, model: str, trials: list[dict[str, Any]]) -> None:
    """Every validated setting of a model, best first."""
    names = list(trials[0]["settings"])
    ordered = sorted(trials, key=lambda trial: -trial["validation"])
    rows = [
        [*(trial["settings"][name] for name in names), f"{trial['validation']:.5f}"]
        for trial in ordered
    ]
    head = f"# {model} on {dataset}\n\n{len(trials)} settings, NDCG@20 on validation.\n\n"
    TRIALS.mkdir(parents=True, exist_ok=True)
    path = TRIALS / f"baselines-{dataset}-{model}.md"
    write_bytes(path, (head + markdown_table((*names, "ndcg@20"), rows)).encode())


def _table(rows: list[Row]) -> str:
    header = ("model", "history", "seeds", *METRICS, "validation", "looks", "chosen", "commit")
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["history"]), []).append(row)
    lines = []
    for (model, history), runs in found.items():
        settings = " ".join(dict.fromkeys(_settings(run["settings"]) for run in runs))
        lines.append(
            [
                model,
                history,
                len(runs),
                *(_mean_and_deviation([run[metric] for run in runs]) for metric in METRICS),
                _mean_and_deviation([run["validation"] for run in runs]),
                runs[0]["looks"],
                settings,
                " ".join(dict.fromkeys(str(run["commit"]) for run in runs)),
            ]
        )
    return markdown_table(header, lines)


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"
