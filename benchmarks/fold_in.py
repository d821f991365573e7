"""What is a user's newest item worth at ranking time, without training?

    python benchmarks/fold_in.py RUN    # a trained run on a split with validation items

Ranks the test items of a run: by histories to the training edge; with the validation item folded
in; the same users as new ones, whom the run has no row for; and propagated anew over a graph that
has everybody's validation items, in which items move too.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.measure import RESULTS, Report, Spread
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import RecmindError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.features.text_features import degree_feature
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.graph.csr import both_directions, edge_order
from recmind_dist.inference.final_embeddings import final_embeddings
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.histories import Histories
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard

METRICS = ("recall@20", "ndcg@20")


def main(
    run_dir: Annotated[Path, typer.Argument(help="a trained run")],
    results: Annotated[Path, typer.Option(help="folder of fold_in.json")] = RESULTS,
) -> None:
    """Ranks the whole catalogue for every user with a test item, six times."""
    run, config = read_run(run_dir)
    context = DistContext.alone()
    try:
        model, cursor = load_best(config, read_inputs(run), run, context)
        found = rankings(model)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    report = Report("fold_in", quick=False)
    for name, h_ND in found.items():
        metrics = evaluate_embeddings(
            h_ND, model.graph, "test", config.evaluation, context, cursor.norm_exponent
        ).metrics
        for metric in METRICS:
            report.add(name, config.dataset.name, metric, Spread((metrics[metric],)))
            report.figures[f"{name}, {metric}"] = metrics[metric]
    report.note(f"variant {config.variant}, seed {config.train.seed}, one run")
    report.publish(results)


def rankings(model: ModelShard) -> dict[str, Tensor]:
    """Final vectors in node order, by what the users' histories are and how they count."""
    graph = model.graph
    trained, fold_in = model.final_embeddings().final, model.fold_in()
    folded = fold_in.with_validation_items(trained)
    rows, users = EdgeRows.of_graph(graph), np.arange(graph.num_users)
    items = trained[graph.num_users :]
    before, after = (
        torch.cat([fold_in(Histories.of_graph(rows, users, with_valid)), items])
        for with_valid in (False, True)
    )
    anew = propagated_anew(model)
    return {
        "to the training edge": trained,
        "to the training edge, as new users": before,
        "folded in": folded,
        "folded in, as new users": after,
        "users and items propagated anew": anew,
        "folded in, items propagated anew": torch.cat(
            [folded[: graph.num_users], anew[graph.num_users :]]
        ),
    }


def propagated_anew(model: ModelShard) -> Tensor:
    """Final vectors over the graph with validation items, by rows and gates as trained."""
    graph = with_validation_edges(model.graph)
    degree = torch.from_numpy(np.array(graph.degree))
    feature = degree_feature(degree, int(degree.max()))
    operator = FullPropagation(graph, model.bounds, model.context, feature)
    return final_embeddings(operator, model.model, *model.states()).final


def with_validation_edges(graph: Graph) -> Graph:
    """The graph whose training edges are those of training and of validation, which are newer."""
    valid, users = graph.held_out("valid"), np.arange(graph.num_users)
    newer = np.repeat(users, np.diff(valid.indptr))
    user = np.r_[np.repeat(users, graph.degree[: graph.num_users]), newer]
    item = np.r_[graph.indices[: graph.num_edges], valid.indices].astype(np.int64) - len(users)
    time_rank = np.r_[graph.time_rank, graph.degree[newer]].astype(np.int32)
    order = edge_order(user, item, graph.num_users, graph.num_items)
    indptr, indices = both_directions(user[order], item[order], graph.num_users, graph.num_items)
    return replace(
        graph,
        manifest={**graph.manifest, "num_edges": len(order)},
        indptr=indptr,
        indices=indices,
        time_rank=time_rank[order],
    )


if __name__ == "__main__":
    typer.run(main)
