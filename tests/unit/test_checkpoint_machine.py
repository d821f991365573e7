"""A state machine over save, crash, damage and retention: what a reader finds is always what a
plain list says.

A crash is an exception that no handler of ours takes, raised just before or just after the n-th
change that the commit
protocol or retention makes on disk. All that was done before it stays, all after it never happens:
a SIGKILL.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, commit, retention, saver
from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, rows_file, step_of
from recmind_dist.checkpoint.reader import find_checkpoint, open_checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.doctor.checkpoints import audit_checkpoints
from recmind_dist.errors import CheckpointError

CHANGES = [
    (saver, "write_shard"),
    (saver, "write_done"),
    (commit, "write_json"),
    (commit, "write_bytes"),
    (os, "link"),
    (commit, "fsync_directory"),
    (retention, "fsync_directory"),
    (os, "unlink"),
    (os, "rmdir"),
]


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def killed_at(change: int, after: bool) -> Iterator[None]:
    """In the block the `change`-th change on disk is the last that happens (`after`), or the first
    that does not.
    """
    count = itertools.count()

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            last = next(count) == change
            if last and not after:
                raise Killed
            try:
                return original(*args, **kwargs)
            finally:  # also where the change was refused, as the unlinking of what is gone is
                if last:
                    raise Killed

        return call

    with contextlib.ExitStack() as stack:
        for module, name in CHANGES:
            stack.enter_context(mock.patch.object(module, name, counting(getattr(module, name))))
        yield


@dataclass
class Saved:
    """What the model of the directory knows of a committed checkpoint."""

    name: str
    value: float
    score: float | None
    good: bool = True


class Checkpoints(RuleBasedStateMachine):
    """Saves of one rank into one directory, with retention."""

    @initialize(keep_last=st.integers(1, 3))
    def start(self, keep_last: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="checkpoints-"))
        self.settings = CheckpointSettings(keep_last=keep_last)
        self.saved: list[Saved] = []
        self.unreadable: set[str] = set()
        """Names of checkpoints whose manifest is damaged: retention does not count them, and leaves
        them alone.
        """
        self.step = self.attempts = 0

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    def _save(self, score: float | None) -> str:
        self.step += 1
        name = self._name()
        rows = {"embedding": torch.full((3, 2), self._value())}
        with Checkpointer(self.directory, 0, 1, (0, 3), 3, self.settings) as one:
            one.save(name, rows, {}, {"score": score})
        return name

    def _take_in(self, score: float | None) -> None:
        """The model's own retention, on the names that are there: a kill may leave more than it
        keeps, never less.
        """
        name = self._name()
        if (self.directory / name / COMMIT).exists():
            self.saved.append(Saved(name, self._value(), score))
        kept = self.kept()
        here = {path.name for path in self.directory.iterdir() if (path / COMMIT).exists()}
        assert kept <= here, "retention has deleted what it keeps"
        self._forget_what_is_gone()

    def _name(self) -> str:
        return attempt_name(
            self.step,
            f"attempt{self.attempts % 10}" if self.attempts < 10 else f"a{self.attempts:07d}",
        )

    def _value(self) -> float:
        return self.step + 1000.0 * self.attempts

    def _forget_what_is_gone(self) -> None:
        here = {path.name for path in self.directory.iterdir() if (path / COMMIT).exists()}
        self.saved = [saved for saved in self.saved if saved.name in here]
        self.unreadable &= here

    def kept(self) -> set[str]:
        counted = [saved for saved in self.saved[::-1] if saved.name not in self.unreadable]
        scored = [saved for saved in counted if saved.score is not None]
        best = sorted(scored, key=lambda saved: saved.score or 0.0, reverse=True)[:1]
        return {
            saved.name for saved in [*counted[: self.settings.keep_last], *best]
        } | self.unreadable

    @rule(score=st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3])))
    def save(self, score: float | None) -> None:
        self._save(score)
        self._take_in(score)
        assert {saved.name for saved in self.saved} == self.kept()
        here = {path.name for path in self.directory.iterdir()}
        # a dead attempt of a later step might be another rank's at this moment: it goes once its
        # step is passed
        left = {name for name in here - self.kept() if (step_of(name) or 0) <= self.step}
        assert not left, "leftovers of dead attempts stay"

    @rule(
        score=st.one_of(st.none(), st.sampled_from([0.1, 0.3])),
        change=st.integers(0, 24),
        after=st.booleans(),
    )
    def save_and_be_killed(self, score: float | None, change: int, after: bool) -> None:
        with contextlib.suppress(Killed), killed_at(change, after):
            self._save(score)
        self._take_in(score)

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        # never the newest: that one is hashed and fsynced just before retention counts on it
        candidates = [saved for saved in self.saved[:-1] if saved.good]
        if not candidates:
            return
        victim = data.draw(st.sampled_from(candidates))
        shard = self.directory / victim.name / rows_file(0)
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
        victim.good = False

    @rule(data=st.data())
    def damage_a_manifest(self, data: st.DataObject) -> None:
        candidates = [
            saved for saved in self.saved[:-1] if saved.good and saved.name not in self.unreadable
        ]
        if not candidates:
            return
        victim = data.draw(st.sampled_from(candidates))
        manifest = self.directory / victim.name / MANIFEST
        manifest.write_bytes(manifest.read_bytes()[:-1] + b" ")
        victim.good = False
        self.unreadable.add(victim.name)

    @rule(keep_last=st.integers(1, 3))
    def start_again_with_other_settings(self, keep_last: int) -> None:
        self.settings = self.settings.model_copy(update={"keep_last": keep_last})

    @rule(back=st.integers(1, 3))
    def start_again_from_an_older_step(self, back: int) -> None:
        """As after a rollback: steps repeat under another attempt's name, and newest is still what
        was saved last.
        """
        self.step = max(self.step - back, 0)
        self.attempts += 1

    @rule(change=st.one_of(st.none(), st.integers(0, 12)), after=st.booleans())
    def doctor(self, change: int | None, after: bool) -> None:
        """What `recmind doctor --repair` does with damaged checkpoints, perhaps killed in the
        middle of it.
        """
        audit = audit_checkpoints(self.directory)
        good = [saved.name for saved in self.saved[::-1] if saved.good]
        assert [one.name for one in audit.good] == good
        assert {fault.path.name for fault in audit.faults} == {
            saved.name for saved in self.saved if not saved.good
        }
        kill = contextlib.nullcontext() if change is None else killed_at(change, after)
        with contextlib.suppress(Killed), kill:
            for fault in audit.faults:
                retention.remove(fault.path)
        self._forget_what_is_gone()

    @rule()
    def damage_the_newest_and_put_it_right(self) -> None:
        good = [saved for saved in self.saved if saved.good]
        if not good:
            return
        shard = self.directory / good[-1].name / rows_file(0)
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1])
        if len(good) == 1:
            with pytest.raises(CheckpointError, match="none is good"):
                find_checkpoint(self.directory)
        else:
            found = find_checkpoint(self.directory)
            assert found is not None
            assert found.name == good[-2].name
        shard.write_bytes(whole)

    @invariant()
    def the_newest_good_one_is_found(self) -> None:
        if not hasattr(self, "saved"):
            return
        good = [saved for saved in self.saved if saved.good]
        if not self.saved:
            assert find_checkpoint(self.directory) is None
            return
        assert good, "retention has deleted the last good checkpoint"
        found = find_checkpoint(self.directory)
        assert found is not None
        assert found.name == good[-1].name
        assert (found.rows(0, 3)["embedding"] == good[-1].value).all()


TestCheckpoints = Checkpoints.TestCase
TestCheckpoints.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


def test_a_kill_at_every_single_change_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    for change, after in itertools.product(range(40), (False, True)):
        directory = tmp_path / f"{change}-{after}"
        one = Checkpointer(directory, 0, 1, (0, 3), 3, CheckpointSettings(keep_last=1))
        old, new = attempt_name(1, "abcdefgh"), attempt_name(2, "abcdefgh")
        one.save(old, {"embedding": torch.zeros(3, 2)}, {}, {})
        one.wait()
        killed = True
        with contextlib.suppress(Killed), killed_at(change, after):
            one.save(new, {"embedding": torch.ones(3, 2)}, {}, {})
            one.wait()
            killed = False
        found = find_checkpoint(directory)
        assert found is not None
        for path in directory.iterdir():  # a half-deleted one no longer exists for a reader
            if (path / COMMIT).exists():
                open_checkpoint(path)
        assert found.name == (new if (directory / new / COMMIT).exists() else old)
        assert (found.rows(0, 3)["embedding"] == float(found.name == new)).all()
        if not killed:
            assert found.name == new
            assert change > 10, (
                "the protocol makes more changes than this: the test no longer sees them"
            )
            return
    raise AssertionError("40 changes were not enough to see a whole save")
