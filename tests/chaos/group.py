"""Groups of worker processes that die: real `Trainer`s over gloo, killed, watched, and started
again as Ray starts them.
"""

import json
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from tests.processes import CONTEXT

PHASES = ("warmup", "joint")
SPEAK_S = 8.0
Faults = Sequence[dict[str, Any]]


class Group:
    """One start of all ranks of a run. The first rank that dies badly takes the others along, as
    under Ray.

    Args:
        faults: armed in every rank, see recmind_dist/faults.py.
        save_wait_s: patience of a save with late ranks.
    Attributes:
        exit_codes: of each rank once it has ended; negative: a signal.
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: RunStores,
        world_size: int = 2,
        faults: Faults = (),
        resume: str = "auto",
        allow_mismatch: bool = False,
        save_wait_s: float = 60.0,
    ) -> None:
        self._meeting = tempfile.TemporaryDirectory(prefix="group")
        self.started = time.monotonic()
        attempt, home = uuid.uuid4().hex, self._meeting.name
        how = (json.dumps(list(faults)), resume, allow_mismatch, save_wait_s, dict(os.environ))
        self.processes = [
            CONTEXT.Process(
                target=_work,
                args=(config, inputs, rank, world_size, home, attempt, *how),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    @property
    def exit_codes(self) -> list[int | None]:
        return [process.exitcode for process in self.processes]

    def kill(self, rank: int) -> None:
        """kill -9."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def wait(self, timeout_s: float = 270, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits for the end of all ranks, or for `until`. Returns whether all ended well."""
        deadline = self.started + timeout_s
        while any(code is None for code in self.exit_codes):
            if any(self.exit_codes):
                self._hear_the_others()
                break
            if until():
                return False
            assert time.monotonic() < deadline, (
                f"ranks did not end within {timeout_s} s: {self.exit_codes}"
            )
            time.sleep(0.01)
        codes = self.exit_codes
        self.end()
        return not any(code != 0 for code in codes)

    def _hear_the_others(self) -> None:
        """Those that have an error of their own to tell get the time for it; beside one that was
        killed they have none.
        """
        deadline = time.monotonic() + (
            0.3 if any(code and code < 0 for code in self.exit_codes) else SPEAK_S
        )
        while any(code is None for code in self.exit_codes) and time.monotonic() < deadline:
            time.sleep(0.01)

    def end(self) -> None:
        """Kills whoever is left."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    def error(self, rank: int) -> str:
        """What a rank raised, "Kind: sentence"; empty if nothing."""
        path = Path(self._meeting.name) / f"error-{rank}"
        return path.read_text() if path.exists() else ""


def _work(
    config: RunConfig,
    inputs: RunStores,
    rank: int,
    world_size: int,
    home: str,
    attempt: str,
    faults: str,
    resume: str,
    allow_mismatch: bool,
    save_wait_s: float,
    environment: dict[str, str],
) -> None:
    # the fork server has that of the moment at which the first test needed it
    os.environ.update(environment)
    import logging

    import torch.distributed as dist

    from recmind_dist.checkpoint import saver
    from recmind_dist.distributed.context import DistContext
    from recmind_dist.faults import arm
    from recmind_dist.report.metrics_log import WarningsToMetrics
    from recmind_dist.training.trainer import Trainer

    torch.set_num_threads(1)
    arm(faults)
    saver.WAIT_S = save_wait_s
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size)
    )
    limit = config.scaling.collective_timeout_s
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{home}/store",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=limit),
        )
        run = RunDirectory(config.run_dir)
        run.create()
        logging.getLogger("recmind_dist").addHandler(WarningsToMetrics(run.metrics, rank))
        context = DistContext.join_group(torch.device("cpu"), limit)
        worker = Trainer(
            config, inputs, context, run, attempt, lambda _: None, resume, allow_mismatch
        )
        worker.train(PHASES)
        context.barrier()
    except BaseException as error:
        Path(home, f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)  # a thread in a collective would keep the process
    os._exit(0)


def run_to_end(
    config: RunConfig, inputs: RunStores, faults: Faults = (), starts: int = 3, world_size: int = 2
) -> int:
    """Starts groups until one ends well. Returns how many it took; fails after `starts`."""
    for number in range(1, starts + 1):
        group = Group(config, inputs, world_size, faults)
        if group.wait():
            return number
    raise AssertionError(
        f"not done after {starts} starts: {[group.error(rank) for rank in range(world_size)]}"
    )


def content(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's newest checkpoint: table and optimizer by row, dense part, queue."""
    found = find_checkpoint(run_dir / "checkpoints")
    assert found is not None
    return {
        f"rows.{name}": value for name, value in found.rows(0, found.num_rows).items()
    } | found.dense()


def assert_same(run_dir: Path, other: Path) -> None:
    """The newest checkpoints of two runs are of the same step and equal bit for bit."""
    ours, theirs = content(run_dir), content(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    steps = [
        found.step for path in (run_dir, other) if (found := find_checkpoint(path / "checkpoints"))
    ]
    assert steps[0] == steps[1]
