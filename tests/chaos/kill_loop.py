"""kill -9 of a two-worker run at random moments, again and again; in the end the bytes of an
undisturbed run.

    python -m tests.chaos.kill_loop --kills 200 --seed 0

Moments are drawn from the seed: while the workers start, or some steps and milliseconds after they
went on; rank 0, rank 1
or both. The run saves itself before its first step. The first kills, up to one in twenty, come
before that COMMIT: there is nothing to go on from yet, so those are counted apart, and the starts
after them must begin at step 0. All others must go on from the newest COMMIT. One that did not, or
that began at step 0 though a later COMMIT was there, is a restart from zero.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recmind_dist.checkpoint.layout import COMMIT, attempt_directories
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from tests.chaos.conftest import chaos_config
from tests.chaos.group import Group, assert_same, run_to_end
from tests.training_runs import make_inputs

# of the run's length; a kill is drawn up to 9 steps after the start, and some of those are lost
STEPS_A_KILL = 8
IN_START = 0.15  # share of the kills while processes start, within START_S
START_S = 1.5
# share of the kills, at most, that come before anything is committed; within EARLY_S of a start
EARLY, EARLY_S = (0.05, 0.5)


@dataclass
class Account:
    """What a loop did.

    Attributes:
        kills: of a rank that was alive.
        starts: of both workers.
        resumed_at: newest COMMIT's step (None: there was none) and steps done of each start that
            got so far as to say so.
        moments: kills by what they fell into.
        newest: kills by the newest COMMIT that they left.
        cut_saves: kills that left a save without COMMIT.
    """

    kills: int = 0
    starts: int = 0
    resumed_at: list[tuple[int | None, int]] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)
    newest: Counter[str] = field(default_factory=Counter)
    cut_saves: int = 0

    @property
    def from_zero(self) -> int:
        """Starts that did not go on from the newest COMMIT."""
        return sum(done != (committed or 0) for committed, done in self.resumed_at)


class Follower:
    """Reads what is added to metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._rest = path, 0, b""

    def new(self) -> list[dict[str, object]]:
        """Records since the last call; torn ones are left out."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def kill_loop(home: Path, kills: int, seed: int) -> Account:
    """Trains through `kills` kills to the end, and compares with an undisturbed run.

    Raises:
        AssertionError: bytes differ, or the run was not long enough for so many kills.
    """
    inputs = make_inputs(home)
    changes = {
        "checkpoint": {"every_steps": 2},
        "train": {"epochs": 3 + STEPS_A_KILL * kills // 6},  # 6 steps an epoch
        "evaluation": {"every_epochs": 10_000},
        "scaling": {"collective_timeout_s": 60},
    }
    calm, killed = (chaos_config(home, name, **changes) for name in ("calm", "killed"))
    run_to_end(calm, inputs, starts=1)
    account = _kill_and_resume(killed, inputs, kills, np.random.default_rng(seed))
    assert_same(killed.run_dir, calm.run_dir)
    return account


def _kill_and_resume(
    config: RunConfig, inputs: RunStores, kills: int, rng: np.random.Generator
) -> Account:
    account, metrics = Account(), Follower(config.run_dir / "metrics.jsonl")
    while True:
        committed, unfinished = _newest(config), _without_commit(config)
        group = Group(config, inputs)
        account.starts += 1
        if account.kills == kills:
            assert group.wait(timeout_s=900), [group.error(rank) for rank in (0, 1)]
            _note_start(account, committed, metrics.new())
            return account
        early = committed is None and account.newest["none"] < EARLY * kills
        moment = "in a start" if early or rng.random() < IN_START else "in training"
        window_s = EARLY_S if early else START_S if moment == "in a start" else 0.0
        seen = _wait_for(group, metrics, window_s, rng)
        victims = [[0], [1], [0, 1]][rng.integers(3)]
        assert None in group.exit_codes, f"the run ended after {account.kills} of {kills} kills"
        for rank in victims:
            group.kill(rank)
        group.end()
        account.kills += 1
        account.moments[moment] += 1
        left = _newest(config)
        account.newest["none" if left is None else "step 0" if left == 0 else "a later step"] += 1
        account.cut_saves += bool(_without_commit(config) - unfinished)
        _note_start(account, committed, seen + metrics.new())


def _wait_for(
    group: Group, metrics: Follower, window_s: float, rng: np.random.Generator
) -> list[dict[str, object]]:
    """Waits for the moment of the next kill, within `window_s` of the start or some steps on.
    Returns what was logged.
    """
    if window_s:
        time.sleep(float(rng.uniform(0, window_s)))
        return []
    ahead, delay_s = int(rng.integers(0, 10)), float(rng.uniform(0, 0.06))
    seen: list[dict[str, object]] = []

    def reached() -> bool:
        seen.extend(metrics.new())
        return sum(entry["kind"] == "step" for entry in seen) >= ahead and any(
            e["kind"] == "start" for e in seen
        )

    group.wait(until=reached)
    time.sleep(delay_s)
    return seen


def _newest(config: RunConfig) -> int | None:
    """The step of the newest COMMIT; None if there is none."""
    found = find_checkpoint(config.run_dir / "checkpoints", verify=False)
    return found.step if found else None


def _without_commit(config: RunConfig) -> set[str]:
    paths = attempt_directories(config.run_dir / "checkpoints")
    return {path.name for path in paths if not (path / COMMIT).exists()}


def _note_start(account: Account, committed: int | None, records: list[dict[str, object]]) -> None:
    account.resumed_at += [
        (committed, int(str(entry["steps_done"]))) for entry in records if entry["kind"] == "start"
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-loop") as home:
        account = kill_loop(Path(home), chosen.kills, chosen.seed)
    print(
        f"{account.kills} kills ({dict(account.moments)}), {account.starts} starts, "
        f"{time.monotonic() - start:.0f} s"
    )
    print(
        f"newest COMMIT after a kill: {dict(account.newest)}; kills that left a save without "
        f"COMMIT: {account.cut_saves}"
    )
    told = f"{account.from_zero} of {len(account.resumed_at)} that said where"
    print(f"starts that did not go on from the newest COMMIT: {told}; end: bytes as undisturbed")


if __name__ == "__main__":
    main()
