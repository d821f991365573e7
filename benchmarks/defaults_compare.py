"""Are the defaults ahead? Against the best baseline and LightGCN, user by user, from results.

The best baseline is the one that is best on *test*, for each data set, history and metric by
itself: of baselines.json, of the defaults' own LightGCN, and of the graph, text and fusion models
of accuracy.parquet, which knows the history `train` alone. The last have no users' ranks: where one
of them is best, the gain over it has no interval, and the best of the others is compared, too.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy_store import AccuracyStore
from benchmarks.baselines_compare import compare_stored
from benchmarks.measure import RESULTS, rounded
from benchmarks.rank_store import RankStore
from recmind_dist.errors import DataError
from recmind_dist.storage import read_json, write_json

DATASETS = ("beauty", "toys", "yelp", "ml-100k", "ml-latest-small")
HISTORIES = ("train", "train+valid")
METRICS = ("recall@20", "ndcg@20")
OURS = "recmind"
NO_TEXTS = "no_texts"
"""RecMind by defaults on the log alone."""
LIGHTGCN = "lightgcn, defaults"
UNPAIRED_ROLES = ("graph", "text", "fusion")
RESAMPLES = 10_000  # of some 50 comparisons, so that p can be .01 when corrected
Figures = dict[str, float | str | None]
Compared = dict[str, Any]
"""model, dataset, history, metric, rival, best, rival_seeds, looks; the fields of Comparison, of
which one that is not paired has a, b and gain; p_corrected.
"""


@dataclass(frozen=True)
class Rival:
    """A model to be compared with.

    Attributes:
        mean: over its seeds.
        store: has the users' ranks, None if nothing has.
        looks: None where it was tuned by accuracy_tuning.py.
    """

    name: str
    model: str
    mean: float
    seeds: int
    looks: int | None
    store: RankStore | None


def write_comparisons(folder: Path = RESULTS) -> None:
    """Writes defaults_comparisons.json; some minutes on one core."""
    stores = RankStore(folder, "defaults"), RankStore(folder), AccuracyStore(folder)
    found = [row for model in (OURS, NO_TEXTS) for row in compare_all(*stores, model=model)]
    write_json(_file(folder), {"benchmark": "defaults", "comparisons": rounded(found)})


def read_comparisons(folder: Path = RESULTS, model: str = OURS) -> list[Compared]:
    """What `write_comparisons` found of a model; nothing where there is no file."""
    path = _file(folder)
    found = list(read_json(path, DataError)["comparisons"]) if path.is_file() else []
    return [row for row in found if row.get("model", OURS) == model]


def compare_all(
    ours: RankStore,
    theirs: RankStore,
    accuracy: AccuracyStore,
    resamples: int = RESAMPLES,
    model: str = OURS,
) -> list[Compared]:
    """A model against the chosen rivals, p corrected for the number of comparisons."""
    found = []
    for dataset, history, metric in _keys(ours, model):
        rivals = list(_rivals(ours, theirs, accuracy, dataset, history, metric))
        mean = mean_of(ours, dataset, model, history, metric)
        for rival, best in _chosen(rivals):
            compared: Compared = {"model": model, "dataset": dataset, "history": history}
            compared |= {"metric": metric}
            compared |= {"rival": rival.name, "best": best, "rival_seeds": rival.seeds}
            compared |= {"looks": rival.looks, "a": mean, "b": rival.mean}
            compared |= {"gain": mean / rival.mean - 1.0}
            if rival.store:
                own = compare_stored(
                    ours, model, rival.store, rival.model, dataset, history, metric, resamples
                )
                compared |= asdict(own)
            found.append(compared)
    paired = [row for row in found if "p" in row]
    for row, p in zip(paired, holm([row["p"] for row in paired]), strict=True):
        row["p_corrected"] = p
    return found


def holm(p_values: list[float]) -> list[float]:
    """Each p corrected for their number, by Holm's step-down method."""
    corrected, least = [0.0] * len(p_values), 0.0
    for step, i in enumerate(np.argsort(p_values, kind="stable")):
        least = max(least, min(1.0, (len(p_values) - step) * p_values[i]))
        corrected[i] = least
    return corrected


