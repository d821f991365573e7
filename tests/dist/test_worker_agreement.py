"""What workers read from shared storage they may read at different times: they act on it together,
or not at all.
"""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.processes import run_ranks
from tests.training_runs import config_of


def order_of(home: Path, rank: int) -> dict[str, Any]:
    """A training order whose files only rank 0 has seen: this rank looks for names of its own."""
    config = config_of(home, "run")
    return {
        "config": config.model_dump(mode="json"),
        "inputs": {"graph": "graph"},
        "run_dir": str(home / "run"),
        "device": "cpu",
        "requirements": {"versions": {}, "token": "", "word": ""},
        "refusal": str(home / f"refused-{rank}"),
        "begun": str(home / f"begun-{rank}"),
        "resume": "never",
        "allow_mismatch": False,
        "phases": ["joint"],
    }


def without_ray(patch: pytest.MonkeyPatch) -> Any:
    """The module that Ray's workers run, on plain processes."""
    from recmind_dist.launch import ray_train as runner

    patch.setattr(runner, "check_node", lambda requirements: None)
    return runner


def is_to_work(home: Path) -> bool:
    """Whether this rank gets a process group."""
    with pytest.MonkeyPatch.context() as patch:
        runner = without_ray(patch)
        with runner._worker_context(order_of(home, dist.get_rank())) as (_, _, ranks, _):
            return ranks is not None


def resumes(home: Path) -> str:
    """How this rank resumes."""
    resumed: list[str] = []

    class FakeTrainer:
        """Keeps `resume`, and trains nothing."""

        def __init__(self, *arguments: Any) -> None:
            resumed.append(arguments[6])

        def train(self, phases: tuple[str, ...]) -> None:
            """Nothing to do."""

    with pytest.MonkeyPatch.context() as patch:
        runner = without_ray(patch)
        patch.setattr(runner, "Trainer", FakeTrainer)
        runner.train_on_worker(order_of(home, dist.get_rank()))
    return resumed[0]


def test_workers_leave_together_when_one_of_them_sees_a_refusal(tmp_path: Path) -> None:
    assert run_ranks(is_to_work, 2, tmp_path) == [True, True]
    (tmp_path / "refused-0").touch()
    assert run_ranks(is_to_work, 2, tmp_path) == [False, False]


def test_workers_resume_alike_where_some_do_not_see_yet_that_the_run_began(tmp_path: Path) -> None:
    assert run_ranks(resumes, 2, tmp_path) == ["never", "never"]
    (tmp_path / "begun-1").unlink()
    assert run_ranks(resumes, 2, tmp_path) == ["auto", "auto"]
