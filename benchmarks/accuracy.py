"""How good are the rankings? Stored results of whole runs, compared user by user, and the page benchmarks/accuracy.md.

Runs take hours, so this file trains nothing. `--collect RUN… --bench NAME` stores what runs have found, one JSON each in
results/accuracy/, and compares RecMind with every other model of the bench; `--write` makes accuracy.md and accuracy.json
from what is stored. A run directory is named `<model>-seed<k>`; the model `recmind` is compared with all others.

Benches: gowalla (models exact, sampled), yelp, beauty, beauty-options and others of options, one changed each, and yelp-cold,
beauty-cold: under the cold protocol.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script too

import numpy as np
import typer

from benchmarks.measure import RESULTS, commit, machine, rounded
from recmind_dist.errors import DataError, RecmindError
from recmind_dist.experiments.comparison import compare
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.report.tables import markdown_table
from recmind_dist.storage import content_key
from recmind_dist.training.alone import validation_curve
from recmind_dist.training.evaluate import read_run
from recmind_dist.training.run_config import RunConfig

STORE = RESULTS / "accuracy"
PAGE = Path(__file__).parent / "accuracy.md"
BENCHES = (
    "gowalla", "yelp", "beauty", "beauty-options", "beauty-layers", "beauty-pairs", "beauty-bpr", "yelp-cold", "beauty-cold",
)  # fmt: skip
METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
MACRO = (("0", 0, 0), ("1-3", 1, 3), ("4-7", 4, 7), ("8-15", 8, 15), ("16+", 16, 1 << 30))
OURS = "recmind"
BASELINES = ("popularity", "graph", "text", "fusion")
Stored = dict[str, Any]


def main(
    runs: Annotated[list[Path] | None, typer.Argument(help="run directories, evaluated, all of one bench")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="store the results of RUNS")] = False,
    bench: Annotated[str, typer.Option(help="which bench RUNS belong to")] = "",
    write: Annotated[
        bool, typer.Option("--write", help="make accuracy.md and accuracy.json from what is stored")
    ] = False,
) -> None:
    """Stores results of runs, or writes the page from stored results; prints the figures as the last line."""
    try:
        if collect:
            if bench not in BENCHES or not runs:
                raise DataError(f"--collect: give run directories and --bench, one of {', '.join(BENCHES)}")
            collect_runs(runs, bench)
        if write or not collect:
            write_page()
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def collect_runs(paths: list[Path], bench: str, store: Path = STORE) -> None:
    """Stores one JSON a run, and what comparing them has given. Replaces what the bench had."""
    by_model: dict[str, list[RunDirectory]] = {}
    roles: dict[str, str] = {}
    records = {}
    for path in sorted(paths):
        record = record_of(path, bench)
        name = f"{bench}-{record['model']}-seed{record['seed']}"
        records[name] = record
        roles[record["model"]] = record["role"]
        by_model.setdefault(record["model"], []).append(RunDirectory(path))
    comparisons = {
        model: {"role": roles[model], **_comparisons(by_model[OURS], runs, bench)}
        for model, runs in by_model.items()
        if OURS in by_model and model != OURS
    }
    store.mkdir(parents=True, exist_ok=True)
    for old in [*store.glob(f"{bench}-*-seed*.json"), store / f"{bench}.comparisons.json"]:
        if old.name.endswith(".comparisons.json") or json.loads(old.read_text())["bench"] == bench:
            old.unlink(missing_ok=True)
    for name, record in records.items():
        _write_json(store / f"{name}.json", record)
    _write_json(store / f"{bench}.comparisons.json", {"bench": bench, "against": OURS, "models": comparisons})
    print(f"{bench}: {len(records)} runs of {len(by_model)} models stored in {store}")


def record_of(path: Path, bench: str) -> Stored:
    """What is kept of one run: what it was, how long it took, what it found. Raises DataError if it is not evaluated."""
    run, config = read_run(path)
    if not (run.results.is_file() and run.per_user.is_file()):
        raise DataError(f"{path}: not evaluated: run `recmind evaluate {path}`")
    results = run.read_results()
    named = re.fullmatch(r"(.+)-seed\d+", path.resolve().name)
    seconds = sum(record["seconds"] for record in read_metrics(run.metrics, "epoch")) if run.metrics.exists() else 0.0
    settings = _settings(config)
    return {
        "bench": bench, "model": named.group(1) if named else results["variant"], "seed": results["seed"],
        "role": role_of(config), "commit": results["commit"], "train_seconds": seconds,
        "config_key": content_key(settings)[:12], "settings": settings, "epoch": results.get("epoch"),
        "norm_exponent": results.get("norm_exponent"), "validation": max(
            (r[config.evaluation.metric] for r in validation_curve(run)), default=None),
        "metrics": results["metrics"], "strata": results["strata"], "macro_recall@20": _macro(run),
        "gate": [row for row in results["gate"] if row.get("spearman") is not None],
    }  # fmt: skip


def role_of(config: RunConfig) -> str:
    """What kind of model the settings make: popularity, graph, text, fusion (both, without gates) or gated, which is RecMind
    and what is left of it without a part: no baseline.
    """
    model = config.model
    if config.variant == "popularity" or not model.use_text:
        return "popularity" if config.variant == "popularity" else "graph"
    if config.variant == "text_only" or model.readout == "text" or model.base == "text":
        return "text"
    if model.gate.enabled or model.readout == "mix":
        return "gated"
    return "graph" if model.readout == "graph" else "fusion"


def figures_of(store: Path = STORE) -> dict[str, float | str | None]:
    """The figures of the last line; null where a bench, or what it needs, is not stored."""
    runs = stored_runs(store)
    figures: dict[str, float | str | None] = {}
    exact, sampled = (_mean(runs, "gowalla", model, "recall@20") for model in ("exact", "sampled"))
    figures["gowalla_recall@20"], figures["gowalla_ndcg@20"] = exact, _mean(runs, "gowalla", "exact", "ndcg@20")
    figures["gowalla_sampled_over_exact"] = sampled / exact if sampled and exact else None
    for name in ("yelp", "beauty"):
        rivals = _stored_comparisons(store, name)
        best = {m: _best(rivals, f"users {m}", BASELINES) for m in ("recall@40", "ndcg@40")}
        for metric, rival in best.items():
            figures[f"{name}_gain_{metric}"] = rivals[rival][f"users {metric}"]["gain"] if rival else None
        plain = next((m for m in ("lightgcn_bpr", "lightgcn-bpr") if m in rivals), None)
        over = rivals[plain]["users recall@40"]["gain"] if plain else None
        figures[f"{name}_over_lightgcn_recall@40"] = over
        cold = _stored_comparisons(store, f"{name}-cold")
        figures[f"{name}_cold_ratio"] = _ratio(cold, "cold recall@20", ("graph",))
        figures[f"{name}_macro_ratio"] = _ratio(cold, "strata recall@20", ("graph", "text"))
        values = [rivals[rival][f"users {metric}"]["p"] for metric, rival in best.items() if rival]
        figures[f"{name}_p_value"] = max(values, default=None)  # of the two gains, the less certain
        figures[f"{name}_best_baseline"] = best["recall@40"]
    return figures


def stored_runs(store: Path = STORE) -> list[Stored]:
    """All stored runs, by bench, model and seed."""
    found = [json.loads(path.read_text()) for path in sorted(store.glob("*-seed*.json"))]
    return sorted(found, key=lambda r: (BENCHES.index(r["bench"]), r["model"], r["seed"]))


def write_page(store: Path = STORE, page: Path = PAGE, results: Path = RESULTS) -> None:
    """Writes accuracy.md and accuracy.json and prints the last line."""
    runs = stored_runs(store)
    if not runs:
        raise DataError(f"{store}: no stored results: run `python benchmarks/accuracy.py --collect RUNS… --bench NAME`")
    figures = figures_of(store)
    last = {"benchmark": "accuracy", "commit": commit(), "machine": machine(), "figures": rounded(figures)}
    parts = [
        _HEAD,
        "## Figures\n\n" + markdown_table(("figure", "value"), [[k, _shown(v)] for k, v in figures.items()]),
    ]
    for bench in dict.fromkeys(run["bench"] for run in runs):
        parts += _bench_page(bench, [run for run in runs if run["bench"] == bench], _stored_comparisons(store, bench))
        if bench.endswith("-cold"):
            frontier = page.with_name(f"accuracy-{bench}.png")
            draw_frontier([run for run in runs if run["bench"] == bench], frontier)
            parts.append(f"![head against tail]({frontier.name})\n")
    page.write_text("\n".join(parts), encoding="utf-8")
    results.mkdir(parents=True, exist_ok=True)
    _write_json(results / "accuracy.json", last)
    print(json.dumps(last, ensure_ascii=False, allow_nan=False))


_HEAD = """# Accuracy

