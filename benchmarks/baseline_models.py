"""The models of baselines.py, and the data sets that they see."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.sparse import save_npz

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
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.ranking import Evaluation, evaluate_ranking
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.graph import Graph
from recmind_dist.ingest import ingest_dataset
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening
from recmind_dist.types import FloatArray, IntArray

EVALUATION = EvaluationSettings()  # at 20 and 40, chosen by NDCG@20
Settings = dict[str, Any]


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


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
        graph = Graph.open(Pipeline(config, say).prepare())
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


class ItemToItem(ABC):
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

    @abstractmethod
    def fit(self, settings: Settings) -> Any:
        """The weights, dense or sparse. Shape: [I, I]."""


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
            say(f"epoch {epoch}: loss {done['loss']:.3f}, {done['seconds']:.0f} s, {score:.4f}")
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


def _inner_product(h_users: FloatArray, h_items: FloatArray) -> ScoreUsers:
    return lambda users: h_users[users] @ h_items.T


def _padded_texts(data: Data) -> FloatArray:
    """The config's text vectors of all items, after a row for the padding. Shape: [I + 1, T]."""
    pipeline = Pipeline(data.config, say)
    report = pipeline.embed()
    assert report is not None, "the config's model reads no text"
    store = TextStore.open(report.path)
    vectors = Whitening.fit(store).apply("items", store.read_all("items"))
    return np.pad(vectors, ((1, 0), (0, 0)))


MODELS: dict[str, Callable[[Data, Path, int], Baseline]] = {
    "popularity": Popularity,
    "popularity_lately": PopularityLately,
    "item_knn": ItemKnn,
    "ease": Ease,
    "ials": Ials,
    "sasrec": Sasrec,
    "sasrec_text": TextSasrec,
}
