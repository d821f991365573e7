"""What workers read from shared storage they may read at different times: they act on it together,
or not at all.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.processes import run_ranks
from tests.training_runs import config_of

pytestmark = pytest.mark.dist_slow


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


def everywhere(change: Callable[[], None]) -> None:
    """Rank 0 makes a change, which is made when any rank goes on."""
    dist.barrier()
    if dist.get_rank() == 0:
        change()
    dist.barrier()


def is_to_work(home: Path) -> list[bool]:
    """Whether this rank gets a process group, before and after rank 0 sees a refusal."""
    answers = []
    with pytest.MonkeyPatch.context() as patch:
        runner = without_ray(patch)
        for _ in range(2):
            with runner._worker_context(order_of(home, dist.get_rank())) as (_, _, context, _):
                answers.append(context is not None)
            everywhere((home / "refused-0").touch)
    return answers


def resumes(home: Path) -> list[str]:
    """How this rank resumes, before and after the file of rank 1 that says "begun" is lost."""
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
        for _ in range(2):
            runner.train_on_worker(order_of(home, dist.get_rank()))
            everywhere(partial((home / "begun-1").unlink, missing_ok=True))
    return resumed


def test_workers_leave_together_when_one_of_them_sees_a_refusal(tmp_path: Path) -> None:
    assert run_ranks(is_to_work, 2, tmp_path) == [[True, False], [True, False]]


def test_workers_resume_alike_where_some_do_not_see_yet_that_the_run_began(tmp_path: Path) -> None:
    assert run_ranks(resumes, 2, tmp_path) == [["never", "auto"], ["never", "auto"]]
