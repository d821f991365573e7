"""Fault points: places where a test can make a run fail on purpose. In production nothing is armed,
and `check` does nothing.

A test arms them by the environment variable RECMIND_FAULTS, JSON or the path of a JSON file, or by
`arm`:

    [{"point": "step", "rank": 1, "step": 12, "action": "kill", "once": "/tmp/test/killed"}]

rank: of the worker, absent: any. step: the first at which it acts, absent: any. once: a file that
marks it as done, so that the restarted run is spared; absent: it acts every time. until: a file;
the action "pause" waits for it.

| point | where |
|---|---|
| ingest, prepare | the lock of a data set, of a graph is held; nothing is built yet |
| encode, embedded | extraction: a batch of texts (their count); a shard not yet written (number) |
| sample | the sampler's thread, before it prepares a batch |
| step | before a step |
| gradient | after backward, before the update; "nan" spoils the gradient of this rank's rows |
| dense gradient | in backward; "nan" spoils a gradient of the dense part |
| shard, share | checkpoint: a rank's rows will be written; are written, its word is not |
| commit | checkpoint: manifest written, COMMIT not |
| report | COMMIT written, not yet reported to Ray |
| mirror | before a checkpoint is copied to `storage_uri` |
"""

import errno
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmind_dist.errors import ConfigError

VARIABLE = "RECMIND_FAULTS"
ACTIONS = ("crash", "kill", "hang", "exception", "nan", "enospc", "memory", "slow", "pause")
SLOW_S = 3.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where. Fields as in the module's docstring."""

    point: str
    action: str
    rank: int | None = None
    step: int | None = None
    once: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(
                f"{VARIABLE}: action {self.action!r}: choose one of {', '.join(ACTIONS)}"
            )
        if self.action == "pause" and self.until is None:
            raise ConfigError(f"{VARIABLE}: action pause: give until, the file that it waits for")


class _Points:
    armed: tuple[Fault, ...] = ()


def check(point: str, rank: int = 0, step: int = 0, tensor: Any = None) -> None:
    """Fails here if a test has armed this point for this rank and step.

    Args:
        tensor: what the action "nan" spoils, in place.
    """
    if _Points.armed:
        _act(point, rank, step, tensor)


def arm(faults: str | None) -> None:
    """Arms the faults of a JSON list, or of the file at a path; None: none. Raises ConfigError if
    they are not readable.
    """
    if not faults:
        _Points.armed = ()
        return
    try:
        text = faults if faults.lstrip().startswith("[") else Path(faults).read_text()
        _Points.armed = tuple(Fault(**fault) for fault in json.loads(text))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{VARIABLE}: no list of faults ({error}): give JSON, or unset it"
        ) from error


def _act(point: str, rank: int, step: int, tensor: Any) -> None:
    for fault in _Points.armed:
        here = fault.point == point and fault.rank in (None, rank)
        if here and (fault.step is None or step >= fault.step) and _first_time(fault):
            _fail(fault, f"fault {fault.action} at {point}, rank {rank}, step {step}", tensor)


def _first_time(fault: Fault) -> bool:
    if fault.once is None:
        return True
    try:
        Path(fault.once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail(fault: Fault, what: str, tensor: Any) -> None:
    match fault.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os._exit(70)
        case "hang":
            while True:
                time.sleep(1)
        case "slow":
            time.sleep(SLOW_S)
        case "pause":
            while not Path(str(fault.until)).exists():
                time.sleep(0.05)
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)
        case "memory":
            raise MemoryError(what)
        case "nan":
            tensor.fill_(float("nan"))
        case _:
            raise RuntimeError(what)


arm(os.environ.get(VARIABLE))
