"""When texts hurt: texts that are missing, alike or of other items, and whether gates notice."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recmind_dist.evaluation.significance import MIN_SEEDS, Comparison
from recmind_dist.experiments.comparison import compare, share_of_gain, spread, verdict_of
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import (
    Findings,
    Study,
    TableOf,
    gain_and_interval,
    how_made,
)
from recmind_dist.experiments.item_texts import (
    boilerplate,
    chosen,
    hidden,
    permuted,
    refuse_without_texts,
    write_items,
)
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.experiments.view_shares import best_model, margins_of
from recmind_dist.graph import Graph
from recmind_dist.types import BoolArray

CLAIM = (
    "text helps where the graph knows little, and gates turn language off where texts are noise: "
    "never below the graph alone."
)
ALL_TEXTS = Arm("all texts", "recmind", ("checkpoint.keep_best=10",))
"""Keeps a checkpoint of every validation, which say how gates move over training."""
DEALT = "texts dealt anew"
HALF = "half missing"
STAND_INS = {HALF: "network", f"{HALF}, neighbours": "neighbours", f"{HALF}, zeros": "zeros"}
LEAST = 0.9
"""Share of the gain that is to stay on items that kept their texts while half were hidden."""


def texts(study: Study) -> Findings:
    """Trains RecMind on each set of texts, and LightGCN.

    Raises:
        DataError: the data set has no texts.
    """
    config, graph = study.graph()
    refuse_without_texts(graph, config)
    lost = chosen(graph.num_items, 0.5, config.graph.seed)
    found = {arm.name: arm for arm in study.run(_arms(study, graph, config.graph.seed), True)}
    metric = config.evaluation.metric
    overall, gains = _overall(found, metric)
    by_text, kept, beats = _by_text(found, metric, _users_of(graph, ~lost), _users_of(graph, lost))
    dealt = gains[DEALT]
    answer = (
        f"{DEALT}: RecMind against LightGCN {verdict_of(dealt)}; half of the texts missing: "
        f"{kept}; on items that lost theirs {beats}."
    )
    notes = how_made(list(found.values()), study.seeds)
    title, label = "When texts are missing, alike or wrong", f"{metric} over LightGCN, %"
    follows = _follows(gains)
    data = config.dataset.name
    findings = Findings("texts", title, CLAIM, answer, [overall, by_text], notes, follows, data)
    bars = {name: _percent(gain) for name, gain in gains.items()}
    findings.write(study.home, lambda: draw_bars({"all items": bars}, title, label))
    return findings


def _arms(study: Study, graph: Graph, seed: int) -> list[Arm]:
    items, folder = graph.items_frame(), study.shared / "items"
    made = {
        DEALT: permuted(items, seed),
        HALF: hidden(items, chosen(len(items), 0.5, seed)),
        "a tenth missing": hidden(items, chosen(len(items), 0.1, seed)),
        "all missing": hidden(items, np.ones(len(items), np.bool_)),
        "half boilerplate": boilerplate(items, chosen(len(items), 0.5, seed)),
    }
    words = {
        name: write_items(frame, folder / f"{name.replace(' ', '-')}.parquet")
        for name, frame in made.items()
    }
    changed = [Arm(name, "recmind", (word,)) for name, word in words.items()]
    others = [
        Arm(name, "recmind", (words[HALF], f"model.missing_text={kind}"))
        for name, kind in STAND_INS.items()
        if name != HALF
    ]
    return [ALL_TEXTS, Arm("LightGCN", "lightgcn"), *changed, *others]


def _overall(
    found: dict[str, ArmRuns], metric: str
) -> tuple[TableOf, dict[str, Comparison | None]]:
    """Every set of texts against LightGCN, and what language has to do with its scores."""
    graph_alone = found["LightGCN"].runs
    rows: list[list[Any]] = []
    gains = {}
    for name, arm in found.items():
        over = compare(arm.runs, graph_alone, metric) if arm.runs and graph_alone else None
        row = [name, len(arm.runs), *spread(arm.runs, metric)]
        if name == "LightGCN":
            rows.append([*row, None, None, "", None])
            continue
        gains[name] = over
        rows.append([*row, *gain_and_interval(over), verdict_of(over), _language(arm)])
    headers = ("texts", "runs", metric, "sd", "over LightGCN", "interval", "seen", "language")
    caption = (
        "## All items; language: its share, without the bias, of what lifts held-out items above "
        "the catalogue"
    )
    return TableOf(caption, headers, rows), gains


def _by_text(
    found: dict[str, ArmRuns], metric: str, kept_U: BoolArray, lost_U: BoolArray
) -> tuple[TableOf, str, str]:
    """Items that kept their text while half were hidden, and those that lost it."""
    graph_alone, full = found["LightGCN"].runs, found["all texts"].runs
    rows: list[list[Any]] = []
    for name in ("all texts", *STAND_INS):
        for which, users in (("kept", kept_U), ("lost", lost_U)):
            runs = found[name].runs
            over = compare(runs, graph_alone, metric, users) if runs and graph_alone else None
            stays = share_of_gain(runs, full, graph_alone, metric, users)
            share = None if stays is None else f"{100 * stays[0]:.0f} %"
            ends = None if stays is None else f"{100 * stays[1]:.0f} … {100 * stays[2]:.0f} %"
            numbers = [over.a, over.b] if over else [None, None]
            rows.append([name, which, *numbers, *gain_and_interval(over), share, ends])
    headers = (
        *("texts", "held-out items that", metric, "LightGCN", "over LightGCN", "interval"),
        *("share of the gain of all texts", "its interval"),
    )
    caption = "## Half of the texts hidden: items that kept theirs, items that lost theirs"
    stays = share_of_gain(found[HALF].runs, full, graph_alone, metric, kept_U)
    if stays is None:
        kept = "no gain to keep"
    else:
        few = "" if len(full) >= MIN_SEEDS else f" ({len(full)} of {MIN_SEEDS} seeds)"
        word = "at least" if stays[0] >= LEAST else "less than"
        kept = (
            f"{word} {100 * LEAST:.0f} % of the gain stays on items that kept theirs{few}: "
            f"{100 * stays[0]:.0f} % ({100 * stays[1]:.0f} … {100 * stays[2]:.0f})"
        )
    against = [
        f"{name.removeprefix(f'{HALF}, ')} {verdict_of(_pair(found, HALF, name, metric, lost_U))}"
        for name in STAND_INS
        if name != HALF
    ]
    return TableOf(caption, headers, rows), kept, f"the network against {', '.join(against)}"


def _pair(
    found: dict[str, ArmRuns], a: str, b: str, metric: str, users: BoolArray
) -> Comparison | None:
    ours, theirs = found[a].runs, found[b].runs
    return compare(ours, theirs, metric, users) if ours and theirs else None


def _users_of(graph: Graph, items_I: BoolArray) -> BoolArray:
    """Users whose held-out items are all among these. Shape: [U]."""
    held = graph.held_out("test")
    user = np.repeat(np.arange(graph.num_users), np.diff(held.indptr))
    others = user[~items_I[np.asarray(held.indices) - graph.num_users]]
    has_some = np.diff(held.indptr) > 0
    has_some[others] = False
    return has_some


def _language(arm: ArmRuns) -> float | None:
    """Mean over seeds."""
    shares = [
        margins.language(0, margins.highest)
        for margins in (margins_of(best_model(run)) for run in arm.runs)
    ]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def _follows(gains: dict[str, Comparison | None]) -> str:
    below = _names(gains, lambda one: one.significant and one.a < one.b)
    above = _names(gains, lambda one: one.significant and one.a > one.b)
    if below:
        return f"texts hurt here where they are: {', '.join(below)}; leave them out there."
    sentence = "no texts, however bad, put RecMind below LightGCN here"
    return f"{sentence}; they pay with: {', '.join(above) or 'none of these sets'}."


def _names(gains: dict[str, Comparison | None], wanted: Any) -> Sequence[str]:
    return [name for name, one in gains.items() if one is not None and wanted(one)]


def _percent(found: Comparison | None) -> tuple[float | None, float | None, float | None]:
    values = (found.gain, found.low, found.high) if found else (None, None, None)
    gain, low, high = (None if value is None else 100 * value for value in values)
    return gain, low, high
