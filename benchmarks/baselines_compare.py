"""Is RecMind ahead of the baselines, user by user? From stored ranks; nothing is trained.

    python benchmarks/baselines_compare.py beauty runs/accuracy/beauty/runs/recmind-seed*

RUNS are evaluated run directories of one model on the same data set. Ranking must have given them
the history that is named: `train` is what `recmind evaluate` ranks by.
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.rank_store import RankStore, users_metric
from recmind_dist.errors import DataError, RecmindError
from recmind_dist.evaluation.significance import Comparison, paired_bootstrap
from recmind_dist.experiments.comparison import read_users
from recmind_dist.report import RunDirectory
from recmind_dist.report.tables import markdown_table

METRICS = ("recall@20", "ndcg@20")
DRAW = ("ials", "sasrec")
"""How the names of models begin that differ by seed."""


def main(
    dataset: Annotated[str, typer.Argument(help="a data set of baselines.yaml")],
    runs: Annotated[list[Path], typer.Argument(help="evaluated runs, a seed each")],
    history: Annotated[str, typer.Option(help="of the baselines: train or train+valid")] = "train",
) -> None:
    """Prints gain, 95 % interval and verdict over every stored baseline of a data set."""
    store = RankStore()
    try:
        models = dict.fromkeys(
            row["model"]
            for row in store.rows()
            if (row["dataset"], row["history"]) == (dataset, history)
        )
        if not models:
            raise DataError(f"no results of {dataset} with history {history}: {store.results_file}")
        directories = [RunDirectory(run) for run in runs]
        table = [
            [
                model,
                *(_cell(compare(store, dataset, model, history, directories, m)) for m in METRICS),
            ]
            for model in models
        ]
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(markdown_table(("RecMind over", *METRICS), table))


def compare(
    store: RankStore,
    dataset: str,
    model: str,
    history: str,
    runs: list[RunDirectory],
    metric: str,
) -> Comparison:
    """Paired bootstrap of the runs (a) against a stored baseline (b) over users and seeds.

    Raises:
        DataError: the runs have other users: they are of another data set or split.
    """
    a_SU, users, _ = read_users(runs, metric)
    of_baseline, rank_SU = store.ranks(dataset, model, history)
    if not np.array_equal(users, of_baseline):
        raise DataError(f"{runs[0].path}: not the users of {dataset}: give runs of this data set")
    return paired_bootstrap(a_SU, _of_seeds(rank_SU, model, metric, len(a_SU)))


def compare_stored(
    ours: RankStore,
    own: str,
    theirs: RankStore,
    model: str,
    dataset: str,
    history: str,
    metric: str,
    resamples: int = 2000,
) -> Comparison:
    """The same of two stored models, `own` (a) against `model` (b).

    Raises:
        DataError: one of them is not stored, or they have other users.
    """
    users, rank_SU = ours.ranks(dataset, own, history)
    of_baseline, b_SU = theirs.ranks(dataset, model, history)
    if not np.array_equal(users, of_baseline):
        raise DataError(f"{dataset}: {own} and {model} have other users: they are of other splits")
    b = _of_seeds(b_SU, model, metric, len(rank_SU))
    return paired_bootstrap(users_metric(rank_SU, metric), b, resamples=resamples)


def _of_seeds(
    rank_SU: NDArray[np.int64], model: str, metric: str, seeds: int
) -> NDArray[np.float64]:
    """The users' metric. One that does not draw meets every run."""
    if len(rank_SU) == 1 and not model.startswith(DRAW):
        rank_SU = np.repeat(rank_SU, seeds, axis=0)
    return users_metric(rank_SU, metric)


def _cell(found: Comparison) -> str:
    values = f"{found.a:.4f} against {found.b:.4f}"
    if found.gain is None or found.low is None or found.high is None:
        return f"{values}, {found.verdict}"
    gain, low, high = (f"{100 * x:+.1f}" for x in (found.gain, found.low, found.high))
    return f"{values}: {gain} % ({low} … {high}), {found.verdict}"


if __name__ == "__main__":
    typer.run(main)
