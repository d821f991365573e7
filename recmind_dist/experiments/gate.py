"""What gates do with degree, and whether language speaks for what is cold: by γ, and by the share
of each view in the scores of held-out items, which γ does not decide alone.

γ^k_u γ^k_i is all that a score has of gates. What is added to the items' logits of a view and taken
from the users' changes no score but for a scale, so with three views the direction in which an
item's γ of the graph moves with degree is left open, and differs between seeds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recmind_dist.checkpoint.reader import Checkpoint, candidates, open_checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.evaluation.significance import MIN_SEEDS
from recmind_dist.experiments.comparison import compare, verdict_of
from recmind_dist.experiments.figures import draw_bins
from recmind_dist.experiments.findings import (
    Findings,
    Study,
    TableOf,
    gain_and_interval,
    how_made,
)
from recmind_dist.experiments.item_texts import (
    misleading,
    permuted,
    refuse_without_texts,
    write_items,
)
from recmind_dist.experiments.probe import by_bin
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.experiments.texts import ALL_TEXTS, DEALT
from recmind_dist.experiments.view_shares import LANGUAGE, ViewMargins, best_model, margins_of
from recmind_dist.graph import Graph
from recmind_dist.inference.final_embeddings import final_embeddings
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.randomness import stream_key, uniforms
from recmind_dist.report import RunDirectory
from recmind_dist.training.evaluate import gather_per_user, write_per_user
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.state import Cursor

CLAIM = "gates lean on language where the graph knows little, and on the graph where it is warm."
VIEWS = ("graph", "text", "content")
Leans = dict[str, float]
SHUFFLED = "degrees shuffled when ranking"
MISLED = "popular items misled"
MISLED_SHARE = 0.1
"""Of the items, the most popular."""


def gate(study: Study) -> Findings:
    """Trains RecMind with and without what gates see.

    Raises:
        ConfigError: the model's views are not mixed at the end.
        DataError: the data set has no texts.
    """
    config, graph = study.graph()
    refuse_without_texts(graph, config)
    if not (isinstance(config.model, RecMindSettings) and config.model.has_content_view):
        raise ConfigError(
            f"model.kind {config.model.kind}: shares of views are of model.kind: recmind with "
            "model.views: all, whose score is a sum over three views: use `recmind experiment "
            "probe`"
        )
    found = study.run(_arms(study, graph, config.graph.seed), shared=True)
    plain = found[0]
    margins = {arm.name: [margins_of(best_model(run)) for run in arm.runs] for arm in found}
    leans = {name: [one.leans() for one in rows] for name, rows in margins.items()}
    tables = [
        _signs(found, leans),
        _shares(margins),
        _rankings(study, found, config.evaluation.metric),
        _gammas(plain),
        _over_training(plain.runs[:1]),
    ]
    answer, follows = _sentences(leans[plain.name], study.seeds)
    title = "What gates do with degree"
    notes = how_made(found, study.seeds)
    data = config.dataset.name
    findings = Findings("gate", title, CLAIM, answer, tables, notes, follows, data)
    panels = {name: _points(rows) for name, rows in margins.items() if rows}
    label = "share of what lifts held-out items"
    findings.write(study.home, lambda: draw_bins(panels, "Views by degree of the item", label))
    return findings


def _arms(study: Study, graph: Graph, seed: int) -> list[Arm]:
    items, folder = graph.items_frame(), study.shared / "items"
    degree = np.asarray(graph.degree)[graph.num_users :]
    dealt = write_items(permuted(items, seed), folder / "texts-dealt-anew.parquet")
    misled = misleading(items, degree, MISLED_SHARE, seed)
    return [
        ALL_TEXTS,
        Arm("no degree input", "recmind", ("model.gate.degree_input=false",)),
        Arm(DEALT, "recmind", (dealt,)),
        Arm(MISLED, "recmind", (write_items(misled, folder / "misled.parquet"),)),
    ]


def _signs(found: Sequence[ArmRuns], leans: dict[str, list[Leans]]) -> TableOf:
    """By seed: how γ goes with degree, and how each view's share does."""
    rows: list[list[Any]] = []
    for arm in found:
        for run, lean in zip(arm.runs, leans[arm.name], strict=True):
            results = run.read_results()
            spearman = {
                row["side"]: row["spearman"] for row in results["gate"] if "spearman" in row
            }
            sides = [spearman.get(side) for side in ("user", "item")]
            shares = [lean.get(view) for view in (*VIEWS, LANGUAGE)]
            rows.append([arm.name, results["seed"], *sides, *shares])
    headers = (
        *("model", "seed", "Spearman(γ, degree), users", "items"),
        *(f"{view}, cold less warm" for view in (*VIEWS, LANGUAGE)),
    )
    caption = (
        "## By seed: γ of the graph, and each view's share on the quarter of the held-out pairs "
        "with items of the lowest degrees less that on the quarter of the highest"
    )
    return TableOf(caption, headers, rows)


def _shares(margins: dict[str, list[ViewMargins]]) -> TableOf:
    rows = []
    for name, of_runs in margins.items():
        for degree, row in _mean_shares(of_runs).items():
            shares = [row.get(view) for view in VIEWS]
            rows.append([name, degree, int(row["pairs"]), *shares])
    caption = (
        "## Share of each view in what lifts held-out items above the catalogue, by degree, "
        "without the bias, mean over seeds"
    )
    return TableOf(caption, ("model", "degree", "pairs", *VIEWS), rows)


