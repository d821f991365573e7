"""RecMind with all its views, newest items and withheld items: sampled with all neighbours it is
the exact one, and it is the same in every placement, on any number of ranks, in every ZeRO stage.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.graph import prepare_rows
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

EVERY, FEW = [-1, -1], [3, 2]
MODEL: dict[str, Any] = {
    "kind": "recmind",
    "text_layers": 2,
    "views": "all",
    "recent_decay": 0.6,
    "projection_hidden_dim": 16,
    "gate": {"withheld_items": 0.2, "heldout_share": 0.4, "batch_size": 24, "learning_rate": 0.05},
}
TERMS = {"rank", "rank_text", "gate", "align_user", "align_item"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recmind")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    found = make_inputs(home, num_users=90, num_items=60, num_pairs=900)
    prepare_rows(found.graph)
    return found


def run(
    home: Path,
    inputs: RunStores,
    *,
    ranks: int = 1,
    placement: str = "replicated",
    fan_outs: list[int] = EVERY,
    propagation: str = "sampled",
    stage: int = 1,
) -> tuple[list[dict[str, float]], np.ndarray, dict[str, float]]:
    """Loss terms of every step, the table in node order, and the last validation's metrics."""
    config = config_of(
        home,
        f"{propagation}-{placement}-{ranks}-{fan_outs[0]}-{stage}",
        model=MODEL,
        sampler={
            "num_neighbors": fan_outs,
            "negatives": {"num_shared": 12},
            "propagation": propagation,
            "hide_batch_edges": False,
        },
        graph={"placement": placement},
        scaling={"num_workers": ranks, "shared_memory": ranks < 4},
        zero={"stage": stage},
        train={"batch_of": "users", "batch_size": 30, "epochs": 4},
    )
    shares = run_ranks(train_rank, ranks, config, inputs, "attempt0")
    nodes = np.concatenate([share["nodes"] for share in shares])
    table = np.concatenate([share["rows"]["weight"] for share in shares])[np.argsort(nodes)]
    steps = [
        {k: v for k, v in step.items() if isinstance(v, float) and k != "time"}
        for step in curve_of(config.run_dir)
    ]
    return steps, table, shares[0]["cursor"]["metrics"]


def assert_same_losses(first: Any, second: Any, rel: float) -> None:
    assert len(first) == len(second) > 0
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a == pytest.approx(b, rel=rel, abs=1e-6), step


@pytest.fixture(scope="module")
def exact(home: Path, inputs: RunStores) -> Any:
    found = run(home, inputs, propagation="full")
    assert set().union(*found[0]) >= TERMS
    return found


@pytest.fixture(scope="module")
def sampled(home: Path, inputs: RunStores) -> Any:
    return run(home, inputs, fan_outs=FEW)


@pytest.mark.parametrize(
    ("ranks", "placement", "stage"),
    [(1, "replicated", 0), (2, "partitioned", 3)],
)
def test_all_neighbours_give_the_exact_model(
    home: Path, inputs: RunStores, exact: Any, ranks: int, placement: str, stage: int
) -> None:
    found = run(home, inputs, ranks=ranks, placement=placement, stage=stage)
    assert_same_losses(exact[0][:4], found[0][:4], 2e-5)
    # then they part: an exact step moves rows of zero gradient too, by Adam's first moment
    assert_same_losses(exact[0], found[0], 5e-3)


@pytest.mark.parametrize(
    ("ranks", "placement", "stage"),
    [(2, "replicated", 2), (1, "partitioned", 1), (4, "partitioned", 3)],
)
def test_samples_are_the_same_wherever_they_are_made(
    home: Path, inputs: RunStores, sampled: Any, ranks: int, placement: str, stage: int
) -> None:
    found = run(home, inputs, ranks=ranks, placement=placement, fan_outs=FEW, stage=stage)
    assert_same_losses(sampled[0], found[0], 2e-4)
    np.testing.assert_allclose(sampled[1], found[1], atol=2e-3)
    assert sampled[2] == pytest.approx(found[2], abs=0.02)
