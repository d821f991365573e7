"""Which language model to take: encoders and prompts, frozen and adapted by the warm-up, compared
by what their vectors are like and by what RecMind makes of them.

Legend: I items, T text dims, D embedding dims.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.evaluation.degree_bins import COLD_MAX
from recmind_dist.experiments.comparison import compare, spread, verdict_of
from recmind_dist.experiments.figures import Curve, draw_curves
from recmind_dist.experiments.findings import (
    Findings,
    Study,
    TableOf,
    gain_and_interval,
    how_made,
)
from recmind_dist.experiments.item_texts import refuse_without_texts
from recmind_dist.experiments.runs import Arm, ArmRuns
from recmind_dist.experiments.view_shares import best_model
from recmind_dist.export.write_bundle import columns_of_view
from recmind_dist.graph import Graph
from recmind_dist.report import read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextEncoder, TextStore, build_texts
from recmind_dist.text.attention import CAUSAL
from recmind_dist.text.columns import take
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import word_fields
from recmind_dist.training.finished_run import read_inputs
from recmind_dist.training.model_shard import ModelShard

CLAIM = "a prior from an instruction-tuned language model, adapted by alignment, ranks better."
PROMPT = 'This item: "{text}" means in one word:'
ALIGNED = ("alignment.weight=0.02", "train.warmup_epochs=1")
"""Of all models here, so that adapters are all that a frozen and an adapted one differ in."""
ADAPTED = "text.lora={r: 8, last_layers: 2, texts_per_step: 16}"
NEIGHBOURS = 10
TIMED_TEXTS = 64


def priors(study: Study) -> Findings:
    """Trains RecMind on the vectors of each encoder, and ranks by each one's texts alone.

    Raises:
        DataError: the data set has no texts.
    """
    config, graph = study.graph()
    refuse_without_texts(graph, config)
    arms = _arms([Path(config.text.model), *study.encoders])
    found = study.run(arms)
    alone = study.run([_text_only(arm) for arm in arms if ADAPTED not in arm.overrides])
    metric = config.evaluation.metric
    tables = [
        _rankings(found, alone, metric),
        _vectors(found, graph),
    ]
    first, *others = found
    verdicts = [
        f"{arm.name} {verdict_of(compare(arm.runs, first.runs, metric))}"
        for arm in others
        if arm.runs and first.runs
    ]
    answer = f"against {first.name}, by {metric}: {'; '.join(verdicts)}."
    best = [
        arm.name
        for arm in others
        if (over := compare(arm.runs, first.runs, metric)) and over.significant and over.a > over.b
    ]
    follows = (
        f"take {' or '.join(best)} here." if best else f"no prior here is better than {first.name}."
    )
    notes = [*how_made(found, study.seeds), f"All with {' '.join(ALIGNED)}."]
    title = "Which language model to take"
    data = config.dataset.name
    findings = Findings("priors", title, CLAIM, answer, tables, notes, follows, data)
    curves = {arm.name: curve for arm in found if (curve := _losses(arm))}
    findings.write(study.home, lambda: draw_curves(curves, title, "joint epoch", "training loss"))
    return findings


def _arms(encoders: Sequence[Path]) -> list[Arm]:
    """Each encoder bare, a decoder with a prompt too, and all of these adapted."""
    arms = []
    for path in encoders:
        model: tuple[str, ...] = (f"text.model='{path}'", "text.model_sha256=null")
        ways: dict[str, tuple[str, ...]] = {path.name: (*model, "text.prompt=null")}
        if _is_decoder(path):
            model = (*model, "text.pooling=last")
            ways = {
                f"{path.name}, prompt": (*model, f"text.prompt='{PROMPT}'"),
                f"{path.name}, bare": (*model, "text.prompt=null"),
            }
        for name, way in ways.items():
            words = way + ALIGNED
            arms.append(Arm(name, "recmind", words))
            arms.append(Arm(f"{name}, adapted", "recmind", (*words, ADAPTED)))
    return arms


def _is_decoder(path: Path) -> bool:
    """Whether a directory holds a model whose tokens see only earlier ones."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path, local_files_only=True).model_type in CAUSAL


def _text_only(arm: Arm) -> Arm:
    words = tuple(word for word in arm.overrides if word.startswith("text."))
    return Arm(f"{arm.name}, texts alone", "text_only", words)


def _rankings(found: Sequence[ArmRuns], alone: Sequence[ArmRuns], metric: str) -> TableOf:
    recall = f"recall@{metric.partition('@')[2]}"
    rows = []
    for arm in [*found, *alone]:
        over = compare(arm.runs, found[0].runs, metric) if arm.runs and found[0].runs else None
        values = [spread(arm.runs, name)[0] for name in (metric, recall)]
        values.append(spread(arm.runs, recall, "cold")[0])
        against = (*gain_and_interval(over), verdict_of(over)) if arm is not found[0] else ("",) * 3
        rows.append([arm.name, len(arm.runs), *values, *against])
    cold_title = f"{recall}, degree ≤ {COLD_MAX}"
    means = (metric, recall, cold_title)
    headers = ("vectors", "runs", *means, "against the first", "interval", "seen")
    return TableOf("## Rankings", headers, rows)


