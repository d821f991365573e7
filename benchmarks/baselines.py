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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer
from scipy.sparse import save_npz

from benchmarks.baselines_page import write_page, write_trials
from benchmarks.contenders.histories import Histories, times_of
from benchmarks.contenders.item_models import (
    cosine_similarity,
    ease_weights,
    keep_nearest,
    popularity_at,
    popularity_lately,
)
from benchmarks.contenders.process import ContenderProcess
from benchmarks.contenders.ranking import ScoreUsers, rank_by_scores
from benchmarks.environments import IMPLICIT, RECBOLE
from benchmarks.measure import commit
from benchmarks.rank_store import RankStore
from recmind_dist.config.yaml import load_yaml
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.evaluation.ranking import Evaluation, evaluate_ranking
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.graph import Graph
from recmind_dist.ingest import ingest_dataset
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening
from recmind_dist.types import FloatArray, IntArray

PLAN = Path(__file__).with_suffix(".yaml")
EVALUATION = EvaluationSettings()  # at 20 and 40, chosen by NDCG@20
Settings = dict[str, Any]


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


@dataclass(frozen=True)
class Data:
    """A data set with its two histories.

    Attributes:
        clock: "seconds" where the log has them, "order" where it has each user's order alone.
    """

    name: str
    clock: str
    config: RunConfig
    graph: Graph
    dataset: Path

    @staticmethod
    def prepare(name: str, plan: Settings) -> "Data":
        """Ingests and splits, unless the cache has it."""
        overrides = [*plan.get("overrides", []), f"run_dir=runs/baselines/{name}"]
        config = load_run_config(Path(plan["config"]), [*overrides, "text.num_actors=1"])
        graph = Graph.open(Pipeline(config, _say).prepare())
        dataset = ingest_dataset(config.dataset, config.cache_dir)
        return Data(name, plan["clock"], config, graph, dataset)

    @cached_property
    def train(self) -> Histories:
        """Up to the last training edge."""
        return Histories.of_graph(self.graph)

    @cached_property
    def with_validation(self) -> Histories:
        """The same and the validation items."""
        return Histories.of_graph(self.graph, with_validation=True)

    def evaluate(self, score_users: ScoreUsers, split: str) -> Evaluation:
        """Ranks the whole catalogue for all users."""
        k = max(EVALUATION.ks)
        rank_users = rank_by_scores(score_users, k)
        return evaluate_ranking(rank_users, self.graph, split, EVALUATION, DistContext.alone())


