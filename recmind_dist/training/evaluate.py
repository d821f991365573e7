"""Evaluation of a finished run: best checkpoint, exact propagation, full catalogue, results.json
and per_user.parquet.
"""

import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recmind_dist.distributed.all_gather import rows_at_rank_0
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import StoreError
from recmind_dist.evaluation import gate_statistics
from recmind_dist.evaluation.item_shares import ItemShare, share_items
from recmind_dist.evaluation.list_details import ListDetails, describe_lists
from recmind_dist.evaluation.ranking import Evaluation, evaluate_embeddings, evaluate_popularity
from recmind_dist.graph import EdgeRows, Graph, row_bounds
from recmind_dist.inference.final_embeddings import FinalEmbeddings
from recmind_dist.inference.fold_in import reads_histories
from recmind_dist.ingest.dataset import dataset_reading
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.histories import Histories
from recmind_dist.propagation.item_means import content_view
from recmind_dist.report import RunDirectory
from recmind_dist.report.results import FOLDED
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.finished_run import load_best
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor

Evaluated = Callable[[ModelShard, Cursor, dict[str, Any]], None]
"""Takes the model that was evaluated, its checkpoint's cursor, and the results."""


def evaluate_run(
    config: RunConfig,
    inputs: RunStores,
    run: RunDirectory,
    context: DistContext,
    split: str = "test",
    then: Evaluated | None = None,
) -> dict[str, Any]:
    """Content of results.json, whose "gate" is filled on rank 0 alone; rank 0 writes the file, and
    each user's metrics beside it. Collective: every rank must call.

    On the test split rankings are measured twice: by histories to the training edge, and with the
    validation items folded in.

    Args:
        then: called on every rank when the results are written.
    """
    model, cursor = load_best(config, inputs, run, context)
    vectors = model.final_embeddings()
    found, folded = _evaluate(vectors, model, cursor, split), None
    if _has_newer_items(model.graph, split):
        folded = found
        if reads_histories(model.model):
            h_nC = model.fold_in().with_validation_items(vectors.final)
            folded = _evaluate(replace(vectors, final=h_nC), model, cursor, split)
    gate = _gate_statistics(vectors, model)
    details = describe_lists(
        found, model.graph, split, config.evaluation, context, model.rows, _items_by_text(model)
    )
    results = _results(config, model.graph, split, found, gate, folded, details) | {
        "norm_exponent": cursor.norm_exponent,
        "epoch": cursor.epoch,
    }
    users = gather_per_user(found, context, folded, details)
    if context.rank == 0:
        write_per_user(users, run)
        run.write_results(results)
    if then is not None:
        then(model, cursor, results)
    return results


def _evaluate(
    vectors: FinalEmbeddings, model: ModelShard, cursor: Cursor, split: str
) -> Evaluation:
    """Collective: every rank must call."""
    return evaluate_embeddings(
        vectors.final,
        model.graph,
        split,
        model.config.evaluation,
        model.context,
        cursor.norm_exponent,
        model.rows,
        vectors.nodes,
        penalty=model.config.evaluation.popularity_penalty,
        keep_lists=True,
    )


def _items_by_text(model: ModelShard) -> ItemShare | None:
    """This rank's items by their unit text vectors; None: the model reads no texts. Collective:
    every rank must call.
    """
    if model.text is None or model.inputs.vectors_without_texts:
        return None
    order = np.argsort(model.nodes)
    absent = model.text.rows.absent.cpu().numpy()[order]
    order = order[(model.nodes[order] >= model.graph.num_users) & ~absent]
    rows = torch.from_numpy(order).to(model.context.device)
    x_iT = torch.nn.functional.normalize(model.text.rows.text[rows].float())
    return share_items(model.nodes[order] - model.graph.num_users, x_iT, model.context)


def _gate_statistics(vectors: FinalEmbeddings, model: ModelShard) -> list[dict[str, Any]]:
    """Of all nodes, at rank 0; nothing at the others. Collective: every rank must call."""
    nodes = torch.from_numpy(vectors.nodes).to(vectors.gamma.device)
    own = torch.cat([nodes[:, None].double(), vectors.gamma.T.double()], 1)
    of_all = rows_at_rank_0(own, model.context).cpu().numpy()
    if of_all.shape[1] == 1 or not len(of_all):
        return []
    gamma = of_all[np.argsort(of_all[:, 0]), 1:].T
    return gate_statistics(gamma, model.graph.degree, model.graph.num_users)


def _has_newer_items(graph: Graph, split: str = "test") -> bool:
    """Whether users have items past the training edge that came before the split's: the same on
    every rank.
    """
    return split == "test" and graph.held_out("valid").num_edges > 0


def evaluate_popularity_run(config: RunConfig, graph: Path, run: RunDirectory) -> dict[str, Any]:
    """As `evaluate_run`, of the popularity baseline, which needs no training: on one rank alone."""
    opened = Graph.open(graph)
    found = evaluate_popularity(opened, "test", config.evaluation, DistContext.alone(), True)
    folded = found if _has_newer_items(opened) else None  # it reads no histories
    return _write_untrained(config, opened, found, run, folded)


