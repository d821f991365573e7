"""A recorded loss curve: a refactor that changes what a step computes shows here, whatever else
still passes.

A change that is meant re-records it, and says so in the change log:

    python -m tests.golden.test_loss_curve
"""

import json
import tempfile
from pathlib import Path

import pytest

from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

RECORD = Path(__file__).with_name("loss_curve.json")
Curve = dict[str, list[dict[str, float]]]


def train(home: Path) -> Curve:
    """Terms of every step of two tiny runs on one rank: sampled softmax and BPR."""
    inputs, curves = make_inputs(home), {}
    for kind in ("ssm", "bpr"):
        gate = {"heldout_share": 0.5}
        config = config_of(
            home,
            kind,
            graph={"seed": 3},
            loss={"kind": kind},
            model={"gate": gate},
            train={
                "batch_size": 96,
                "warmup_epochs": 1,
                "epochs": 2,
                "log_every_steps": 1,
                "seed": 3,
            },
        )
        run_ranks(train_rank, 1, config, inputs, "attempt0")
        records = curve_of(config.run_dir)
        curves[kind] = [
            {
                k: r[k]
                for k in sorted(r)
                if isinstance(r[k], float) and k not in ("time", "queue_staleness")
            }
            for r in records
        ]
    return curves


def test_the_loss_curve_is_the_recorded_one(tmp_path: Path) -> None:
    recorded: Curve = json.loads(RECORD.read_text())
    found = train(tmp_path)
    assert found.keys() == recorded.keys()
    for kind, curve in recorded.items():
        assert len(found[kind]) == len(curve) == 18
        for step, (ours, theirs) in enumerate(zip(curve, found[kind], strict=True)):
            assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-9), (kind, step)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        RECORD.write_text(json.dumps(train(Path(directory)), indent=1) + "\n")