def _vectors(found: Sequence[ArmRuns], graph: Graph) -> TableOf:
    """Of the first seed's vectors and text views."""
    categories, rows = _categories(graph, found[0].config), []
    for arm in found:
        if not arm.runs:
            continue
        config, inputs = arm.config, read_inputs(arm.runs[0])
        assert inputs.text is not None, "refuse_without_texts"
        vectors = torch.from_numpy(TextStore.open(inputs.text).read_all("items")).float()
        near, by_chance = coherence(vectors, categories)
        alignment, uniformity = alignment_uniformity(best_model(arm.runs[0]))
        speed = _texts_a_second(graph, config) if config.text.lora is None else None
        losses = [point[1] for point in _losses(arm)]
        ends = (losses[0], losses[-1]) if losses else (None, None)
        rows.append([arm.name, speed, near, by_chance, alignment, uniformity, *ends])
    headers = (
        *("vectors", "texts/s", f"coherence of {NEIGHBOURS} nearest", "of any two"),
        *("alignment", "uniformity", "first loss", "last loss"),
    )
    caption = (
        "## Vectors; texts/s on one thread; coherence: mean share of common categories (Jaccard); "
        "alignment and uniformity of the text views of training pairs (arXiv:2005.10242)"
    )
    return TableOf(caption, headers, rows)


def coherence(vectors_IT: Tensor, categories: Sequence[set[str]]) -> tuple[float | None, float]:
    """Mean Jaccard index of the categories of an item and of its nearest by cosine, and of any two.
    Items without a vector or category do not count; None where fewer than two are left.
    """
    has = [k for k, row in enumerate(vectors_IT) if categories[k] and not row.isnan().any()]
    if len(has) < 2:
        return None, 0.0
    centred = vectors_IT[has] - vectors_IT[has].mean(0)
    unit = functional.normalize(centred, dim=1)
    names = sorted(set().union(*(categories[k] for k in has)))
    column = {name: at for at, name in enumerate(names)}
    marks = torch.zeros(len(has), len(names))
    for row, k in enumerate(has):
        marks[row, [column[name] for name in categories[k]]] = 1.0
    near, any_two, count = 0.0, 0.0, min(NEIGHBOURS, len(has) - 1)
    for first in range(0, len(has), 1024):
        cosine, ours = unit[first : first + 1024] @ unit.T, marks[first : first + 1024]
        itself = torch.arange(len(ours)), torch.arange(first, first + len(ours))
        cosine[itself] = -torch.inf
        common = ours @ marks.T
        jaccard = common / (ours.sum(1)[:, None] + marks.sum(1) - common)
        near += float(jaccard.gather(1, cosine.topk(count).indices).sum())
        any_two += float(jaccard.sum() - jaccard[itself].sum())
    return near / (len(has) * count), any_two / (len(has) * (len(has) - 1))


def _categories(graph: Graph, config: RunConfig) -> list[set[str]]:
    """By item, the parts of its last field that is no title; empty without one."""
    items = graph.items_frame()
    template, fields = config.text.item_template, word_fields([items])
    named = Template.parse(template).fields if template else fields
    if len(named) < 2:
        return [set() for _ in range(items.height)]
    values = items.get_column(named[-1]).to_list()
    return [set(value.split(", ")) if value else set() for value in values]


@torch.no_grad()
def alignment_uniformity(model: ModelShard) -> tuple[float, float]:
    """E‖u − i‖² over training pairs, and log E exp(−2 ‖i − j‖²) over items, of text views at unit
    length; on one rank alone.
    """
    graph, h_NC = model.graph, model.final_embeddings().final
    unit = functional.normalize(h_NC[:, columns_of_view(model, "text")], dim=1)
    user = np.repeat(np.arange(graph.num_users), np.diff(graph.indptr[: graph.num_users + 1]))
    item = torch.from_numpy(np.asarray(graph.indices[: graph.num_edges], np.int64))
    alignment = (unit[torch.from_numpy(user)] - unit[item]).square().sum(1).mean()
    items = unit[graph.num_users :]
    items = items[torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:4096]]
    return float(alignment), float(torch.pdist(items).square().mul(-2).exp().mean().log())


def _texts_a_second(graph: Graph, config: RunConfig) -> float:
    """On one thread of the CPU, of item texts."""
    texts = build_texts(graph, config.text, users=False).items
    step = max(len(texts) // TIMED_TEXTS, 1)
    some = [text for text in take(texts, np.arange(0, len(texts), step)) if text]
    encoder, threads = TextEncoder.load(config.text), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoder.encode(some[:8], config.text.max_tokens)
        start = time.perf_counter()
        encoder.encode(some, config.text.max_tokens)
        return len(some) / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def _losses(arm: ArmRuns) -> Curve:
    """(epoch, mean over seeds, standard deviation) of the joint phase."""
    by_epoch: dict[int, list[float]] = {}
    for run in arm.runs:
        for record in read_metrics(run.metrics, "epoch"):
            if record["phase"] == "joint" and record["loss"] is not None:
                by_epoch.setdefault(int(record["epoch"]), []).append(float(record["loss"]))
    return [(epoch, float(np.mean(v)), float(np.std(v))) for epoch, v in sorted(by_epoch.items())]
