"""How good are the rankings? Collects results of evaluated runs and writes benchmarks/accuracy.md.

    python benchmarks/accuracy.py --collect RUN… --bench beauty    # store what the runs found
    python benchmarks/accuracy.py --write                          # the page, from what is stored

Training takes hours and happens elsewhere (accuracy_runs.py). A run directory is named
`<model>-seed<k>`; the model `recmind` is compared with every other model of the bench, user by
user. Results are kept by accuracy_store.py; the page is made by accuracy_page.py.

Benches: gowalla (with models exact and sampled), yelp, beauty; beauty-options and others that
change one option each; yelp-cold and beauty-cold under the cold protocol.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import polars as pl
import typer

from benchmarks.accuracy_page import BENCHES, METRICS, OURS, write_page
from benchmarks.accuracy_store import AccuracyStore, Compared, Record, settings_hash
from recmind_dist.errors import DataError, RecmindError
from recmind_dist.experiments.comparison import compare
from recmind_dist.model.settings import PaperSettings
from recmind_dist.pipeline.in_process import validation_curve
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.finished_run import read_run

MACRO_STRATA = ((0, 0), (1, 3), (4, 7), (8, 15), (16, 1 << 30))
"""Lowest and highest degree of each stratum of macro_recall@20."""
NOT_SETTINGS = {"run_dir", "cache_dir", "compare", "fetch"}
"""Fields of a config that decide no figure; nor does train.seed, which is a column of its own."""


def main(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="evaluated run directories of one bench")
    ] = None,
    collect: Annotated[bool, typer.Option("--collect", help="store the results of RUNS")] = False,
    bench: Annotated[str, typer.Option(help="the bench that RUNS belong to")] = "",
    write: Annotated[
        bool, typer.Option("--write", help="write accuracy.md and accuracy.json")
    ] = False,
) -> None:
    """Stores results of runs, or writes the page from stored ones; prints the figures last."""
    store = AccuracyStore()
    try:
        if collect:
            if bench not in BENCHES or not runs:
                raise DataError(
                    f"--collect: give run directories and --bench, one of {', '.join(BENCHES)}"
                )
            collect_runs(runs, bench, store)
        if write or not collect:
            write_page(store)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def collect_runs(paths: list[Path], bench: str, store: AccuracyStore) -> None:
    """Stores the runs of a bench and their comparisons in place of what the store had of it.

    Raises:
        DataError: a run is not evaluated.
    """
    records = []
    by_model: dict[str, list[RunDirectory]] = {}
    for path in sorted(paths):
        records.append(record_of(path, bench))
        by_model.setdefault(records[-1]["model"], []).append(RunDirectory(path))
    roles = {record["model"]: record["role"] for record in records}
    comparisons = {
        model: {"role": roles[model], **_comparisons(by_model[OURS], runs, bench)}
        for model, runs in by_model.items()
        if OURS in by_model and model != OURS
    }
    store.replace_bench(bench, records, comparisons)
    print(f"{bench}: {len(records)} runs of {len(by_model)} models stored in {store.folder}")


def record_of(path: Path, bench: str) -> Record:
    """What is stored of one run: what it was, how long it took, what it found.

    Raises:
        DataError: the run is not evaluated.
    """
    run, config = read_run(path)
    if not (run.results.is_file() and run.per_user.is_file()):
        raise DataError(f"{path}: not evaluated: run `recmind evaluate {path}`")
    results = run.read_results()
    named = re.fullmatch(r"(.+)-seed\d+", path.resolve().name)
    epochs = read_metrics(run.metrics, "epoch") if run.metrics.exists() else []
    curve = [scores[config.evaluation.metric] for scores in validation_curve(run)]
    settings = _settings(config)
    return {
        "bench": bench,
        "model": named.group(1) if named else results["variant"],
        "seed": results["seed"],
        "role": role_of(config),
        "settings_hash": settings_hash(settings),
        "settings": settings,
        "commit": results["commit"],
        "train_seconds": sum((epoch["seconds"] for epoch in epochs), 0.0),
        "epoch": results.get("epoch"),
        "norm_exponent": results.get("norm_exponent"),
        "validation": max(curve, default=None),
        "metrics": results["metrics"],
        "strata": results["strata"],
        "macro_recall@20": _macro_recall(run),
        "gate": [row for row in results["gate"] if row.get("spearman") is not None],
    }


def role_of(config: RunConfig) -> str:
    """What kind of model the settings make.

    Returns:
        "popularity", "graph", "text", "fusion" (graph and text without gates), or "gated": RecMind
        and RecMind without a part, which are no baselines.
    """
    model = config.model
    if config.variant == "popularity":
        return "popularity"
    if config.variant == "text_only" or model.kind == "alpharec":
        return "text"
    if config.gate is not None:
        return "gated"
    if isinstance(model, PaperSettings) and model.readout != "graph":
        return "text" if model.readout == "text" else "fusion"
    return "graph"


def _comparisons(ours: list[RunDirectory], theirs: list[RunDirectory], bench: str) -> Compared:
    if len(theirs) == 1 and not read_run(theirs[0].path)[1].trains:
        theirs = theirs * len(ours)  # a model without training has no seeds: all runs are this one
    found = {f"users {metric}": compare(ours, theirs, metric) for metric in METRICS}
    if bench.endswith("-cold"):
        found["cold recall@20"] = compare(ours, theirs, "recall@20", "cold")
        found["strata recall@20"] = compare(ours, theirs, "recall@20", "strata")
    return {what: result.to_json() for what, result in found.items() if result is not None}


def _macro_recall(run: RunDirectory) -> float | None:
    """Mean over MACRO_STRATA of Recall@20 in each; None unless each user has one held-out item."""
    users = pl.read_parquet(run.per_user)
    if "recall@20" not in users.columns or users.get_column("degree").null_count():
        return None
    means = [
        users.filter(pl.col("degree").is_between(low, high)).get_column("recall@20").mean()
        for low, high in MACRO_STRATA
    ]
    known = [mean for mean in means if isinstance(mean, float)]
    return float(np.mean(known)) if known else None


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide figures. Where a file lies does not: paths keep two names."""
    values = config.model_dump(mode="json", exclude=NOT_SETTINGS)
    del values["train"]["seed"]
    return dict(_without_folders(values))


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "../")):
        return "/".join(Path(value).parts[-2:])
    return value


if __name__ == "__main__":
    typer.run(main)
