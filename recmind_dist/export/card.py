"""The model card of a bundle: README.md with the fields of the Hugging Face hub.

Legend: U users with held-out items.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recmind_dist.config import dump_yaml
from recmind_dist.report.results import FOLDED
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text.settings import hub_name

_RESAMPLES = 1000
_USES = """\
Ranks items for users by inner products of vectors: {whom}.

    recmind recommend BUNDLE --history ID,ID --k 10
    python -c "from recmind_dist.recommend.recommender import load; \\
        print(load('BUNDLE').recommend_from(['ID'], 10))"
"""
_WHOM = "users it knows, users by a history of item ids"
_AND_TEXTS = ",\ntexts where the bundle has its language model"
_LIMITS = """\
- Figures are of one split of one log, offline. They do not say what users do when they are shown
  these items.
- Items that few have met are found less often: see the strata.
- The log says what was shown and chosen. What it left out, and for whom, the model leaves out too.
- Vectors and histories of users are personal data where the log is.
"""


def model_card(
    content: Mapping[str, Any],
    config: RunConfig,
    results: Mapping[str, Any],
    per_user: pl.DataFrame | None = None,
) -> str:
    """The card's text.

    Args:
        content: of the bundle's manifest.
        results: of results.json; empty: not evaluated.
        per_user: the metrics of each user, which intervals are drawn from.
    """
    header = dump_yaml(_header(content, config, results))
    name = f"{config.variant} on {content['name']}"
    uses = _USES.format(whom=_WHOM + (_AND_TEXTS if config.model.reads_text else ""))
    parts = [f"---\n{header}---\n# {name}\n", uses, _data(content, config), _training(config)]
    parts += [_figures(results, per_user), "## Limits\n\n" + _LIMITS, _licence(config)]
    return "\n".join(parts)


def intervals(per_user: pl.DataFrame, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of the means over users, by bootstrap of users; by column."""
    names = [name for name in per_user.columns if name not in ("user", "degree", "items")]
    x_UM = per_user.select(names).to_numpy().astype(np.float64)
    rng, size = np.random.default_rng(seed), len(x_UM)
    if not size:
        return {}
    means = np.empty((_RESAMPLES, len(names)))
    for k in range(_RESAMPLES):
        counts = np.bincount(rng.integers(0, size, size), minlength=size)
        means[k] = counts @ x_UM / size
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _header(
    content: Mapping[str, Any], config: RunConfig, results: Mapping[str, Any]
) -> dict[str, Any]:
    header: dict[str, Any] = {
        "library_name": "recmind-dist",
        "license": "other",
        "license_name": "that-of-the-data",
        "tags": ["recommender-system", "collaborative-filtering", "graph-neural-network"],
        "metrics": sorted({name.partition("@")[0] for name in results.get("metrics", {})}),
    }
    name, _ = hub_name(config.text.model)
    if config.model.reads_text and _language_model(config) == name:
        header["base_model"] = name
    if not results:
        return header
    data = {"name": content["name"], "type": content["name"], "split": results["split"]}
    metrics = [
        {"type": name.partition("@")[0], "name": name, "value": round(value, 5)}
        for name, value in results["metrics"].items()
    ]
    result = {"task": {"type": "recommendation"}, "dataset": data, "metrics": metrics}
    return header | {"model-index": [{"name": config.variant, "results": [result]}]}


def _data(content: Mapping[str, Any], config: RunConfig) -> str:
    texts = f", item texts “{config.text.item_template}”" if config.text.item_template else ""
    return (
        f"## Data\n\n{content['name']}: {content['num_users']} users, {content['num_items']} "
        f"items{texts if config.model.reads_text else ''}. Split: {config.graph.split}.\n"
    )


def _training(config: RunConfig) -> str:
    text = f" Texts are read by `{_language_model(config)}`." if config.model.reads_text else ""
    return (
        f"## Model\n\n`model.kind: {config.model.kind}`, {config.model.embedding_dim} dims a view, "
        f"seed {config.train.seed}.{text} All settings: config.yaml.\n"
    )


def _figures(results: Mapping[str, Any], per_user: pl.DataFrame | None) -> str:
    if not results:
        return "## Figures\n\nNot evaluated.\n"
    spans = {} if per_user is None else intervals(per_user)
    lines = [
        f"## Figures\n\n{results['split'].capitalize()} split, whole catalogue, items of the "
        "history left out; 95 % intervals by bootstrap of users.\n",
        "| metric | history to the training edge | with the validation item |",
        "|---|---|---|",
    ]
    folded = (results.get("folded") or {}).get("metrics", {})
    for name, value in results["metrics"].items():
        newer = _with_interval(folded.get(name), spans.get(FOLDED + name))
        lines.append(f"| {name} | {_with_interval(value, spans.get(name))} | {newer} |")
    return "\n".join([*lines, "", *_strata(results["strata"])]) + "\n"


def _with_interval(value: float | None, span: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ({span[0]:.4f} … {span[1]:.4f})" if span else "")


def _strata(strata: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """By training degree of the held-out items."""
    names = [n for n in ("recall@20", "ndcg@20") if any(n in row for row in strata.values())]
    names = names or sorted({n for row in strata.values() for n in row if "@" in n})[:2]
    head = ["By training degree of the held-out item (cold: 3 or less):\n"]
    head += [f"| degree | users | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for name, row in strata.items():
        values = ("" if row.get(n) is None else f"{row[n]:.4f}" for n in names)
        head.append(f"| {name} | {row['users']} | {' | '.join(values)} |")
    return head


def _language_model(config: RunConfig) -> str:
    """Its name on the hub, or that of its directory."""
    model = Path(hub_name(config.text.model)[0])
    local = model.is_absolute() or str(model.parent) in (".", "models") or len(model.parts) > 2
    return model.name if local else str(model)


def _licence(config: RunConfig) -> str:
    model = (
        f", of the language model `{_language_model(config)}`" if config.model.reads_text else ""
    )
    return (
        f"## Licence\n\nThat of the data{model} and of who trained it: fill in `license` above "
        "before you publish. The program that reads the bundle is Apache-2.0.\n"
    )