def _mean_shares(of_runs: Sequence[ViewMargins]) -> dict[str, dict[str, float]]:
    """By bin and column, the mean over runs."""
    bins = [one.by_bin() for one in of_runs]
    names = list(bins[0]) if bins else []
    return {
        name: {key: float(np.mean([b[name][key] for b in bins])) for key in bins[0][name]}
        for name in names
    }


def _rankings(study: Study, found: Sequence[ArmRuns], metric: str) -> TableOf:
    """Each model against the one that is given everything."""
    plain, *others = found
    runs = {arm.name: arm.runs for arm in others}
    runs[SHUFFLED] = [
        _rank_with_shuffled_degrees(run, RunDirectory(study.home / f"shuffled-{run.path.name}"))
        for run in plain.runs
    ]
    rows: list[list[Any]] = []
    for name, theirs in runs.items():
        over = compare(theirs, plain.runs, metric) if theirs and plain.runs else None
        means = (over.a, over.b) if over else (None, None)
        rows.append([name, len(theirs), *means, *gain_and_interval(over), verdict_of(over)])
    headers = ("model", "runs", metric, ALL_TEXTS.name, "against it", "interval", "seen")
    return TableOf("## Rankings", headers, rows)


@torch.no_grad()
def _rank_with_shuffled_degrees(run: RunDirectory, to: RunDirectory) -> RunDirectory:
    """The model of a run, whose gates are told the degree of another node of their side; on one
    rank alone.
    """
    config, context = read_run(run.path)[1], DistContext.alone()
    model, cursor = load_best(config, read_inputs(run), run, context)
    operator = model.operator()
    for side in (operator.is_user, ~operator.is_user):
        rows = side.nonzero().squeeze(1)
        drawn = uniforms(stream_key(config.train.seed, "shuffle-degrees"), rows.numpy())
        operator.feature[rows] = operator.feature[rows[torch.from_numpy(np.argsort(drawn))]]
    h_NC = final_embeddings(operator, model.model, *model.states()).final
    settings, exponent = config.evaluation, cursor.norm_exponent
    ranked = evaluate_embeddings(h_NC, model.graph, "test", settings, context, exponent)
    to.create()
    write_per_user(gather_per_user(ranked, context), to)
    return to


def _gammas(arm: ArmRuns) -> TableOf:
    found = [row for run in arm.runs for row in run.read_results()["gate"]]
    rows = []
    for layer, side in sorted({(row["layer"], row["side"]) for row in found}):
        here = [row for row in found if (row["layer"], row["side"]) == (layer, side)]
        for degree, values in by_bin(here).items():
            rows.append([layer, side, degree, values["mean"], values["p10"], values["p90"]])
    headers = ("layer", "side", "degree", "γ", "p10", "p90")
    return TableOf(f"## γ of the graph by degree, {arm.name}, mean over seeds", headers, rows)


def _over_training(runs: Sequence[RunDirectory]) -> TableOf:
    """At every checkpoint that a run keeps; on one rank alone."""
    rows = []
    for run in runs:
        config = read_run(run.path)[1]
        model = ModelShard(config, read_inputs(run), DistContext.alone())
        for checkpoint in _by_epoch(run):
            model.load_for_inference(checkpoint)
            margins, gamma = margins_of(model), model.final_embeddings().gamma[0]
            users, items = gamma[: model.graph.num_users], gamma[model.graph.num_users :]
            epoch, shares = Cursor.from_info(checkpoint.info).epoch, margins.shares()
            means = float(users.mean()), float(items.mean())
            rows.append([epoch, *means, *(shares.get(view) for view in VIEWS)])
    headers = ("epoch", "γ of users", "γ of items", *VIEWS)
    return TableOf("## Over training, first seed: means over nodes, shares", headers, rows)


def _by_epoch(run: RunDirectory) -> list[Checkpoint]:
    """The last one that was validated of each epoch."""
    kept = [open_checkpoint(path) for path in candidates(run.checkpoints, "last")[0]]
    found = {Cursor.from_info(one.info).epoch: one for one in kept if one.score is not None}
    return [found[epoch] for epoch in sorted(found)]


def _points(of_runs: Sequence[ViewMargins]) -> dict[str, list[tuple[str, float, float, float]]]:
    """By view, points (bin, share, share, share) of `draw_bins`."""
    shares = _mean_shares(of_runs)
    return {view: [(name, *(row[view],) * 3) for name, row in shares.items()] for view in VIEWS}


def _sentences(leans: list[Leans], seeds: int) -> tuple[str, str]:
    """What was seen, and what follows."""
    few = "" if seeds >= MIN_SEEDS else f" (not significant: {seeds} of {MIN_SEEDS} seeds)"
    said, signs = [], {}
    for view in (LANGUAGE, "text", "content"):
        numbers = [lean.get(view, 0.0) for lean in leans]
        signs[view] = {int(np.sign(number)) for number in numbers}
        sure = "the same sign on every seed" if len(signs[view]) == 1 else "no one sign"
        said.append(f"{' '.join(f'{number:+.3f}' for number in numbers)}, {sure}")
    language, text, content = said
    answer = (
        f"share of language on cold items less that on warm ones: {language}; of the text view "
        f"alone: {text}; of the content view alone: {content}{few}."
    )
    if signs[LANGUAGE] == {1}:
        return answer, "language speaks where it is cold and the graph where it is warm, here too."
    follows = "here the share of language does not go with degree."
    if signs[LANGUAGE] == {-1}:
        follows = "here language speaks for popular items more than for cold ones."
    if signs["content"] == {1}:
        follows += (
            " What texts say by themselves, the content view, does speak for what is cold: keep "
            "model.views: all."
        )
    return answer, follows
