"""How good are strong models that are not ours? EASE, neighbours, iALS, SASRec, popularity.

    python benchmarks/baselines.py beauty toys                # all models of baselines.yaml
    python benchmarks/baselines.py beauty --only ease         # one of them
    python benchmarks/baselines.py                            # the page baselines.md, from results

Data sets are prepared, split and evaluated by the package, with the configs of RecMind's runs:
leave-one-out by time, full catalogue. Every model learns from the training edges alone. It is
tested with two histories: `train`, up to the last training edge, and `train+valid`, where the
validation item belongs to the user's row or sequence when items are ranked. Settings are chosen by
NDCG@20 on validation, with the first history; every setting of a grid is one look.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer

from benchmarks.baseline_models import EVALUATION, MODELS, Baseline, Data, Settings, say
from benchmarks.baselines_page import write_page, write_trials
from benchmarks.measure import commit
from benchmarks.rank_store import RankStore
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.evaluation.ranking import Evaluation
from recmind_dist.types import IntArray

PLAN = Path(__file__).with_suffix(".yaml")


def main(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="data sets of baselines.yaml; none: write the page")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="only these models")] = None,
    seed: Annotated[int, typer.Option(help="of models that draw")] = 0,
) -> None:
    """Chooses, tests and stores baselines of data sets, one after another, then writes the page."""
    torch.set_num_threads(1)
    store = RankStore()
    running = commit()  # files may change while this runs
    try:
        plan = load_yaml(PLAN).values
        for name in datasets or []:
            if name not in plan["datasets"]:
                raise ConfigError(f"{PLAN}: no data set {name!r}: {', '.join(plan['datasets'])}")
            data = Data.prepare(name, plan["datasets"][name])
            for model in only or plan["models"]:
                if model not in plan["models"]:
                    raise ConfigError(f"{PLAN}: no model {model!r}: {', '.join(plan['models'])}")
                grid = plan["models"][model]
                run_model(data, model, grid.get(data.clock, grid), seed, running, store)
        write_page(store)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def run_model(
    data: Data,
    name: str,
    grid: dict[str, list[Any]],
    seed: int,
    running: str | None,
    store: RankStore,
) -> None:
    """Validates every setting of a grid, tests the chosen ones and stores both."""
    with tempfile.TemporaryDirectory() as folder:
        model = MODELS[name](data, Path(folder), seed)
        trials = [_validated(data, name, model, settings) for settings in points(grid)]
        if len(trials) > 1:
            write_trials(data.name, name, trials)
        for row, chosen in chosen_of(name, trials):
            looks = len(chosen)
            best = max(chosen, key=lambda trial: trial["validation"])  # the first of equal ones
            for history in ("train", "train+valid"):
                start = time.perf_counter()
                histories = data.train if history == "train" else data.with_validation
                found = data.evaluate(model.scorer(best["settings"], histories), "test")
                result = {"dataset": data.name, "model": row, "history": history, "seed": seed}
                result |= {"looks": looks, **best, "commit": running}
                result |= {"users": len(found.per_user["user"]), **_metrics(found)}
                store.put(result, *_ranks(found))
                say(
                    f"{data.name}, {row}, {history}: recall@20 {result['recall@20']:.4f}, ndcg@20 "
                    f"{result['ndcg@20']:.4f}; {best['settings']}, {looks} looks, tested in "
                    f"{time.perf_counter() - start:.0f} s"
                )


def points(grid: dict[str, list[Any]]) -> Iterator[Settings]:
    """All settings of a grid; the last key varies fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def chosen_of(name: str, trials: list[Settings]) -> Iterator[tuple[str, list[Settings]]]:
    """The rows that a model's trials make, with the trials that each is chosen from.

    A model with and without decay is two rows: without it, and with it as <name>_recent.
    """
    decays = [trial["settings"].get("decay", 1) for trial in trials]
    plain = [trial for trial, decay in zip(trials, decays, strict=True) if decay == 1]
    recent = [trial for trial, decay in zip(trials, decays, strict=True) if decay != 1]
    if plain and recent:
        yield name, plain
        yield f"{name}_recent", recent
    else:
        yield name, trials


def _validated(data: Data, name: str, model: Baseline, settings: Settings) -> Settings:
    start = time.perf_counter()
    found = data.evaluate(model.scorer(settings, data.train), "valid")
    trial = {
        "settings": settings,
        "validation": found.metrics[EVALUATION.metric],
        "seconds": time.perf_counter() - start,
    }
    say(f"{data.name}, {name}, {settings}: {trial['validation']:.4f}, {trial['seconds']:.0f} s")
    return trial


def _metrics(found: Evaluation) -> dict[str, float]:
    return {name: found.metrics[name] for name in ("recall@20", "ndcg@20", "recall@40", "ndcg@40")}


def _ranks(found: Evaluation) -> tuple[IntArray, IntArray]:
    """Users, and the rank of the one held-out item of each: the reciprocal of MRR@40."""
    assert not np.isnan(found.per_user["degree"]).any(), "a user has several held-out items"
    mrr = found.per_user["mrr@40"]
    rank = np.divide(1.0, mrr, out=np.zeros_like(mrr), where=mrr > 0)
    return found.per_user["user"].astype(np.int64), np.rint(rank).astype(np.int64)


if __name__ == "__main__":
    typer.run(main)
