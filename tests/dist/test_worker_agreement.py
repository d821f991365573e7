"""What workers read from shared storage they may read at different times: they act on it together,
or not at all.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.processes import run_ranks
from tests.training_runs import config_of


def order_of(home: Path, rank: int) -> dict[str, Any]:
    """A training order whose files only rank 0 has seen: this rank looks for names of its own."""
    config = config_of(home, "run")
    return {
        "config": config.model_dump(mode="json"), "inputs": {"graph": "graph"}, "run_dir": str(home / "run"), "requirements": {
            "versions": {}, "token": "", "word": ""}, "refusal": str(home / f"refused-{rank}"), "resume": "never",
        "begun": str(home / f"begun-{rank}"), "allow_mismatch": False, "phases": ["joint"],
    }


def without_ray(patch: pytest.MonkeyPatch) -> Any:
    """The module that Ray's workers run, on plain processes."""
    from recmind_dist.launch import ray_train as runner

    patch.setattr(runner, "get_device", lambda: torch.device("cpu"))
    patch.setattr(runner, "check_node", lambda requirements: None)
    return runner


def has_a_place(home: Path) -> bool:
    """Whether this rank is to work."""
    with pytest.MonkeyPatch.context() as patch:
        runner = without_ray(patch)
        with runner._worker_context(order_of(home, dist.get_rank())) as (_, _, ranks, _):
            return ranks is not None


def resumes(home: Path) -> str:
    """How this rank was told to resume."""
    heard: list[str] = []

    class Listener:
        """In the worker's place."""

        def __init__(self, *words: Any) -> None:
            heard.append(words[6])

        def train_rank(self, phases: tuple[str, ...]) -> None:
            """Nothing to do."""

    with pytest.MonkeyPatch.context() as patch:
        runner = without_ray(patch)
        patch.setattr(runner, "Worker", Listener)
        runner.train_on_worker(order_of(home, dist.get_rank()))
    return heard[0]


def test_workers_leave_together_when_one_of_them_sees_a_refusal(tmp_path: Path) -> None:
    assert run_ranks(has_a_place, 2, tmp_path) == [True, True]
    (tmp_path / "refused-0").touch()
    assert run_ranks(has_a_place, 2, tmp_path) == [False, False]


def test_workers_resume_alike_when_some_do_not_see_yet_that_the_run_was_begun(tmp_path: Path) -> None:
    assert run_ranks(resumes, 2, tmp_path) == ["never", "never"]
    (tmp_path / "begun-1").unlink()
    assert run_ranks(resumes, 2, tmp_path) == ["auto", "auto"]
