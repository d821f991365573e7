"""A run whose batches are made on the rank's device is the run whose batches the CPU makes.

Here the device is the CPU, so that the two differ in who makes batches alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

RECMIND = {"kind": "recmind", "views": "all", "recent_decay": 0.8}
KINDS: dict[str, dict[str, Any]] = {
    "RecMind": {"model": RECMIND, "train": {"batch_of": "users", "batch_size": 30}},
    "the paper's model": {},
    "LightGCN": {"model": {"kind": "lightgcn"}, "loss": {"kind": "bpr"}},
}


def train_on_device(config: RunConfig, inputs: RunStores, attempt: str) -> dict[str, Any]:
    ModelShard.batches_on_device = property(lambda _: True)  # type: ignore[assignment,method-assign]
    return train_rank(config, inputs, attempt)


@pytest.mark.parametrize(
    ("kind", "propagation", "ranks"),
    [
        ("RecMind", "sampled", 2),
        ("RecMind", "full", 1),
        ("the paper's model", "sampled", 1),
        ("the paper's model", "full", 2),
        ("LightGCN", "sampled", 1),
    ],
)
def test_losses_and_rows_are_the_same(
    kind: str, propagation: str, ranks: int, tmp_path: Path
) -> None:
    inputs, found = make_inputs(tmp_path), []
    for name, train in (("here", train_rank), ("there", train_on_device)):
        changes = {**KINDS[kind], "scaling": {"num_workers": ranks}}
        changes["sampler"] = {"propagation": propagation, "hide_batch_edges": kind != "RecMind"}
        config = config_of(tmp_path, name, **changes)
        shares = run_ranks(train, ranks, config, inputs, "attempt0")
        terms = [
            {
                key: value
                for key, value in step.items()
                if isinstance(value, float) and key != "time"
            }
            for step in curve_of(config.run_dir)
        ]
        found.append((terms, np.concatenate([share["rows"]["weight"] for share in shares])))
    assert len(found[0][0]) > 5
    for step, (ours, theirs) in enumerate(zip(found[0][0], found[1][0], strict=True)):
        assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-6), step
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-3)