def figures_of_defaults(folder: Path = RESULTS) -> Figures:
    """For accuracy.json: with the validation item folded in, or to the training edge ("edge")."""
    compared, ours = read_comparisons(folder), RankStore(folder, "defaults")
    figures: Figures = {}
    for dataset in dict.fromkeys(row["dataset"] for row in compared):
        for history, name in (("train+valid", "default_{}"), ("train", "default_{}_edge")):
            own = [r for r in compared if (r["dataset"], r["history"]) == (dataset, history)]
            figures |= _figures_of_history(name.format(dataset), own)
    for row in compared:
        if (row["dataset"], row["history"], row["rival"]) == ("beauty", "train+valid", "sasrec"):
            figures[f"beauty_folded_over_sasrec_{row['metric']}"] = row["a"] / row["b"]
    figures["beauty_recmind_recall@40"] = mean_of(ours, "beauty", OURS, "train", "recall@40")
    figures["whole_shape_over_exact"] = _whole_shape_over_exact(ours)
    return figures


def _whole_shape_over_exact(store: RankStore) -> float | None:
    """Recall@20 on Beauty, validation item folded in, over the exact one's of the same seeds."""
    found: dict[str, dict[int, float]] = {}
    for row in store.rows():
        if (row["dataset"], row["history"]) == ("beauty", "train+valid"):
            found.setdefault(row["model"], {})[row["seed"]] = row["recall@20"]
    shape, exact = found.get("whole_shape", {}), found.get(OURS, {})
    seeds = shape.keys() & exact.keys()
    if not seeds:
        return None
    return sum(shape[seed] for seed in seeds) / sum(exact[seed] for seed in seeds)


def mean_of(store: RankStore, dataset: str, model: str, history: str, metric: str) -> float | None:
    """A metric's mean over seeds; None if there is no such result."""
    values = [
        row[metric]
        for row in store.rows()
        if (row["dataset"], row["model"], row["history"]) == (dataset, model, history)
    ]
    return float(np.mean(values)) if values else None


def _figures_of_history(name: str, compared: list[Compared]) -> Figures:
    best = [row for row in compared if row["best"]]
    names = dict.fromkeys(row["rival"] for row in best)
    p = [row.get("p_corrected") for row in best]
    figures: Figures = {f"{name}_gain_{row['metric']}": row["gain"] for row in best}
    figures[f"{name}_p_value"] = None if None in p else max(p)  # of the less certain gain
    figures[f"{name}_best_baseline"] = "; ".join(
        row["rival"] if len(names) == 1 else f"{row['rival']} ({row['metric']})"
        for row in (best[:1] if len(names) == 1 else best)
    )
    for row in compared:
        if row["rival"] == LIGHTGCN:
            figures[f"{name}_over_lightgcn_{row['metric']}"] = row["gain"]
    return figures


def _keys(ours: RankStore, model: str) -> Iterator[tuple[str, str, str]]:
    stored = {(row["dataset"], row["history"]) for row in ours.rows() if row["model"] == model}
    for dataset in DATASETS:
        for history in HISTORIES:
            if (dataset, history) in stored:
                yield from ((dataset, history, metric) for metric in METRICS)


def _rivals(
    ours: RankStore,
    theirs: RankStore,
    accuracy: AccuracyStore,
    dataset: str,
    history: str,
    metric: str,
) -> Iterator[Rival]:
    for store in (theirs, ours):
        rows = [r for r in store.rows() if (r["dataset"], r["history"]) == (dataset, history)]
        for model in dict.fromkeys(row["model"] for row in rows):
            if store is ours and model != "lightgcn":
                continue
            own = [row for row in rows if row["model"] == model]
            mean, looks = float(np.mean([row[metric] for row in own])), own[0].get("looks", 1)
            name = LIGHTGCN if store is ours else model
            yield Rival(name, model, mean, len(own), looks, store)
    runs = [
        run
        for run in accuracy.runs()
        if (run["bench"], history) == (dataset, "train") and run["role"] in UNPAIRED_ROLES
    ]
    for model in dict.fromkeys(run["model"] for run in runs):
        values = [run["metrics"][metric] for run in runs if run["model"] == model]
        yield Rival(f"{model}, tuned", model, float(np.mean(values)), len(values), None, None)


def _chosen(rivals: list[Rival]) -> Iterator[tuple[Rival, bool]]:
    """The best, the best that is paired, LightGCN and SASRec, each once; and whether it is best."""
    best = max(rivals, key=lambda rival: rival.mean)
    paired = max((r for r in rivals if r.store), key=lambda rival: rival.mean)
    wanted = {best.name, paired.name, LIGHTGCN, "sasrec"}
    yield best, True
    yield from ((r, False) for r in rivals if r.name in wanted - {best.name})


def _file(folder: Path) -> Path:
    return folder / "defaults_comparisons.json"
