"""A profile of a run: which steps it covers, and that its regions are those of the step."""

import json
import re
from pathlib import Path

import torch

import recmind_dist
from recmind_dist.training.profile import INSIDE, PREFIX, StepProfile, named, region


def train(profile: StepProfile, phase: str, steps: int) -> list[int]:
    """An epoch of `steps` steps, each a forward region around a product."""
    done = []
    for step in profile.follow(named(iter(range(steps)), "sample"), phase):
        with region("forward"):
            torch.ones(50, 50) @ torch.ones(50, 50)
        done.append(step)
    return done


def calls(path: Path, region: str) -> int:
    events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("name") == PREFIX + region and event.get("ph") == "X" for event in events)


def test_a_profile_skips_the_first_steps_and_covers_as_many_as_asked(tmp_path: Path) -> None:
    profile = StepProfile(tmp_path, 0, wanted=True, skip=2, steps=3)
    assert train(profile, "joint", 9) == list(range(9))
    assert calls(tmp_path / "profile" / "joint-rank0.trace.json", "forward") == 3
    assert "forward" in (tmp_path / "profile" / "joint-rank0.txt").read_text()


def test_short_epochs_add_up_until_the_skipped_steps_are_over(tmp_path: Path) -> None:
    profile = StepProfile(tmp_path, 1, wanted=True, skip=3, steps=5)
    for _ in range(3):
        train(profile, "joint", 2)
    # the fourth step, the last of its epoch
    assert calls(tmp_path / "profile" / "joint-rank1.trace.json", "forward") == 1


def test_phases_have_profiles_of_their_own(tmp_path: Path) -> None:
    profile = StepProfile(tmp_path, 0, wanted=True, skip=0, steps=1)
    train(profile, "warmup", 2)
    train(profile, "joint", 2)
    assert {path.name for path in (tmp_path / "profile").glob("*.txt")} == {
        "warmup-rank0.txt",
        "joint-rank0.txt",
    }


def test_without_the_setting_nothing_is_written(tmp_path: Path) -> None:
    assert train(StepProfile(tmp_path, 0, wanted=False), "joint", 9) == list(range(9))
    assert not list(tmp_path.iterdir())


def test_the_parts_of_forward_and_backward_are_autograd_functions_of_the_package() -> None:
    source = "\n".join(path.read_text() for path in Path(recmind_dist.__path__[0]).rglob("*.py"))
    functions = set(re.findall(r"^class (\w+)\(torch\.autograd\.Function\)", source, re.MULTILINE))
    named_here = {name for names in INSIDE.values() for name in names if name.startswith("_")}
    assert named_here == {
        f"{name}{suffix}"
        for name in functions - {"_SampledSoftmax", "_WithRows", "_PairScores"}
        for suffix in ("", "Backward")
    }