class Baseline(Protocol):
    """A model of one data set. Learns from training edges when settings are first seen."""

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """Scores of users whose row or sequence is as in `histories`."""


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
                _say(
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
    _say(f"{data.name}, {name}, {settings}: {trial['validation']:.4f}, {trial['seconds']:.0f} s")
    return trial


class Popularity:
    """Training degree, the same for all users."""

    def __init__(self, data: Data, folder: Path, seed: int) -> None:
        self.degree = np.asarray(data.graph.degree[data.graph.num_users :], np.float32)

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """As Baseline has it."""
        return lambda users: np.tile(self.degree, (len(users), 1))


class PopularityLately:
    """Popularity in which newer interactions count more."""

    def __init__(self, data: Data, folder: Path, seed: int) -> None:
        self.data = data

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """As Baseline has it. With seconds, at the time of the last entry of a user's history."""
        train, num_items = self.data.train, self.data.graph.num_items
        if self.data.clock == "order":
            scores = popularity_lately(train.items, train.age, settings["decay"], num_items)
            return lambda users: np.tile(scores, (len(users), 1))
        times = times_of(self.data.graph, self.data.dataset, train)
        own = times_of(self.data.graph, self.data.dataset, histories)
        at = own[np.maximum(histories.indptr[1:] - 1, 0)]
        days = settings["half_life_days"]
        by_user = popularity_at(train.items, times, at, days, num_items)
        return lambda users: by_user[users]


class ItemToItem:
    """Scores are a user's row times item-item weights, dense ones kept in files."""

    def __init__(self, data: Data, folder: Path, seed: int) -> None:
        self.x, self.folder = data.train.rows(), folder
        self.made: tuple[Settings, Any] = ({}, None)

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """As Baseline has it."""
        rows = histories.rows(settings["decay"])
        weights = self._weights({k: v for k, v in settings.items() if k != "decay"})

        def score(users: IntArray) -> np.ndarray:
            scores = rows[users] @ weights
            return scores if isinstance(scores, np.ndarray) else scores.toarray()

        return score

    def _weights(self, settings: Settings) -> Any:
        if self.made[0] != settings:
            self.made = ({}, None)  # two would need twice the memory
            self.made = (settings, self._kept(settings))
        return self.made[1]

    def _kept(self, settings: Settings) -> Any:
        file = self.folder / ("-".join(f"{k}{v}" for k, v in settings.items()) + ".npy")
        if file.is_file():
            return np.load(file, mmap_mode="r")
        weights = self.fit(settings)
        if isinstance(weights, np.ndarray):
            np.save(file, weights)
        return weights

    def fit(self, settings: Settings) -> Any:
        """The weights, dense or sparse. Shape: [I, I]."""
        raise NotImplementedError


class Ease(ItemToItem):
    """EASE."""

    def fit(self, settings: Settings) -> Any:
        """As ItemToItem has it."""
        return ease_weights(self.x, settings["l2"])


class ItemKnn(ItemToItem):
    """Nearest items by cosine of their users, with shrinkage."""

    def fit(self, settings: Settings) -> Any:
        """As ItemToItem has it."""
        return keep_nearest(cosine_similarity(self.x, settings["shrink"]), settings["k"]).tocsr()


class Ials:
    """implicit's iALS; users' vectors are solved anew for each history."""

    def __init__(self, data: Data, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        save_npz(folder / "train.npz", data.train.rows())
        self.process = ContenderProcess("run_ials.py", 1, folder, python=IMPLICIT.python())
        self.fitted: Settings = {}

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """As Baseline has it."""
        of_fit = {k: v for k, v in settings.items() if k != "decay"}
        if self.fitted != of_fit:
            self.process.ask("fit", **of_fit, seed=self.seed)
            self.fitted = of_fit
        save_npz(self.folder / "rows.npz", histories.rows(settings["decay"]))
        self.process.ask("users", rows="rows.npz", alpha=settings["alpha"])
        return _inner_product(*(np.load(self.folder / f"{s}.npy") for s in ("users", "items")))


class Sasrec:
    """RecBole's SASRec; the epoch is chosen on validation, too.

    Each of the settings is trained once: until validation has not improved for `patience` epochs.
    """

    text = False

    def __init__(self, data: Data, folder: Path, seed: int) -> None:
        self.data, self.folder, self.seed = data, folder, seed
        self._save("train", data.train)
        self._save("train+valid", data.with_validation)
        if self.text:
            np.save(folder / "texts.npy", _padded_texts(data))
        python = RECBOLE.python()
        self.process = ContenderProcess("run_sasrec.py", 1, folder, python=python)
        self.found: dict[str, dict[str, Any]] = {}

    def scorer(self, settings: Settings, histories: Histories) -> ScoreUsers:
        """As Baseline has it. Vectors for both histories are made when the model is trained."""
        key = str(settings)
        if key not in self.found:
            self.found[key] = self._train(settings)
        name = "train" if histories is self.data.train else "train+valid"
        return _inner_product(self.found[key][name], self.found[key]["items"])

    def _train(self, settings: Settings) -> dict[str, Any]:
        hyper = {k: v for k, v in settings.items() if k not in ("epochs", "patience", "every")}
        self.process.ask("start", **hyper, text=self.text, seed=self.seed)
        best, best_epoch = -1.0, 0
        for epoch in range(1, settings["epochs"] + 1):
            done = self.process.ask("epoch")
            if epoch % settings["every"] and epoch < settings["epochs"]:
                continue
            vectors = self._vectors("train")
            score = self.data.evaluate(_inner_product(*vectors), "valid").metrics["ndcg@20"]
            _say(f"epoch {epoch}: loss {done['loss']:.3f}, {done['seconds']:.0f} s, {score:.4f}")
            if score > best:
                best, best_epoch = score, epoch
                self.process.ask("keep")
            elif epoch - best_epoch >= settings["patience"]:
                break
        self.process.ask("restore")
        found = {name: self._vectors(name)[0] for name in ("train", "train+valid")}
        return {**found, "items": self._vectors("train")[1]}

    def _vectors(self, history: str) -> tuple[FloatArray, FloatArray]:
        self.process.ask("vectors", histories=f"{history}.npz")
        return np.load(self.folder / "users.npy"), np.load(self.folder / "items.npy")

    def _save(self, name: str, histories: Histories) -> None:
        sizes = {"indptr": histories.indptr, "num_items": histories.num_items}
        np.savez(self.folder / f"{name}.npz", items=histories.items, **sizes)


class TextSasrec(Sasrec):
    """The same with the text vectors that RecMind has, whitened, mapped linearly and added."""

    text = True


MODELS: dict[str, Callable[[Data, Path, int], Baseline]] = {
    "popularity": Popularity,
    "popularity_lately": PopularityLately,
    "item_knn": ItemKnn,
    "ease": Ease,
    "ials": Ials,
    "sasrec": Sasrec,
    "sasrec_text": TextSasrec,
}


def _inner_product(h_users: FloatArray, h_items: FloatArray) -> ScoreUsers:
    return lambda users: h_users[users] @ h_items.T


def _padded_texts(data: Data) -> FloatArray:
    """The config's text vectors of all items, after a row for the padding. Shape: [I + 1, T]."""
    pipeline = Pipeline(data.config, _say)
    report = pipeline.embed()
    assert report is not None, "the config's model reads no text"
    store = TextStore.open(report.path)
    vectors = Whitening.fit(store).apply("items", store.read_all("items"))
    return np.pad(vectors, ((1, 0), (0, 0)))


def _metrics(found: Evaluation) -> dict[str, float]:
    return {name: found.metrics[name] for name in ("recall@20", "ndcg@20", "recall@40", "ndcg@40")}


def _ranks(found: Evaluation) -> tuple[IntArray, IntArray]:
    """Users, and the rank of the one held-out item of each: the reciprocal of MRR@40."""
    assert not np.isnan(found.per_user["degree"]).any(), "a user has several held-out items"
    mrr = found.per_user["mrr@40"]
    rank = np.divide(1.0, mrr, out=np.zeros_like(mrr), where=mrr > 0)
    return found.per_user["user"].astype(np.int64), np.rint(rank).astype(np.int64)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
