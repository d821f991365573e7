"""Power-law graphs of the benchmarks, made once and kept. U users, I items, E edges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.environments import CACHE
from recmind_dist.graph import Graph
from recmind_dist.graph.csr import both_directions, edge_order, held_out_rows
from recmind_dist.graph.partition import by_hash
from recmind_dist.graph.store import KIND, SCHEMA
from recmind_dist.randomness import stream_key, uniforms
from recmind_dist.storage import atomic_directory, write_manifest
from recmind_dist.types import IntArray

PARTS = 4  # of the hash partition, a run's default: so one, two and four ranks own whole ones


@dataclass(frozen=True)
class PowerLaw:
    """Size and shape: popularity of the k-th node of a side is ∝ k^-power."""

    num_users: int
    num_items: int
    num_edges: int
    user_power: float = 0.5
    item_power: float = 0.7

    @property
    def name(self) -> str:
        """As the tables and folders have it."""
        return f"{_short(self.num_users)}x{_short(self.num_items)}x{_short(self.num_edges)}"

    def open(self, cache: Path = CACHE) -> Graph:
        """The graph, made where it is absent."""
        path = cache / "graphs" / f"{self.name}-{self.user_power:g}-{self.item_power:g}-hash{PARTS}"
        if not (path / "manifest.json").is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_directory(path) as work:
                self._write(work)
        return Graph.open(path)

    def _write(self, work: Path) -> None:
        write_graph(work, self.name, *self._edges(), self.num_users, self.num_items)

    def _edges(self) -> tuple[IntArray, IntArray]:
        """Distinct pairs, drawn until there are enough; node numbers are shuffled, as a log's would
        be.
        """
        pairs = np.zeros(0, np.int64)
        drawn = 0
        while len(pairs) < self.num_edges:
            counter = drawn + np.arange(
                int(1.1 * (self.num_edges - len(pairs))) + 1000, dtype=np.int64
            )
            drawn += len(counter)
            user = _by_power("user", counter, self.num_users, self.user_power)
            item = _by_power("item", counter, self.num_items, self.item_power)
            pairs = np.unique(np.concatenate([pairs, user * self.num_items + item]))
        rng = np.random.default_rng(0)
        kept = rng.permutation(len(pairs))[: self.num_edges]
        user, item = np.divmod(pairs[kept], self.num_items)
        return rng.permutation(self.num_users)[user], rng.permutation(self.num_items)[item]


SMALL = PowerLaw(30_000, 40_000, 1_500_000)
LARGE = PowerLaw(1_000_000, 200_000, 20_000_000)


def write_graph(
    work: Path,
    name: str,
    user: IntArray,
    item: IntArray,
    num_users: int,
    num_items: int,
    test: tuple[IntArray, IntArray] | None = None,
) -> None:
    """A prepared graph without texts, whose validation split is empty.

    Args:
        user, item: [E] distinct pairs, each side counted from 0
        test: the same of held-out pairs; None: no test split either
    """
    order = edge_order(user, item, num_users, num_items)
    indptr, indices = both_directions(user[order], item[order], num_users, num_items)
    np.save(work / "indptr.npy", indptr)
    np.save(work / "indices.npy", indices)
    degree = np.diff(indptr[: num_users + 1])
    within = np.arange(len(user)) - np.repeat(indptr[:num_users], degree)
    np.save(work / "time_rank.npy", within.astype(np.int32))
    row_of_node, part_rows = by_hash(num_users + num_items, PARTS, seed=0)
    np.save(work / "row_of_node.npy", row_of_node)
    np.save(work / "part_rows.npy", part_rows)
    nothing = np.zeros(0, np.int64)
    for split, pairs in (("valid", None), ("test", test)):
        held_indptr, held = held_out_rows(*(pairs or (nothing, nothing)), num_users, num_items)
        np.save(work / f"{split}_indptr.npy", held_indptr)
        np.save(work / f"{split}_indices.npy", held)
    counts = {"num_users": num_users, "num_items": num_items, "num_edges": len(user)}
    counts |= {"num_valid": 0, "num_test": len(test[0]) if test else 0}
    keys = {"key": name, "name": name, "dataset_key": name}
    write_manifest(work, KIND, SCHEMA, {**keys, **counts})


def _by_power(stream: str, counter: IntArray, count: int, power: float) -> IntArray:
    """Ranks in [0, count) with density ∝ (rank + 1)^-power: its inverted distribution."""
    draw, rest = uniforms(stream_key(0, stream), counter), 1.0 - power
    rank = (draw * ((count + 1.0) ** rest - 1.0) + 1.0) ** (1.0 / rest) - 1.0
    return np.minimum(rank.astype(np.int64), count - 1)


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return str(count)
