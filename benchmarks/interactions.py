"""The pairs that peers are compared on: Gowalla where its files are, else a power-law graph of its
size.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.environments import CACHE
from benchmarks.graphs import PowerLaw, write_graph
from benchmarks.measure import ROOT
from recmind_dist.graph import Graph
from recmind_dist.storage import atomic_directory
from recmind_dist.types import IntArray

DATA = Path(os.environ.get("RECMIND_DATA", ROOT.parent / "shared" / "data"))
GOWALLA_LIKE = PowerLaw(29_858, 40_981, 1_027_370)


@dataclass(frozen=True)
class Interactions:
    """Training and test pairs (user, item), both counted from 0. Shapes: [E, 2], [T, 2], int64.

    Attributes:
        folder: with train.txt and test.txt as LightGCN has them.
    """

    name: str
    num_users: int
    num_items: int
    train: IntArray
    test: IntArray
    folder: Path

    @property
    def is_real(self) -> bool:
        """False for the stand-in, whose quality means nothing."""
        return self.name == "gowalla"


def load() -> Interactions:
    """Gowalla's published split, or its stand-in."""
    folder = DATA / "gowalla"
    if not (folder / "train.txt").is_file():
        folder = _stand_in()
    train, test = (_pairs(folder / f"{part}.txt") for part in ("train", "test"))
    counts = np.maximum(train.max(0), test.max(0)) + 1
    name = "gowalla" if folder == DATA / "gowalla" else "gowalla-like"
    return Interactions(name, int(counts[0]), int(counts[1]), train, test, folder)


def atomic_files(pairs: Interactions) -> tuple[Path, str]:
    """RecBole's layout of the same pairs. Returns (data_path, name).

    RecBole wants a validation file: a hundred training pairs, on which nothing is chosen.
    """
    home = CACHE / "recbole" / f"{pairs.name}-{len(pairs.train)}"
    folder = home / pairs.name
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        away = np.zeros(len(pairs.train), np.bool_)
        away[np.random.default_rng(0).choice(len(pairs.train), 100, replace=False)] = True
        parts = {"train": pairs.train[~away], "valid": pairs.train[away], "test": pairs.test}
        with atomic_directory(folder) as work:
            for part, rows in parts.items():
                lines = "\n".join(f"{user}\t{item}" for user, item in rows.tolist())
                (work / f"{pairs.name}.{part}.inter").write_text(
                    f"user_id:token\titem_id:token\n{lines}\n"
                )
    return home, pairs.name


def graph_of(pairs: Interactions, cache: Path = CACHE) -> Graph:
    """The pairs as a prepared graph, without a validation split; made where it is absent."""
    path = cache / "graphs" / f"{pairs.name}-{len(pairs.train)}-test"
    if not (path / "manifest.json").is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = pairs.num_users, pairs.num_items
        with atomic_directory(path) as work:
            test = pairs.test[:, 0], pairs.test[:, 1]
            write_graph(work, pairs.name, pairs.train[:, 0], pairs.train[:, 1], *sizes, test)
    return Graph.open(path)


def _pairs(path: Path) -> IntArray:
    found = []
    for line in path.read_text().splitlines():
        user, *items = map(int, line.split())
        found += [(user, item) for item in items]
    return np.array(found, np.int64)


def _stand_in() -> Path:
    folder = CACHE / "gowalla-like"
    if not folder.is_dir():
        graph = GOWALLA_LIKE.open()
        users = np.repeat(np.arange(graph.num_users), np.diff(graph.indptr[: graph.num_users + 1]))
        items = graph.indices[: graph.num_edges] - graph.num_users
        held = np.random.default_rng(0).random(len(users)) < 0.2
        with atomic_directory(folder) as work:
            for part, mask in (("train", ~held), ("test", held)):
                starts = np.searchsorted(users[mask], np.arange(graph.num_users + 1))
                rows = (items[mask][a:b] for a, b in pairwise(starts))
                lines = (
                    f"{user} {' '.join(map(str, row))}".rstrip() for user, row in enumerate(rows)
                )
                (work / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return folder