Written by `python benchmarks/accuracy.py --write` from results/accuracy/; do not edit. Test split, full ranking, all users
with held-out items; Recall divides by a user's held-out items. All choices were made on validation, but for two of Gowalla's
after test figures were seen: that the norm exponent is left at 0, and that the recipe was not changed once more
(results/accuracy/tuning/gowalla-choice.md). The best baseline is the one that is best on *test*, for each metric by itself, so
that no comparison flatters RecMind. Intervals are 95 %, p is two-sided, by paired bootstrap over users and seeds.
"""


def draw_frontier(runs: list[Stored], path: Path) -> None:
    """Overall Recall@20 against its macro-average over degree strata, a point a model: what the tail costs the head."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        x, y = _mean_of([run["metrics"]["recall@20"] for run in own]), _mean_of([run["macro_recall@20"] for run in own])
        axes.scatter([x], [y], marker="*" if model.startswith(OURS) else "o")
        axes.annotate(model, (x, y), fontsize=7, xytext=(4, 2), textcoords="offset points")
    axes.set_xlabel("Recall@20, all users")
    axes.set_ylabel("Recall@20, mean over degree strata")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _bench_page(bench: str, runs: list[Stored], rivals: dict[str, Stored]) -> list[str]:
    models = dict.fromkeys(run["model"] for run in runs)
    strata = [name for name in dict.fromkeys(s for run in runs for s in run["strata"]) if name != "cold"]
    rows, by_degree, about, gates = [], [], [], []
    for model in models:
        own = [run for run in runs if run["model"] == model]
        rows.append([model, own[0]["role"], len(own), *(_spread(own, m) for m in METRICS)])
        macro = [run["macro_recall@20"] for run in own if run["macro_recall@20"] is not None]
        means = [_mean_of([run["strata"].get(s, {}).get("recall@20") for run in own]) for s in ("cold", *strata)]
        by_degree.append([model, _mean_of(macro), *means])
        keys, commits = ({str(run[k])[:12] for run in own} for k in ("config_key", "commit"))
        seeds, seconds = ", ".join(str(run["seed"]) for run in own), _mean_of([run["train_seconds"] for run in own])
        exponents = ", ".join(str(run["norm_exponent"]) for run in own)
        about.append(
            [model, seeds, " ".join(sorted(keys)), " ".join(sorted(commits)), f"{seconds or 0:.0f}", exponents]
        )
        by_seed: dict[tuple[int, str], list[str]] = {}
        for row in (row for run in own for row in run["gate"]):
            by_seed.setdefault((row["layer"], row["side"]), []).append(_correlation(row))
        gates += [[model, *place, ", ".join(values)] for place, values in by_seed.items()]
    parts = [
        f"## {bench}\n",
        markdown_table(("model", "kind", "runs", *METRICS), rows),
        "Recall@20 by training degree of the held-out item (cold: 3 or less; macro: mean of 0, 1–3, 4–7, 8–15, 16+)\n",
        markdown_table(("model", "macro", "cold", *strata), by_degree),
    ]
    if rivals:
        whats = list(dict.fromkeys(w for told in rivals.values() for w, c in told.items() if isinstance(c, dict)))
        table = [[model, *(_compared(told.get(what)) for what in whats)] for model, told in rivals.items()]
        parts += ["RecMind over each model: gain, interval, p\n", markdown_table(("model", *whats), table)]
    if gates:
        parts += [
            "Spearman(γ, degree) and its interval over nodes, seed by seed\n",
            markdown_table(("model", "layer", "side", "Spearman"), gates),
        ]
    header = ("model", "seeds", "config", "commit", "training, s", "norm exponent")
    return [*parts, "How the runs were made (settings in full: results/accuracy/)\n", markdown_table(header, about)]


