"""Ranks read the text store together once: each shard by one of them, each row to its owner."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import StoreError
from recmind_dist.features import own_vectors
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import make_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> RunStores:
    """Shards of 32 rows: three of users, two of items."""
    return make_inputs(tmp_path_factory.mktemp("text"))


class CountedStore(TextStore):
    """Notes which shards it has verified."""

    def read_shard(self, side: str, shard: int) -> Any:
        self.meta.setdefault("seen", []).append((side, shard))
        return super().read_shard(side, shard)


def read(
    inputs: RunStores, block_rows: int, shared_memory: bool, context: DistContext | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[str, int]], str]:
    """This rank's nodes, vectors, which are absent, the shards it verified; or its error."""
    torch.set_num_threads(1)
    context = context or DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    own_vectors._BLOCK_ROWS = block_rows
    assert inputs.text is not None
    assert inputs.whitening is not None
    graph, store = Graph.open(inputs.graph), CountedStore.open(inputs.text)
    items = TextStore.open(inputs.item_vectors) if inputs.item_vectors else None
    bounds = row_bounds(graph, context.world_size)
    nodes = np.argsort(graph.row_of_node)[bounds[context.rank] : bounds[context.rank + 1]]
    try:
        found = own_vectors.read_own_vectors(
            graph, store, Whitening.load(inputs.whitening), nodes, bounds, context, items
        )
    except StoreError as error:
        return nodes, nodes, nodes, [], str(error)
    return nodes, *found, store.meta.get("seen", []), ""


@pytest.mark.parametrize(("block_rows", "shared_memory"), [(32, True), (16, False), (1000, True)])
def test_every_shard_is_verified_by_one_rank_and_every_row_comes_home(
    inputs: RunStores, block_rows: int, shared_memory: bool
) -> None:
    nodes, vectors, absent, seen, _ = read(inputs, 65_536, True, DistContext.alone())
    assert sorted(seen) == [("items", 0), ("items", 1), ("users", 0), ("users", 1), ("users", 2)]
    assert sorted(nodes[absent]) == [*range(0, 70, 5), *range(70, 115, 9)]
    answers = run_ranks(read, 3, inputs, block_rows, shared_memory)
    assert sorted(shard for answer in answers for shard in answer[3]) == sorted(seen)
    if block_rows < 1000:
        assert all(answer[3] for answer in answers)
    for k, expected in enumerate((nodes, vectors, absent)):
        together = np.concatenate([answer[k] for answer in answers])
        np.testing.assert_allclose(together, expected, atol=2e-3)


def with_items(home: Path) -> tuple[RunStores, np.ndarray]:
    """Stores with a store of whitened item vectors of their own, and these."""
    inputs = make_inputs(home)
    assert inputs.text is not None
    vectors = np.random.default_rng(5).normal(size=(45, 12)).astype(np.float16)
    vectors[::9] = np.nan
    store = TextStore.create(home / "items", {}, 12, {"items": 45, "users": 0}, 32, 16)
    for shard in range(2):
        rows = vectors[slice(*store.shard_range("items", shard))]
        store.write_shard("items", shard, rows, "learnt")
    return replace(inputs, item_vectors=store.path), np.nan_to_num(vectors)


@pytest.mark.parametrize("world_size", [1, 3])
def test_items_with_vectors_of_their_own_are_read_as_they_are(
    tmp_path: Path, world_size: int
) -> None:
    inputs, expected = with_items(tmp_path)
    nodes, users, *_ = read(make_inputs(tmp_path / "plain"), 32, True, DistContext.alone())
    answers = run_ranks(read, world_size, inputs, 32, True)
    found = {node: row for answer in answers for node, row in zip(*answer[:2], strict=True)}
    for node, row in zip(nodes, users, strict=True):
        own = row if node < 70 else expected[node - 70]
        np.testing.assert_allclose(found[node], own, atol=2e-3)
    absent = [node for answer in answers for node in answer[0][answer[2]]]
    assert sorted(absent) == [*range(0, 70, 5), *range(70, 115, 9)]


def test_a_shard_that_one_rank_cannot_read_is_an_error_on_all(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    assert inputs.text is not None
    file = TextStore.open(inputs.text).shard_file("users", 1)
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    errors = [answer[4] for answer in run_ranks(read, 2, replace(inputs), 32, True)]
    assert "shard 1 of users" in errors[1]
    assert "rows 32 to 63 of users cannot be read, as rank 1 says: run `recmind embed`" in errors[0]


def keys_before_and_after_damage(inputs: RunStores) -> tuple[str, str, int]:
    """The store's key, the error where rank 0's ledger is damaged, and entries that were read."""
    context = DistContext.join_group(torch.device("cpu"))
    assert inputs.text is not None
    store, read = TextStore.open(inputs.text), list[int]()
    entry = store.entry
    store.entry = lambda side, shard: read.append(shard) or entry(side, shard)  # type: ignore[func-returns-value,method-assign,misc]
    key = own_vectors.store_key(store, context)
    if context.rank == 0:
        (inputs.text / "ledger" / "users-00001.json").write_text("{")
    try:
        own_vectors.store_key(store, context)
    except StoreError as error:
        return key, str(error), len(read)
    return key, "", len(read)


def test_the_ledger_is_read_by_one_rank_and_its_damage_is_an_error_on_all(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    (key, named, read), (same, told, nothing) = run_ranks(keys_before_and_after_damage, 2, inputs)
    assert key == same == inputs.store_key
    assert (read, nothing) == (5 + 4, 0)
    assert "users-00001.json" in named
    assert told.endswith("its ledger cannot be read, as rank 0 says: run `recmind embed`")