def evaluate_text_run(
    config: RunConfig,
    graph_dir: Path,
    store: Path,
    run: RunDirectory,
    context: DistContext | None = None,
) -> dict[str, Any]:
    """As `evaluate_run`, of texts alone: items by their whitened vectors, users by the mean of
    their items', or under model.recent_decay by the mean in which newer ones count more.

    Args:
        context: one rank alone; by default on the CPU
    """
    graph, context = Graph.open(graph_dir), context or DistContext.alone()
    texts = TextStore.open(store)
    whitening = Whitening.fit(texts, config.text_components)
    operator = FullPropagation(graph, row_bounds(graph, 1), context, torch.zeros(graph.num_nodes))
    vectors = torch.zeros(graph.num_nodes, whitening.dim, device=context.device)
    items_IT = torch.from_numpy(whitening.apply("items", texts.read_all("items")))
    vectors[graph.num_users :] = items_IT.to(context.device)
    own = torch.from_numpy(operator.own_nodes).to(context.device)
    content, recent = content_view(operator, vectors[own], config.recent_decay)
    h = torch.where(operator.is_user[:, None], recent[0], content[0]) if recent else content[0]
    in_node_order, folded = h[operator.by_node], None
    test = partial(
        evaluate_embeddings,
        graph=graph,
        split="test",
        settings=config.evaluation,
        context=context,
        norm_exponent=0.0,
        penalty=config.evaluation.popularity_penalty,
    )
    found = test(in_node_order, keep_lists=True)
    if _has_newer_items(graph):
        users, items = np.arange(graph.num_users), in_node_order[graph.num_users :]
        histories = Histories.of_graph(EdgeRows.of_graph(graph), users, with_valid=True)
        h = torch.cat([histories.item_means(items, config.recent_decay or 1.0), items])
        folded = test(h)
    known = items_IT.norm(dim=1).nonzero().squeeze(1)
    unit = torch.nn.functional.normalize(items_IT[known].float()).to(context.device)
    return _write_untrained(
        config, graph, found, run, folded, share_items(known.numpy(), unit, context)
    )


def _write_untrained(
    config: RunConfig,
    graph: Graph,
    found: Evaluation,
    run: RunDirectory,
    folded: Evaluation | None,
    text: ItemShare | None = None,
) -> dict[str, Any]:
    """Results of a run that nothing was learnt for, on one rank alone."""
    alone = DistContext.alone() if text is None else text.context
    details = describe_lists(found, graph, "test", config.evaluation, alone, text=text)
    results = _results(config, graph, "test", found, [], folded, details)
    run.create()
    run.write_config(config.model_dump(mode="json"))
    write_per_user(gather_per_user(found, DistContext.alone(), folded, details), run)
    run.write_results(results)
    return results


def gather_per_user(
    found: Evaluation,
    context: DistContext,
    folded: Evaluation | None = None,
    details: ListDetails | None = None,
) -> pl.DataFrame:
    """The metrics of each user with held-out items, in node order, at rank 0; none at the others.

    Columns: user (node), degree (of the held-out item, null where there are several), recall@20, …,
    novelty@20, …, folded_recall@20, … (with the validation item in the history), items (the ranked
    list: rows of the graph's items, −1 for none).

    Collective: every rank must call.
    """
    per_user = found.per_user | (details.per_user if details else {})
    if folded is not None:
        per_user |= {FOLDED + name: folded.per_user[name] for name in folded.metrics}
    columns = torch.stack([torch.from_numpy(values) for values in per_user.values()], 1).to(
        context.device
    )
    rows = rows_at_rank_0(columns, context).cpu().numpy()
    frame = pl.DataFrame(dict(zip(per_user, rows.T, strict=True)))
    if details is not None:
        lists = rows_at_rank_0(torch.from_numpy(found.lists).to(context.device), context)
        frame = frame.with_columns(items=pl.Series(lists.cpu().numpy()).cast(pl.List(pl.Int32)))
    return frame.with_columns(
        pl.col("user").cast(pl.Int64), pl.col("degree").fill_nan(None).cast(pl.Int64)
    ).sort("user")


def write_per_user(users: pl.DataFrame, run: RunDirectory) -> None:
    """Writes per_user.parquet, whole or not at all."""
    out = io.BytesIO()
    users.write_parquet(out)
    write_sealed(run.per_user, out.getvalue())


def _results(
    config: RunConfig,
    graph: Graph,
    split: str,
    found: Evaluation,
    gate: list[dict[str, Any]],
    folded: Evaluation | None,
    details: ListDetails,
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "dataset": config.dataset.name,
        "dataset_key": graph.manifest["dataset_key"],
        "variant": config.variant,
        "seed": config.train.seed,
        "commit": _commit(),
        "split": split,
        "metrics": found.metrics,
        "strata": found.strata,
        "gate": gate,
        "lists": details.lists,
        "groups": details.groups,
        "data": what_was_read(graph),
    }
    if folded is not None:
        values["folded"] = {"metrics": folded.metrics, "strata": folded.strata}
    return values


def what_was_read(graph: Graph) -> dict[str, Any]:
    """`dataset_reading` of its data set; empty where that is no longer in the cache."""
    try:
        return dataset_reading(graph.dataset)
    except StoreError:
        return {}


def _commit() -> str | None:
    """The commit of this program's checkout; None where it is installed without one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
