"""When texts hurt: texts that are missing, alike or of other items, and whether gates notice."""

from typing import Any

import numpy as np

from recmind_dist.evaluation.significance import MIN_SEEDS, Comparison
from recmind_dist.experiments.comparison import Users, compare, share_of_gain, spread, verdict_of
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
ALL_TEXTS = Arm("all texts", "recmind", ("checkpoint.keep_last=1000",))
"""Keeps all checkpoints, which say how gates move over training."""
GRAPH_VIEW = Arm("graph view alone", "recmind", ("model.views=graph", "model.init=normal"))
DEALT = "texts dealt anew"
HALF, NONE = "half missing", "all missing"
STAND_INS = {
    HALF: "learnt",
    f"{HALF}, network": "network",
    f"{HALF}, neighbours": "neighbours",
    f"{HALF}, zeros": "zeros",
}
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
    overall, gains, over_none = _overall(found, metric)
    by_text, kept, beats = _by_text(found, metric, _users_of(graph, ~lost), _users_of(graph, lost))
    dealt, true = gains[DEALT], _pair(found, ALL_TEXTS.name, DEALT, metric)
    none = _pair(found, NONE, GRAPH_VIEW.name, metric)
    answer = (
        f"{DEALT}: RecMind against LightGCN {verdict_of(dealt)}, against itself without texts "
        f"{verdict_of(over_none[DEALT])}, as texts are against that {verdict_of(true)}; {NONE}: "
        f"item vectors that learn alone against the graph view alone {verdict_of(none)}; half of "
        f"the texts missing: {kept}; on items that lost theirs {beats}."
    )
    notes = how_made(list(found.values()), study.seeds)
    title, label = "When texts are missing, alike or wrong", f"{metric} over LightGCN, %"
    follows = _follows(over_none, true)
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
        NONE: hidden(items, np.ones(len(items), np.bool_)),
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
    return [ALL_TEXTS, Arm("LightGCN", "lightgcn"), GRAPH_VIEW, *changed, *others]


Gains = dict[str, Comparison | None]


def _overall(found: dict[str, ArmRuns], metric: str) -> tuple[TableOf, Gains, Gains]:
    """Every set of texts against LightGCN and against RecMind without texts, and what language has
    to do with its scores.
    """
    gains, over_none = (
        {name: _pair(found, name, other, metric) for name in found} for other in ("LightGCN", NONE)
    )
    rows: list[list[Any]] = []
    for name, arm in found.items():
        row = [name, len(arm.runs), *spread(arm.runs, metric)]
        for own, over in (("LightGCN", gains[name]), (NONE, over_none[name])):
            row += ["", "", ""] if name == own else [*gain_and_interval(over), verdict_of(over)]
        rows.append([*row, None if name == "LightGCN" else _language(arm)])
    headers = (
        *("texts", "runs", metric, "sd", "over LightGCN", "interval", "seen"),
        *("over no texts", "its interval", "is it so", "language"),
    )
    caption = (
        "## All items; language: its share, without the bias, of what lifts held-out items above "
        "the catalogue"
    )
    return TableOf(caption, headers, rows), gains, over_none


def _by_text(
    found: dict[str, ArmRuns], metric: str, kept_U: BoolArray, lost_U: BoolArray
) -> tuple[TableOf, str, str]:
    """Items that kept their text while half were hidden, and those that lost it."""
    graph_alone, full = found["LightGCN"].runs, found["all texts"].runs
    rows: list[list[Any]] = []
    for name in ("all texts", *STAND_INS):
        for which, users in (("kept", kept_U), ("lost", lost_U)):
            runs = found[name].runs
            over = _pair(found, name, "LightGCN", metric, users)
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
    kept = _how_much_stays(stays, min(len(full), len(found[HALF].runs), len(graph_alone)))
    against = [
        f"{name.removeprefix(f'{HALF}, ')} {verdict_of(_pair(found, HALF, name, metric, lost_U))}"
        for name in STAND_INS
        if name != HALF
    ]
    return TableOf(caption, headers, rows), kept, f"learnt vectors against {', '.join(against)}"


def _how_much_stays(stays: tuple[float, float, float] | None, seeds: int) -> str:
    """Of the gain of all texts, where half are hidden, on items that kept theirs."""
    if stays is None:
        return "no gain to keep"
    share, low, high = stays
    sure = "neither shown nor refuted"
    if seeds < MIN_SEEDS:
        sure = f"not significant, {seeds} of {MIN_SEEDS} seeds"
    elif low >= LEAST or high < LEAST:
        sure = "shown" if low >= LEAST else "refuted"
    return (
        f"{100 * share:.0f} % ({100 * low:.0f} … {100 * high:.0f}) of the gain stays on items that "
        f"kept theirs, and that it is at least {100 * LEAST:.0f} % is {sure}"
    )


def _pair(
    found: dict[str, ArmRuns], a: str, b: str, metric: str, users: Users = "users"
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
    shares = [margins_of(best_model(run)).language for run in arm.runs]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def _follows(over_none: Gains, true: Comparison | None) -> str:
    """Of each set of texts against none, and of true texts against the same dealt anew."""
    sure = {name: one for name, one in over_none.items() if one is not None and one.significant}
    for no_texts in ("LightGCN", GRAPH_VIEW.name):
        sure.pop(no_texts, None)
    below = [name for name, one in sure.items() if one.a < one.b]
    above = [name for name, one in sure.items() if one.a > one.b]
    if below:
        return f"texts cost here where they are: {', '.join(below)}; leave them out there."
    pays = f"a sure gain with: {', '.join(above)}" if above else "no sure gain with any"
    means = true is not None and true.significant and true.a > true.b
    if DEALT in above and not means:
        pays += "; dealt anew they gain too, and what they say is not shown to gain more"
    return f"no measured texts put RecMind below itself without any here; {pays}."


def _percent(found: Comparison | None) -> tuple[float | None, float | None, float | None]:
    values = (found.gain, found.low, found.high) if found else (None, None, None)
    gain, low, high = (None if value is None else 100 * value for value in values)
    return gain, low, high
