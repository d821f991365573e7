"""What a model of one data set is worth on another: projection, gates, adapters and the network
that stands in for missing texts are taken over, rows of the table start anew.

A share of training is one of the epochs that the target would be trained for from nothing.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from recmind_dist.checkpoint.reader import candidates, open_checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.experiments.comparison import compare, verdict_of
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import (
    Findings,
    Study,
    TableOf,
    gain_and_interval,
    how_made,
)
from recmind_dist.experiments.item_texts import refuse_without_texts
from recmind_dist.experiments.priors import alignment_uniformity
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.experiments.view_shares import best_model
from recmind_dist.graph import Graph
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening, build_texts
from recmind_dist.text.columns import Column
from recmind_dist.text.source import encoder_key
from recmind_dist.training.evaluate import gather_per_user, write_per_user
from recmind_dist.training.finished_run import read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.state import Cursor

CLAIM = "what is learnt of language on one domain serves another."
SHARES = (0.1, 0.3)
"""Of the epochs of a training from nothing."""
SCRATCH, NOTHING, ALONE = "from scratch", "zero-shot", "texts alone"
_FREE_OF_MODEL = ("gate",)


def transfer(study: Study) -> Findings:
    """Trains the target from scratch and from the source, on shares of the epochs.

    Raises:
        ConfigError: no source, or one of another model or encoder.
        DataError: the data set has no texts.
    """
    if study.source is None:
        raise ConfigError("transfer: needs the run of another data set: give --source RUN")
    source = PreviousRun.open(study.source)
    config, graph = study.graph()
    if config.dataset.name == source.config.dataset.name:
        raise ConfigError(
            f"dataset.name: {config.dataset.name}, as in {study.source}: transfer is between two "
            "data sets, give each a name of its own"
        )
    refuse_without_texts(graph, config)
    refuse_other_model(source, config)
    found = {arm.name: arm for arm in study.run(_arms(source, config.train.epochs))}
    runs = {name: arm.runs for name, arm in found.items()}
    shortest = runs[_from(SHARES[0])]
    runs[NOTHING] = [
        _rank_untrained(run, RunDirectory(study.home / f"zero-shot-{run.path.name}"))
        for run in shortest
    ]
    metric = config.evaluation.metric
    rankings, gains = _rankings(runs, metric)
    tables = [rankings, _views(found, shortest), _distances(source, shortest, config, graph)]
    answer, follows = _sentences(runs, metric)
    notes = how_made(list(found.values()), study.seeds)
    notes.append(f"Source: {source.config.dataset.name}, {source.config.train.epochs} epochs.")
    title = f"From {source.config.dataset.name} to {config.dataset.name}"
    data = config.dataset.name
    findings = Findings("transfer", title, CLAIM, answer, tables, notes, follows, data)
    bars = {"all items": gains}
    findings.write(study.home, lambda: draw_bars(bars, title, f"{metric} over scratch, %"))
    return findings


def refuse_other_model(source: PreviousRun, target: RunConfig) -> None:
    """Raises ConfigError, which names the key: what the source has learnt does not fit."""
    theirs, ours = (config.model.model_dump() for config in (source.config, target))
    for key, value in ours.items():
        if key not in _FREE_OF_MODEL and theirs.get(key) != value:
            raise ConfigError(
                f"model.{key}: {value}, and {theirs.get(key)} in {source.directory.path}: set it "
                f"as there: model.{key}={theirs.get(key)}"
            )
    if encoder_key(source.config.text) != encoder_key(target.text):
        raise ConfigError(
            f"text: {source.directory.path} has vectors of another encoder, pooling, prompt or "
            "number of tokens: set text.model and what else is in its config.yaml as there"
        )


def _arms(source: PreviousRun, epochs: int) -> list[Arm]:
    arms = [Arm(SCRATCH), Arm(ALONE, "text_only")]
    start = (f"update.of='{source.directory.path.absolute()}'", "update.rows=anew")
    for share in SHARES:
        few = (f"train.epochs={max(round(share * epochs), 1)}", "checkpoint.keep_last=1000")
        scratch = Arm(f"{SCRATCH}, {_percent(share)}", "recmind", few)
        moved = Arm(_from(share), "recmind", (*few, *start, "train.warmup_epochs=0"))
        arms += [scratch, moved]
    return arms


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _from(share: float) -> str:
    return f"from the source, {_percent(share)}"


def _rankings(
    runs: dict[str, list[RunDirectory]], metric: str
) -> tuple[TableOf, dict[str, tuple[float | None, float | None, float | None]]]:
    scratch = runs[SCRATCH]
    rows: list[list[Any]] = []
    gains = {}
    for name, theirs in runs.items():
        over = compare(theirs, scratch, metric) if theirs and scratch else None
        mean = over.a if over else None
        if name == SCRATCH:
            rows.append([name, len(theirs), mean, None, None, ""])
            continue
        rows.append([name, len(theirs), mean, *gain_and_interval(over), verdict_of(over)])
        ends = (over.gain, over.low, over.high) if over else (None, None, None)
        gain, low, high = (None if value is None else 100 * value for value in ends)
        gains[name] = (gain, low, high)
    headers = ("model", "runs", metric, f"against {SCRATCH}", "interval", "seen")
    caption = "## Rankings; a share is of the epochs of a training from nothing"
    return TableOf(caption, headers, rows), gains


def _rank_untrained(run: RunDirectory, to: RunDirectory) -> RunDirectory:
    """Rankings by the model that a run began with, on one rank alone."""
    config, context = read_run(run.path)[1], DistContext.alone()
    model = _at_start(run)
    vectors, settings = model.final_embeddings(), config.evaluation
    exponent = settings.norm_exponent or 0.0
    ranked = evaluate_embeddings(vectors.final, model.graph, "test", settings, context, exponent)
    to.create()
    write_per_user(gather_per_user(ranked, context), to)
    return to


def _at_start(run: RunDirectory) -> ModelShard:
    """The model on one rank alone. Raises CheckpointError: no checkpoint of its start."""
    kept = [open_checkpoint(path) for path in candidates(run.checkpoints, "last")[0]]
    first = min(kept, key=lambda one: Cursor.from_info(one.info).steps_done)
    model = ModelShard(read_run(run.path)[1], read_inputs(run), DistContext.alone())
    model.load_for_inference(first)
    return model


def _views(found: dict[str, ArmRuns], shortest: Sequence[RunDirectory]) -> TableOf:
    """Alignment and uniformity of the first seed's text views."""
    rows = []
    if shortest:
        rows.append([NOTHING, *alignment_uniformity(_at_start(shortest[0]))])
    for name, arm in found.items():
        if arm.runs and arm.config.trains:
            rows.append([name, *alignment_uniformity(best_model(arm.runs[0]))])
    caption = "## Text views of training pairs: alignment and uniformity (arXiv:2005.10242)"
    return TableOf(caption, ("model", "alignment", "uniformity"), rows)


