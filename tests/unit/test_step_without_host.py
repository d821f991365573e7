"""Off the CPU a step never waits for a number: it runs on `meta`, whose tensors have shapes and no
content, so that reading one is an error. DeepSpeed's own step, which waits, is left out.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.fx.experimental import _config as symbolic

from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.zero_engine import TableOnlyEngine
from recmind_dist.embedding.exchange import AllToAllRoute, LookupPlan, RowExchange
from recmind_dist.kernels.gather_sum import CsrMatrix, Hop
from recmind_dist.propagation.gathered_matrix import GatheredMatrix
from recmind_dist.propagation.item_means import NeighbourMeans
from recmind_dist.propagation.one_sided import OneSidedPropagation
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import Batch
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.phase import Phase
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.step_input import StepInput
from tests.training_runs import config_of, make_inputs

RECMIND = {
    "kind": "recmind",
    "text_layers": 2,
    "views": "all",
    "recent_decay": 0.6,
    "projection_hidden_dim": 16,
    "gate": {"withheld_items": 0.2, "heldout_share": 0.4},
}
KINDS: dict[str, dict[str, Any]] = {
    "LightGCN": {"model": {"kind": "lightgcn"}, "loss": {"kind": "bpr"}},
    "RecMind": {"model": RECMIND, "train": {"batch_of": "users", "batch_size": 30}},
    "the paper's model": {},
}
HELD = Batch | Hop | CsrMatrix | LookupPlan | AllToAllRoute | StepInput


class WithoutUpdate(TableOnlyEngine):
    """Hands out dense parameters, which stay as they are."""

    def gather_parameters(self, prefix: str = "") -> dict[str, Tensor]:
        named = self.module.named_parameters()
        return {name.removeprefix(prefix): p for name, p in named if name.startswith(prefix)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> RunStores:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def no_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recmind_dist.training.phase.make_engine",
        lambda loss, _settings, _size, device, *_: WithoutUpdate(loss, device),
    )


def phase_on(device: str, config: RunConfig, inputs: RunStores) -> Phase:
    context = DistContext.alone(device)
    # while a rank is built it may read content, that `meta` has none of: all, as far as shapes go
    with symbolic.patch(meta_nonzero_assume_all_nonzero=True):
        shard = ModelShard(config, inputs, context)
        exchange = RowExchange(shard.bounds, context, shard.table.weight)
        return Phase(config, shard, exchange, "joint", 0)


def moved(value: Any) -> Any:
    """The same with its tensors on `meta`."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, list):
        return [moved(part) for part in value]
    if isinstance(value, HELD):
        fields = dataclasses.fields(value)
        parts = {field.name: moved(getattr(value, field.name)) for field in fields}
        return dataclasses.replace(value, **parts)
    if isinstance(value, dict):
        return {key: moved(part) for key, part in value.items()}
    if isinstance(value, OneSidedPropagation | NeighbourMeans | GatheredMatrix):
        there = copy.copy(value)
        vars(there).update({name: moved(part) for name, part in vars(value).items()})
        return there
    return value


@pytest.mark.parametrize("propagation", ["full", "sampled"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_no_number(
    kind: str, propagation: str, inputs: RunStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train": {"log_every_steps": 20}, **KINDS[kind]}
    changes["train"] = {**changes["train"], "log_every_steps": 20}
    changes["sampler"] = {"propagation": propagation, "hide_batch_edges": kind != "RecMind"}
    config = config_of(tmp_path, "run", **changes)
    there = phase_on("meta", config, inputs)
    monkeypatch.setattr(ModelShard, "batches_on_device", True)
    here = phase_on("cpu", config, inputs)
    step = next(here.step_inputs(0, 0))
    assert step.main.batch_size > 10
    given = dataclasses.replace(moved(step), operator=there._operator)
    if there._operator is not None and step.operator is not None:
        here.step.run(step)  # which makes what is made once
        made = {"items": step.operator.items, "_item_means": step.operator._item_means}
        vars(there._operator).update(moved(made))
        sides = moved(step.operator.one_sided)
        sides._picks = False  # as on every device but a CPU
        vars(there._operator)["one_sided"] = sides
        plan = dataclasses.replace(given.plan, local_rows=there._operator.everywhere)
        given = dataclasses.replace(given, plan=plan)
    assert there.step.run(given) == {}
    with pytest.raises(NotImplementedError, match="meta"):  # what the test can see
        there.step.checks.read()