def _comparisons(ours: list[RunDirectory], theirs: list[RunDirectory], bench: str) -> Stored:
    if len(theirs) == 1 and not read_run(theirs[0].path)[1].trains:
        theirs = theirs * len(ours)  # it has no seed: every run would be this one
    found = {f"users {metric}": compare(ours, theirs, metric) for metric in METRICS}
    if bench.endswith("-cold"):
        found |= {"cold recall@20": compare(ours, theirs, "recall@20", "cold")}
        found |= {"strata recall@20": compare(ours, theirs, "recall@20", "strata")}
    return {what: result.to_json() for what, result in found.items() if result is not None}


def _macro(run: RunDirectory) -> float | None:
    """Mean over the strata of MACRO of Recall@20 within each; None without one held-out item a user."""
    import polars as pl

    users = pl.read_parquet(run.per_user)
    if "recall@20" not in users.columns or users.get_column("degree").null_count():
        return None
    means = [
        users.filter(pl.col("degree").is_between(low, high)).get_column("recall@20").mean() for _, low, high in MACRO
    ]
    return _mean_of([float(m) for m in means if isinstance(m, float)])


def _settings(config: RunConfig) -> Stored:
    """The settings that decide the figures; of paths the last two names, since where a file lies decides nothing."""
    values = config.model_dump(mode="json", exclude={"run_dir", "cache_dir", "compare", "fetch"})
    del values["train"]["seed"]
    return dict(_without_places(values))


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and value.startswith(("/", "../")) else value


