"""Small graphs for tests, made by the real ingest and graph rooms out of real files.

User k has the external id "k", item k likewise, so node k is user k and node U + k is item k.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recmind_dist.graph import Graph, GraphSettings, prepare_graph
from recmind_dist.ingest import DatasetSettings, ingest_dataset

Pairs = Sequence[tuple[int, int]]
GENRES = ("war", "love", "space", "crime")


def dataset_of(
    home: Path, pairs: Pairs, num_users: int, num_items: int, *, valid: Pairs = (), test: Pairs = ()
) -> DatasetSettings:
    """Writes a log whose order is its chronology, item and user files, and a given split, under
    `home`.

    Args:
        pairs: distinct training pairs (user, item), both counted from 0; nodes beyond them are
            isolated.
        valid, test: held-out pairs; without `test` the first pair that is not trained on, as a
            given split needs one.
    """
    home.mkdir(parents=True, exist_ok=True)
    known = set(pairs) | set(valid)
    free = ((u, i) for u in range(num_users) for i in range(num_items) if (u, i) not in known)
    held = {"test": list(test) or [next(free)], "valid": list(valid)}
    for name, rows in (("train", pairs), *held.items()):
        lines = [f"{u}\t{i}\t{t}" for t, (u, i) in enumerate(rows)]
        (home / f"{name}.tsv").write_text("\n".join(["user\titem\ttime", *lines]) + "\n")
    items = (
        {"id": str(i), "title": f"title {i}", "genre": GENRES[i % 4]} for i in range(num_items)
    )
    (home / "items.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    (home / "users.jsonl").write_text(
        "\n".join(json.dumps({"id": str(u), "age": u}) for u in range(num_users)) + "\n"
    )
    files = {"interactions": home / "train.tsv", "test": home / "test.tsv"}
    files |= {side: home / f"{side}.jsonl" for side in ("items", "users")} | (
        {"valid": home / "valid.tsv"} if valid else {}
    )
    return DatasetSettings.model_validate({"name": "toy", **files})


def make_graph(
    home: Path,
    pairs: Pairs,
    num_users: int,
    num_items: int,
    *,
    valid: Pairs = (),
    test: Pairs = (),
    num_parts: int = 1,
    partition: str = "hash",
) -> Graph:
    """The prepared graph of `dataset_of`."""
    dataset = ingest_dataset(
        dataset_of(home, pairs, num_users, num_items, valid=valid, test=test), home / "cache"
    )
    settings = GraphSettings.model_validate(
        {"split": "given", "num_parts": num_parts, "partition": partition}
    )
    graph = Graph.open(prepare_graph(dataset, settings, home / "cache"))
    assert (graph.num_users, graph.num_items, graph.num_edges) == (num_users, num_items, len(pairs))
    return graph


def random_pairs(
    num_users: int, num_items: int, num_pairs: int, seed: int = 0
) -> list[tuple[int, int]]:
    """Distinct pairs in random order, items with a long tail of popularity."""
    rng = np.random.default_rng(seed)
    popularity = np.repeat((np.arange(num_items) + 1.0) ** -0.8, num_users)
    cells = rng.choice(
        num_users * num_items, num_pairs, replace=False, p=popularity / popularity.sum()
    )
    return [(int(c % num_users), int(c // num_users)) for c in cells]


def adjacency(graph: Graph) -> NDArray[np.float64]:
    """The symmetric 0/1 matrix of the training edges, dense. Shape: [N, N]."""
    dense = np.zeros((graph.num_nodes, graph.num_nodes))
    dense[np.repeat(np.arange(graph.num_nodes), graph.degree), graph.indices] = 1.0
    return dense


def normalised(graph: Graph) -> NDArray[np.float64]:
    """LightGCN's operator D^-1/2 A D^-1/2, dense. Shape: [N, N]."""
    root = np.maximum(graph.degree, 1) ** -0.5
    return adjacency(graph) * root[:, None] * root[None, :]