def _distances(
    source: PreviousRun, runs: Sequence[RunDirectory], config: RunConfig, graph: Graph
) -> TableOf:
    """How far the target's texts are from the source's."""
    ours, theirs = (
        _words(build_texts(one, settings, users=False).items)
        for one, settings in ((graph, config.text), (source.graph, source.config.text))
    )
    rows: list[list[Any]] = [
        ["words of the target that the source has", len(ours & theirs) / max(len(ours), 1)],
        ["Jaccard index of the words", len(ours & theirs) / max(len(ours | theirs), 1)],
    ]
    if runs and source.inputs.text and source.inputs.whitening:
        whitening = Whitening.load(source.inputs.whitening)
        moved = read_inputs(runs[0]).text
        assert moved is not None, "refuse_without_texts"
        a, b = (
            whitening.apply("items", TextStore.open(path).read_all("items"))
            for path in (source.inputs.text, moved)
        )
        a, b = (x[np.abs(x).sum(1) > 0] for x in (a, b))
        apart = float(np.linalg.norm(a.mean(0) - b.mean(0)))
        rows.append(["distance of mean vectors, where texts are 1 from their mean", apart])
        rows.append(["mean square of the target's vectors, whose source's is 1", _square(b)])
    return TableOf("## Distance of the texts", ("measure", "value"), rows)


def _square(x: Any) -> float:
    return float(np.square(x).sum(1).mean())


def _words(texts: Column) -> set[str]:
    return {word for text in texts if text for word in re.findall(r"\w+", text.lower())}


def _sentences(runs: dict[str, list[RunDirectory]], metric: str) -> tuple[str, str]:
    """What was seen, and what follows."""
    seen, better = [], []
    pairs = [(NOTHING, ALONE)] + [(_from(s), f"{SCRATCH}, {_percent(s)}") for s in SHARES]
    for a, b in pairs:
        over = compare(runs[a], runs[b], metric) if runs[a] and runs[b] else None
        seen.append(f"{a} against {b}: {verdict_of(over)}")
        if over is not None and over.significant and over.a > over.b:
            better.append(a)
    trained = [name for name in better if name != NOTHING]
    follows = (
        "train from nothing: the source's gates and projection bring no more than training does."
    )
    if trained:
        follows = f"begin from the source where training is to be short: {', '.join(trained)}."
    if NOTHING in better:
        follows = (
            f"where nothing can be trained the source ranks better than texts alone; else {follows}"
        )
    return f"{'; '.join(seen)}.", follows
