"""The page benchmarks/accuracy.md, its figures and its summary, made from stored results alone.

    python benchmarks/accuracy.py --write

A bench is a data set under one protocol; its section has the metrics of all models, Recall@20 by
degree, RecMind against each model, what gates learnt, and how the runs were made.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy_store import AccuracyStore, Compared, Record
from benchmarks.defaults_compare import figures_of_defaults
from benchmarks.measure import commit, machine, rounded
from recmind_dist.errors import DataError
from recmind_dist.report.tables import markdown_table
from recmind_dist.storage import write_bytes, write_json

PAGE = Path(__file__).parent / "accuracy.md"
BENCHES = (
    "gowalla",
    "yelp",
    "beauty",
    "beauty-options",
    "beauty-layers",
    "beauty-pairs",
    "beauty-bpr",
    "yelp-cold",
    "beauty-cold",
)
"""In the order of the page. A bench that ends in -cold withholds items from training."""
METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
OURS = "recmind"
BASELINES = ("popularity", "graph", "text", "fusion")
"""Roles of the models that a gain may be claimed over."""

# One string a line of the page, so that the page's lines stay as they are.
_HEAD = (
    "# Accuracy\n\n"
    "Written by `python benchmarks/accuracy.py --write` from results/accuracy.parquet; do not edit."
    " Test split, full ranking, all users\n"
    "with held-out items; Recall divides by a user's held-out items. All choices were made on"
    " validation, but for two of Gowalla's\n"
    "after test figures were seen: that the norm exponent is left at 0, and that the recipe was"
    " not changed once more\n"
    "(results/tuning/gowalla-choice.md). The best baseline is the one that is best on *test*, for"
    " each metric by itself, so\n"
    "that no comparison flatters RecMind. Intervals are 95 %, p is two-sided, by paired bootstrap"
    " over users and seeds.\n"
)


def write_page(store: AccuracyStore, page: Path = PAGE) -> None:
    """Writes the page with its figures and the store's accuracy.json; prints the summary last.

    Raises:
        DataError: nothing is stored, or stored settings are missing or damaged.
    """
    with store.lock():
        runs = stored_runs(store)
        if not runs:
            raise DataError(
                f"{store.folder}: no stored results: "
                "run `python benchmarks/accuracy.py --collect RUNS… --bench NAME`"
            )
        figures = figures_of(runs, store)
        parts = [_HEAD, "## Figures\n\n" + _figure_table(figures)]
        for bench in dict.fromkeys(run["bench"] for run in runs):
            own = [run for run in runs if run["bench"] == bench]
            parts += _bench_section(bench, own, store.comparisons(bench))
            if bench.endswith("-cold"):
                frontier = page.with_name(f"accuracy-{bench}.png")
                draw_frontier(own, frontier)
                parts.append(f"![head against tail]({frontier.name})\n")
        write_bytes(page, "\n".join(parts).encode())
        summary = {
            "benchmark": "accuracy",
            "commit": commit(),
            "machine": machine(),
            "figures": rounded(figures),
        }
        write_json(store.folder / "accuracy.json", summary)
    print(json.dumps(summary, ensure_ascii=False, allow_nan=False))


def stored_runs(store: AccuracyStore) -> list[Record]:
    """All stored runs in the order of the page: by bench, model and seed."""
    return sorted(store.runs(), key=lambda run: BENCHES.index(run["bench"]))


def figures_of(runs: list[Record], store: AccuracyStore) -> dict[str, float | str | None]:
    """The figures of the summary; None where a bench, or what it needs, is not stored."""
    exact = _bench_mean(runs, "gowalla", "exact", "recall@20")
    sampled = _bench_mean(runs, "gowalla", "sampled", "recall@20")
    figures: dict[str, float | str | None] = {
        "gowalla_recall@20": exact,
        "gowalla_ndcg@20": _bench_mean(runs, "gowalla", "exact", "ndcg@20"),
        "gowalla_sampled_over_exact": sampled / exact if sampled and exact else None,
    }
    for name in ("yelp", "beauty"):
        figures |= _recmind_figures(
            name, store.comparisons(name), store.comparisons(f"{name}-cold")
        )
    return figures | figures_of_defaults(store.folder)


def draw_frontier(runs: list[Record], path: Path) -> None:
    """A point a model: Recall@20 of all users against its mean over degree strata."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        x = _mean([run["metrics"]["recall@20"] for run in own])
        y = _mean([run["macro_recall@20"] for run in own])
        if x is None or y is None:
            continue  # some users have several held-out items: there are no strata
        axes.scatter([x], [y], marker="*" if model.startswith(OURS) else "o")
        axes.annotate(model, (x, y), fontsize=7, xytext=(4, 2), textcoords="offset points")
    axes.set_xlabel("Recall@20, all users")
    axes.set_ylabel("Recall@20, mean over degree strata")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _recmind_figures(
    name: str, warm: dict[str, Compared], cold: dict[str, Compared]
) -> dict[str, float | str | None]:
    """Gains over the best baseline, which may differ by metric, and over plain LightGCN; ratios."""
    best = {
        metric: _best(warm, f"users {metric}", BASELINES) for metric in ("recall@40", "ndcg@40")
    }
    gains: dict[str, float | None] = {}
    p_values = []
    for metric, rival in best.items():
        result = warm[rival][f"users {metric}"] if rival else None
        gains[f"{name}_gain_{metric}"] = result["gain"] if result else None
        p_values += [result["p"]] if result else []
    plain = next((model for model in ("lightgcn_bpr", "lightgcn-bpr") if model in warm), None)
    over_plain = warm[plain]["users recall@40"]["gain"] if plain else None
    return {
        **gains,
        f"{name}_over_lightgcn_recall@40": over_plain,
        f"{name}_cold_ratio": _ratio(cold, "cold recall@20", ("graph",)),
        f"{name}_macro_ratio": _ratio(cold, "strata recall@20", ("graph", "text")),
        f"{name}_p_value": max(p_values, default=None),  # of the less certain gain
        f"{name}_best_baseline": best["recall@40"],
    }