def _stored_comparisons(store: Path, bench: str) -> dict[str, Stored]:
    path = store / f"{bench}.comparisons.json"
    return dict(json.loads(path.read_text())["models"]) if path.is_file() else {}


def _best(rivals: dict[str, Stored], what: str, roles: tuple[str, ...] = ()) -> str | None:
    """The rival that stands highest, by its own mean."""
    chosen = [m for m, told in rivals.items() if what in told and (not roles or told["role"] in roles)]
    return max(chosen, key=lambda m: rivals[m][what]["b"], default=None)


def _ratio(rivals: dict[str, Stored], what: str, roles: tuple[str, ...]) -> float | None:
    best = _best(rivals, what, roles)
    told = rivals[best][what] if best else None
    return told["a"] / told["b"] if told and told["b"] > 0 else None


def _mean(runs: list[Stored], bench: str, model: str, metric: str) -> float | None:
    return _mean_of([r["metrics"].get(metric) for r in runs if (r["bench"], r["model"]) == (bench, model)])


def _mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(runs: list[Stored], metric: str) -> str:
    values = [run["metrics"][metric] for run in runs if metric in run["metrics"]]
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}" if values else "–"


def _compared(told: Stored | None) -> str | None:
    """Gain, its interval and what can be said of it; a gain over nothing has a verdict alone."""
    if told is None or told["gain"] is None:
        return told and told["verdict"]
    gain, low, high = (f"{100 * told[key]:+.1f}" for key in ("gain", "low", "high"))
    return f"{gain} % ({low} … {high}), {told['verdict']}"


def _correlation(row: Stored) -> str:
    low, high = row.get("spearman_low"), row.get("spearman_high")
    ends = "" if low is None or high is None else f" ({low:+.2f} … {high:+.2f})"
    return f"{row['spearman']:+.2f}{ends}"


def _shown(value: float | str | None) -> str:
    return "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
