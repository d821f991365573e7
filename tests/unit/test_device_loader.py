"""Batches made on a device are those of the compiled loops, bit for bit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recmind_dist.graph import Graph
from recmind_dist.kernels import random_words
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.randomness import Permutation, uniforms, words
from recmind_dist.sampling.batch import Batch
from recmind_dist.sampling.device_graph import MaskedEntries
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.sampling.loader import NeighborLoader, StepBatches
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings
from tests.graphs import make_graph, random_pairs

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KEYS = [0, 1, 0x7FFF_FFFF_FFFF_FFFF, 0xF3A1_2345_6789_0123]


@pytest.fixture(autouse=True)
def short_blocks_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmind_dist.sampling.device_loader._DRAWN_AHEAD", 120)


@pytest.fixture(scope="module", params=[1, 2])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    seed = request.param
    pairs = random_pairs(60, 40, 700, seed=seed)
    # a user with nearly all items, one with one, some nodes with none
    pairs = [p for p in pairs if p[0] not in (7, 8)]
    pairs += [(7, 0), *((8, item) for item in range(38))]
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, 65, 44)


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value.cpu()}
    if isinstance(value, list):
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)}
    elif isinstance(value, Batch | Hop | CsrMatrix):
        fields = dataclasses.fields(value)
        parts = {f"{name}.{field.name}": getattr(value, field.name) for field in fields}
    else:
        return {}
    return {k: v for part, inner in parts.items() for k, v in tensors(inner, part).items()}


def assert_same(left: Batch | None, right: Batch | None) -> None:
    ours, theirs = tensors(left), tensors(right)
    assert ours.keys() == theirs.keys()
    if left is not None and right is not None:
        assert left.global_batch_size == right.global_batch_size
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name


def assert_same_nodes(left: Batch | None, right: Batch | None) -> None:
    """Batches whose local ids differ."""
    assert (left is None) == (right is None)
    if left is None or right is None:
        return
    assert left.global_batch_size == right.global_batch_size
    assert (left.masked_edges is None) == (right.masked_edges is None)
    for name in (
        "input_id",
        "pairs",
        *(["masked_edges"] if right.masked_edges is not None else []),
    ):
        assert torch.equal(getattr(left, name).cpu(), getattr(right, name)), name
    names = ["src_index", "dst_pos_index", "dst_neg_index", "shared_index"]
    if len(right.shared_index):
        names.append("user_index")
        assert torch.equal(left.user_of_pair.cpu(), right.user_of_pair)
        assert torch.equal(left.shared_positive.cpu(), right.shared_positive)
    for name in names:
        ours, theirs = getattr(left, name), getattr(right, name)
        assert torch.equal(left.n_id[ours].cpu(), right.n_id[theirs]), name
        assert torch.equal(left.degree[ours].cpu(), right.degree[theirs]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("fan_outs", "share", "hide"),
    [
        ([3, 2], 0.0, True),
        ([3, 2], 0.4, False),
        ([5, -1, 1], 0.0, False),
        ([5, -1, 1], 0.4, True),
        ([-1, -1], 0.4, True),
        ([12], 0.0, False),
        ([12], 0.4, True),
    ],
)
def test_sampled_batches(
    graph: Graph, fan_outs: list[int], share: float, hide: bool, device: str
) -> None:
    settings = SamplerSettings.model_validate(
        {"num_neighbors": fan_outs, "hide_batch_edges": hide, "propagation": "sampled"}
    )
    heldout = heldout_slice(graph, share, 3, withheld_items=share / 2)
    more = {"heldout": heldout, "gate_batch_size": 12 if share else 0, "seed": 4}
    assert_same_batches(graph, settings, device, batch_size=50, **more)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_of", ["pairs", "users"])
@pytest.mark.parametrize(
    ("kind", "negatives", "gates"),
    [
        ("uniform", "pairs", True),
        ("popularity", "pairs", False),
        ("in_batch", "pairs", False),
        ("in_batch", "pairs", True),
        ("uniform", "shared", False),
        ("popularity", "shared", True),
        ("popularity", "none", True),
    ],
)
def test_pairs_and_negatives(
    graph: Graph, kind: str, negatives: str, gates: bool, batch_of: str, device: str
) -> None:
    drawn = NegativeSettings.model_validate({"kind": kind, "num": 3, "num_shared": 20})
    settings = SamplerSettings.model_validate(
        {"num_neighbors": [-1, -1], "propagation": "full", "negatives": drawn}
    )
    more: dict[str, Any] = {"negatives": negatives, "batch_of": batch_of}
    if gates:
        more |= {"heldout": heldout_slice(graph, 0.3, 1), "gate_batch_size": 9, "seed": 2}
    assert_same_batches(
        graph, settings, device, batch_size=20 if batch_of == "users" else 90, **more
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("propagation", ["sampled", "full"])
def test_the_share_of_a_rank(graph: Graph, rank: int, propagation: str, device: str) -> None:
    settings = SamplerSettings.model_validate({"num_neighbors": [4, 3], "propagation": propagation})
    steps = assert_same_batches(graph, settings, device, batch_size=50, rank=rank, world_size=3)
    assert len(steps[0].main.pairs[0]) == 50 * (rank + 1) // 3 - 50 * rank // 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_share_without_a_pair(graph: Graph, rank: int, device: str) -> None:
    size = graph.num_edges - 1  # the last batch has a single pair
    settings = SamplerSettings.model_validate({"num_neighbors": [4, 3], "propagation": "sampled"})
    first, last = assert_same_batches(
        graph, settings, device, batch_size=size, rank=rank, world_size=2
    )[:2]
    assert len(first.main.pairs[0]) > 0
    assert len(last.main.pairs[0]) == rank


@pytest.mark.parametrize("device", DEVICES)
def test_newest_items_of_users_whose_gates_learn(graph: Graph, device: str) -> None:
    settings = SamplerSettings.model_validate({"num_neighbors": [3, 2], "propagation": "sampled"})
    more = {"heldout": heldout_slice(graph, 0.5, 1), "gate_batch_size": 10, "newest_decay": 0.8}
    steps = assert_same_batches(graph, settings, device, batch_size=50, negatives="shared", **more)
    newest = [step.gate.newest for step in steps if step.gate is not None]
    assert any(hop is not None and len(hop.indices) > 0 for hop in newest)


def assert_same_batches(
    graph: Graph, settings: SamplerSettings, device: str, batch_size: int, **more: Any
) -> list[StepBatches]:
    """The batches of two epochs, the second from its third step on."""
    compared: list[StepBatches] = []
    there = DeviceLoader(graph, settings, batch_size, device=torch.device(device), **more)
    here = NeighborLoader(graph, settings, batch_size, **more)
    for epoch, first_step in ((0, 0), (1, 2)):
        batches = zip(
            there.batches(epoch, first_step), here.batches(epoch, first_step), strict=True
        )
        for ours, theirs in batches:
            assert ours.step == theirs.step
            assert ours.main.n_id.device.type == device
            whole = settings.propagation == "full" and more.get("world_size", 1) == 1
            compare = assert_same_nodes if whole else assert_same
            compare(ours.main, theirs.main)
            compare(ours.gate, theirs.gate)
            compared.append(ours)
    assert len(compared) == 2 * there.steps_per_epoch - 2
    assert all((step.gate is not None) == (more.get("gate_batch_size", 0) > 0) for step in compared)
    return compared


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("key", KEYS)
def test_random_words(key: int, device: str) -> None:
    counters = np.random.default_rng(0).integers(0, 1 << 62, 500)
    given = torch.from_numpy(counters).to(device)
    drawn = random_words.words(key, given).cpu().numpy().view(np.uint64)
    np.testing.assert_array_equal(drawn, words(key, counters))
    drawn = random_words.uniforms(key, given).cpu().numpy()
    np.testing.assert_array_equal(drawn, uniforms(key, counters))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 2, 5, 1000, 4097])
def test_permutation(n: int, device: str) -> None:
    positions = np.arange(n)
    found = random_words.permuted(torch.arange(n, device=device), n, KEYS[-1])
    np.testing.assert_array_equal(found.cpu().numpy(), Permutation(n, KEYS[-1])(positions))


def test_masked_entries_of_two_kinds_are_merged() -> None:
    a, b = (MaskedEntries.of(torch.tensor(x)) for x in ([1, 4, 9], [0, 5, 8, 20]))
    assert a.merged(b).position.tolist() == [0, 1, 4, 5, 8, 9, 20]
    assert a.merged(b).before.tolist() == [0, 0, 2, 2, 4, 4, 14]
    nothing = MaskedEntries.of(torch.zeros(0, dtype=torch.int64))
    assert a.merged(nothing) is a
    assert nothing.merged(b) is b
