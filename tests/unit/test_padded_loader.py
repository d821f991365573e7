"""Batches of fixed shapes are those of the device's loader, and train the same bits."""

from pathlib import Path

import pytest
import torch

from recmind_dist.graph import Graph
from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.padded_batches import rows_of_hops
from recmind_dist.sampling.padded_loader import PaddedLoader, can_pad
from recmind_dist.sampling.settings import SamplerSettings
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.trainer import Trainer
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of, make_inputs

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make_graph(tmp_path_factory.mktemp("g"), random_pairs(80, 60, 900, seed=2), 85, 64)


def settings(hides: bool, fan_outs: list[int], kind: str = "popularity") -> SamplerSettings:
    return SamplerSettings.model_validate(
        {
            "num_neighbors": fan_outs,
            "propagation": "sampled",
            "hide_batch_edges": hides,
            "negatives": {"kind": kind, "num": 2},
        }
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("fan_outs", [[4, 3, 2], [2], [20, 1]])
def test_batches_are_the_loaders(
    graph: Graph, fan_outs: list[int], hides: bool, device: str
) -> None:
    given = graph, settings(hides, fan_outs), 26
    plain = DeviceLoader(*given, seed=3, device=torch.device(device))
    padded = PaddedLoader(*given, seed=3, device=torch.device(device))
    sizes, small = set(), 0
    for epoch, first in ((0, 0), (7, 2)):
        pairs = zip(padded.requests(epoch, first), plain.batches(epoch, first), strict=True)
        for request, wanted in pairs:
            assert request.step == wanted.step
            if isinstance(request, StepBatches):
                small += 1
                assert len(wanted.main.src_index) < 26
                assert torch.equal(request.main.n_id, wanted.main.n_id)
                continue
            made = padded.make(*request.tensors)
            sizes.add(tuple(len(hop.indices) for hop in made.hops))
            assert_same_batch(made, wanted.main)
    assert small == 2
    assert len(sizes) == 1


def assert_same_batch(made: Batch, wanted: Batch) -> None:
    assert made.num_nodes is not None
    count = int(made.num_nodes)
    assert torch.equal(made.n_id[:count], wanted.n_id)
    assert torch.equal(made.degree[:count], wanted.degree)
    names = "input_id", "pairs", "src_index", "dst_pos_index", "dst_neg_index"
    for name in names:
        assert torch.equal(getattr(made, name), getattr(wanted, name)), name
    assert made.global_batch_size == wanted.global_batch_size
    for ours, theirs in zip(made.hops, wanted.hops, strict=True):
        weight = ours.matrix.weight
        assert weight is not None
        there = weight != 0
        assert torch.equal(weight[there], theirs.matrix.weight)
        assert torch.equal(ours.indices[there], theirs.indices)
        counts = there.view(ours.num_dst, -1).sum(1)
        assert torch.equal(counts[: theirs.num_dst].int(), theirs.indptr.diff())
        assert not counts[theirs.num_dst :].any()
        x = torch.rand(ours.num_src, 4, device=weight.device)
        x[theirs.num_src :] = torch.inf  # would show where it is read
        torch.testing.assert_close(
            ours.matrix.matmul(x)[: theirs.num_dst], theirs.matrix.matmul(x[: theirs.num_src])
        )


def test_room_is_never_more_than_there_are_nodes() -> None:
    assert rows_of_hops(30, (10, 5), 1000) == [30, 330, 1000]
    assert rows_of_hops(30, (2,), 20) == [20, 20]


def test_what_cannot_have_fixed_shapes(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert not can_pad(settings(True, [4, 2]), graph, 25, device)  # no Triton
    monkeypatch.setattr("recmind_dist.sampling.padded_loader.triton_padded", lambda _: object())
    assert can_pad(settings(True, [4, 2]), graph, 25, device)
    assert not can_pad(settings(True, [4, -1]), graph, 25, device)
    assert not can_pad(settings(True, [4, 2], "in_batch"), graph, 25, device)
    assert not can_pad(settings(True, [1 << 14]), graph, 25, device)


@pytest.mark.parametrize("hides", [True, False])
def test_trained_rows_have_the_same_bits(
    tmp_path: Path, hides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, where no order of a sum differs: what fills a shape up adds zeros."""
    monkeypatch.setattr(ModelShard, "batches_on_device", True)
    padded = trained(tmp_path / "plain", hides, 0), trained(tmp_path / "padded", hides, 1)
    assert torch.equal(*padded)


def trained(home: Path, hides: bool, padded: int) -> torch.Tensor:
    config = config_of(
        home,
        "run",
        model={"kind": "lightgcn"},
        loss={"kind": "bpr", "regularization": 1e-3},
        sampler={
            "propagation": "sampled",
            "num_neighbors": [3, 2],
            "hide_batch_edges": hides,
        },
        train={"batch_of": "pairs", "batch_size": 32, "epochs": 3, "patience": 0},
    )
    inputs, context = make_inputs(home), join_group_of_one(config, "cpu")
    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, inputs, context, run, "attempt0", lambda _: None, "never")
    made: list[Batch] = []
    make = PaddedLoader.make

    def counted(self: PaddedLoader, edges: torch.Tensor, keys: torch.Tensor) -> Batch:
        made.append(make(self, edges, keys))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaddedLoader, "make", counted)
        if padded:
            patch.setattr("recmind_dist.training.step.TrainingStep.model_can_be_captured", True)
            patch.setattr("recmind_dist.training.phase.can_pad", lambda *_: True)
            patch.setattr("recmind_dist.training.step.CapturedGradients", lambda run: run)
        worker.train(("joint",))
    assert bool(made) == bool(padded)
    return worker.shard.table.weight.clone()
