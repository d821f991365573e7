"""What holds for all tests: one thread a process and child, set before torch reads it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    """Where the Ray of a module's commands lives: a short path, since it holds sockets.

    Processes that outlive the commands which started them are a failure.
    """
    from tests.shop import ray_processes, wait_until_none

    directory = Path(tempfile.mkdtemp(prefix="r"))
    yield directory
    left = wait_until_none(directory)
    for process in ray_processes(directory):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
    assert not left, f"processes {left} outlived the commands that started them"
