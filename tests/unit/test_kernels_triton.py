"""Triton's kernels make what their torch twins make: on a GPU, else in Triton's interpreter.

Skipped where Triton is absent: it comes with torch's CUDA builds.
"""

import importlib.util
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.graph import Graph
from recmind_dist.kernels import device_draws, random_words, row_adam
from recmind_dist.sampling.device_graph import DeviceGraph, MaskedEntries
from recmind_dist.sampling.device_sampler import DeviceSampler
from recmind_dist.sampling.padded_batches import PaddedBatches
from tests.graphs import make_graph, random_pairs
from tests.unit.test_device_loader import tensors

INTERPRETED = not torch.cuda.is_available()
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
KEY = 0xF3A1_2345_6789_0123
NO_TRITON = importlib.util.find_spec("triton") is None
HERE = os.environ.get("TRITON_INTERPRET") == "1" or not INTERPRETED

pytestmark = pytest.mark.skipif(NO_TRITON, reason="Triton is not installed")


@pytest.mark.skipif(HERE, reason="these are the tests themselves")
def test_in_the_interpreter() -> None:
    """In a process of its own: Triton reads the setting when it is imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HERE:
        pytest.skip("run in the interpreter")
    from recmind_dist.kernels import triton_adam, triton_ops, triton_padded

    at = "recmind_dist.sampling.padded_batches.triton_padded"
    monkeypatch.setattr(at, lambda _: triton_padded)
    monkeypatch.setattr("recmind_dist.kernels.row_adam.triton_adam", lambda _: triton_adam)
    for module in ("kernels.device_draws", "sampling.device_sampler"):
        monkeypatch.setattr(f"recmind_dist.{module}.triton_ops", lambda _: triton_ops)


@pytest.mark.parametrize("in_batch", [True, False])
def test_unseen_items(in_batch: bool, by_kernels: None) -> None:
    rng = np.random.default_rng(1)
    degree = rng.integers(0, 19, 50)
    rows = [np.sort(rng.choice(20, d, replace=False)) + 50 for d in degree]
    chances = np.cumsum(rng.random(20))
    items = np.arange(50, 70 if in_batch else 50)
    arrays = np.r_[0, np.cumsum(degree)], np.concatenate(rows).astype(np.int32)
    indptr, indices = (torch.from_numpy(x).to(DEVICE) for x in arrays)
    pool = device_draws.Pool(
        torch.from_numpy(chances / chances[-1]).to(DEVICE), 50, torch.from_numpy(items).to(DEVICE)
    )
    users = torch.from_numpy(rng.integers(0, 50, 200)).to(DEVICE)
    given = indptr, indices, users, torch.arange(200, device=DEVICE), pool, 3, KEY
    assert torch.equal(device_draws.draw_unseen(*given), device_draws.draw_unseen_torch(*given))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make_graph(tmp_path_factory.mktemp("g"), random_pairs(80, 60, 900, seed=2), 85, 64)


@pytest.mark.parametrize(("heldout", "masked"), list(product([True, False], repeat=2)))
def test_hops(graph: Graph, heldout: bool, masked: bool, by_kernels: None) -> None:
    there = DeviceGraph(graph, DEVICE)
    edges = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    none = MaskedEntries.of(edges[:0])
    kept_back = there.entries_of(edges[:200]) if heldout else none
    mask = there.entries_of(edges[200:300]) if masked else None
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(1))
    cases = [(order[:30].to(DEVICE), f) for f in ((10, 5, 3), (4,), (3, -1, 2))]
    for seeds, fan_outs in [*cases, (order[:0].to(DEVICE), (4, 2))]:
        ours = DeviceSampler(there, fan_outs, kept_back).sample_hops(seeds, KEY, mask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recmind_dist.sampling.device_sampler.triton_ops", lambda _: None)
            patch.setattr("recmind_dist.kernels.device_draws.triton_ops", lambda _: None)
            twin = DeviceSampler(there, fan_outs, kept_back).sample_hops(seeds, KEY, mask)
        assert torch.equal(ours[0], twin[0])
        for one, other in zip(ours[1], twin[1], strict=True):
            for a, b in ((one.matrix, other.matrix), (one.transposed, other.transposed)):
                assert torch.equal(a.indptr, b.indptr)
                assert torch.equal(a.indices, b.indices)
                assert a.weight is not None
                assert b.weight is not None
                assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("hides", [True, False])
def test_padded_batches(graph: Graph, hides: bool, by_kernels: None) -> None:
    there = DeviceGraph(graph, DEVICE)
    chances = torch.arange(1, graph.num_items + 1, device=DEVICE).double() / graph.num_items
    pool = device_draws.Pool(
        chances, graph.num_users, torch.empty(0, dtype=torch.int64, device=DEVICE)
    )
    edges = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(2))[:40]
    keys = torch.tensor([random_words.signed(KEY), 5, -7, 11], device=DEVICE)

    def made() -> dict[str, torch.Tensor]:
        batches = PaddedBatches(there, (4, 5, 2), len(edges), pool, 2, hides)
        return tensors(batches.make(edges.to(DEVICE), keys))

    ours = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recmind_dist.sampling.padded_batches.triton_padded", lambda _: None)
        patch.setattr("recmind_dist.kernels.device_draws.triton_ops", lambda _: None)
        twin = made()
    assert ours.keys() == twin.keys()
    assert ".num_nodes" in ours
    for name, value in twin.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("dim", [8, 24, 64])
@pytest.mark.parametrize("everything", [True, False])
def test_row_adam(dim: int, everything: bool, by_kernels: None) -> None:
    generator = torch.Generator().manual_seed(dim)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    steps = torch.randint(0, 5, (40,), generator=generator).to(DEVICE)
    ours = row_adam.AdamRows(normal(40, dim), normal(40, dim), normal(40, dim).square(), steps)
    twin = row_adam.AdamRows(*(x.clone() for x in vars(ours).values()))
    rows = slice(None) if everything else torch.randperm(40, generator=generator)[:17].to(DEVICE)
    grad = normal(40 if everything else 17, dim)
    row_adam._row_adam_on_device(ours, rows, grad, 0.01, 3)
    row_adam.row_adam_torch(twin, rows, grad / 3, 0.01)
    if not everything:  # some of the rows
        few = torch.tensor([9], device=DEVICE)
        row_adam._row_adam_on_device(ours, rows, grad, 0.01, 3, few)
        row_adam.row_adam_torch(twin, rows[:9], grad[:9] / 3, 0.01)
    for name, value in vars(twin).items():
        torch.testing.assert_close(getattr(ours, name), value, rtol=1e-5, atol=1e-6)