def _bench_section(bench: str, runs: list[Record], rivals: dict[str, Compared]) -> list[str]:
    by_model: dict[str, list[Record]] = {}
    for run in runs:
        by_model.setdefault(run["model"], []).append(run)
    parts = [
        f"## {bench}\n",
        _metric_table(by_model),
        "Recall@20 by training degree of the held-out item (cold: 3 or less; macro: mean of 0, 1–3,"
        " 4–7, 8–15, 16+)\n",
        _degree_table(by_model),
    ]
    if rivals:
        parts += ["RecMind over each model: gain, interval, p\n", _comparison_table(rivals)]
    if any(run["gate"] for run in runs):
        parts += ["Spearman(γ, degree) and its interval over nodes, seed by seed\n"]
        parts += [_gate_table(by_model)]
    parts += ["How the runs were made (settings in full: results/settings/CONFIG.json)\n"]
    return [*parts, _provenance_table(by_model)]


def _figure_table(figures: dict[str, float | str | None]) -> str:
    return markdown_table(("figure", "value"), [[k, _figure(v)] for k, v in figures.items()])


def _metric_table(by_model: dict[str, list[Record]]) -> str:
    rows = [
        [model, runs[0]["role"], len(runs), *(_mean_and_deviation(runs, m) for m in METRICS)]
        for model, runs in by_model.items()
    ]
    return markdown_table(("model", "kind", "runs", *METRICS), rows)


def _degree_table(by_model: dict[str, list[Record]]) -> str:
    found = dict.fromkeys(
        name for runs in by_model.values() for run in runs for name in run["strata"]
    )
    strata = ("cold", *(name for name in found if name != "cold"))
    rows = []
    for model, runs in by_model.items():
        recalls = [
            _mean([run["strata"].get(stratum, {}).get("recall@20") for run in runs])
            for stratum in strata
        ]
        rows.append([model, _mean([run["macro_recall@20"] for run in runs]), *recalls])
    return markdown_table(("model", "macro", *strata), rows)


def _comparison_table(rivals: dict[str, Compared]) -> str:
    results = [key for rival in rivals.values() for key in rival if key != "role"]
    whats = list(dict.fromkeys(results))
    rows = [
        [model, *(_gain(compared.get(what)) for what in whats)]
        for model, compared in rivals.items()
    ]
    return markdown_table(("model", *whats), rows)


def _gate_table(by_model: dict[str, list[Record]]) -> str:
    rows = []
    for model, runs in by_model.items():
        by_place: dict[tuple[int, str], list[str]] = {}
        for gate in (gate for run in runs for gate in run["gate"]):
            by_place.setdefault((gate["layer"], gate["side"]), []).append(_correlation(gate))
        rows += [[model, *place, ", ".join(seeds)] for place, seeds in by_place.items()]
    return markdown_table(("model", "layer", "side", "Spearman"), rows)


def _provenance_table(by_model: dict[str, list[Record]]) -> str:
    rows = []
    for model, runs in by_model.items():
        seconds = _mean([run["train_seconds"] for run in runs])
        rows.append(
            [
                model,
                ", ".join(str(run["seed"]) for run in runs),
                " ".join(sorted({run["settings_hash"] for run in runs})),
                " ".join(sorted({str(run["commit"])[:12] for run in runs})),
                f"{seconds or 0:.0f}",
                ", ".join(str(run["norm_exponent"]) for run in runs),
            ]
        )
    header = ("model", "seeds", "config", "commit", "training, s", "norm exponent")
    return markdown_table(header, rows)


def _best(rivals: dict[str, Compared], what: str, roles: tuple[str, ...]) -> str | None:
    """The rival of these roles whose own mean is highest."""
    chosen = [name for name, found in rivals.items() if what in found and found["role"] in roles]
    return max(chosen, key=lambda name: rivals[name][what]["b"], default=None)


def _ratio(rivals: dict[str, Compared], what: str, roles: tuple[str, ...]) -> float | None:
    best = _best(rivals, what, roles)
    result = rivals[best][what] if best else None
    return result["a"] / result["b"] if result and result["b"] > 0 else None


def _bench_mean(runs: list[Record], bench: str, model: str, metric: str) -> float | None:
    own = [run for run in runs if (run["bench"], run["model"]) == (bench, model)]
    return _mean([run["metrics"].get(metric) for run in own])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean_and_deviation(runs: list[Record], metric: str) -> str:
    values = [run["metrics"][metric] for run in runs if metric in run["metrics"]]
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}" if values else "–"


def _gain(result: dict[str, Any] | None) -> str | None:
    """Gain, its interval and verdict; the verdict alone where the rival has 0."""
    if result is None:
        return None
    if result["gain"] is None:
        return str(result["verdict"])
    gain, low, high = (f"{100 * result[key]:+.1f}" for key in ("gain", "low", "high"))
    return f"{gain} % ({low} … {high}), {result['verdict']}"


def _correlation(gate: dict[str, Any]) -> str:
    low, high = gate["spearman_low"], gate["spearman_high"]
    interval = "" if low is None or high is None else f" ({low:+.2f} … {high:+.2f})"
    return f"{gate['spearman']:+.2f}{interval}"


def _figure(value: float | str | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else value
