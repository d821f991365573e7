"""Real processes for tests: `run_ranks` runs one module-level function on P ranks of a gloo group
and brings the answers home, `Program` runs one alone.

Children come from a fork server that has imported once what they need, so a group of them starts in
about a second.
"""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from queue import Empty
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "recmind_dist.training.trainer",
        "zarr",
        # what a rank would import and load at its first start, for six seconds
        "torch._dynamo",
        "tests.deepspeed_on_cpu",
        "tests.first_start",
        # what files of tests import, and so each of their children: up to three seconds
        "pytest",
        "hypothesis",
        "recmind_dist.pipeline.update",
        "recmind_dist.experiments.comparison",
        "recmind_dist.export.write_bundle",
        "tests.tiny_language_model",
    ]
)


class Program:
    """`function(*args)` in a process of its own, its output caught, as `Popen` has it.

    For programs that would import torch and this package for seconds before they do anything.

    Attributes:
        process: ended, its exit code is that of the function: 0, 1 if it raised, negative for a
            signal.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="program")
        streams = [Path(self._directory.name) / name for name in ("stdout", "stderr")]
        for stream in streams:
            stream.touch()
        self._stdout, self._stderr = streams
        self.process = CONTEXT.Process(target=_speak, args=(streams, function, args), daemon=True)
        self.process.start()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        """What it has said so far besides."""
        return self._stderr.read_text()

    def wait(self, timeout_s: float = 150.0) -> int:
        """Its exit code once it has ended. Fails if it does not."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        assert code is not None, f"the program did not end within {timeout_s:g} s: {self.stderr}"
        return code

    def kill(self) -> None:
        """kill -9, if it still runs."""
        self.process.kill()
        self.process.join()


def _speak(streams: list[Path], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    for descriptor, stream in enumerate(streams, 1):
        with stream.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    function(*args)


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0
) -> list[Any]:
    """Calls `function(*args)` on each rank of a gloo group of its own. Returns what each rank
    returned, in rank order.

    Fails, with the traceback of the first rank that raised, as soon as one does; and after
    `timeout_s` in any case.
    """
    answers = CONTEXT.Queue()
    with tempfile.TemporaryDirectory(prefix="ranks") as directory:
        meeting = str(Path(directory) / "store")
        children = [
            CONTEXT.Process(
                target=_child,
                args=(function, rank, world_size, meeting, answers, args),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for child in children:
            child.start()
        try:
            return _collect(answers, children, timeout_s)
        finally:
            for child in children:
                if child.is_alive():
                    child.kill()
                child.join()


def _collect(answers: Any, children: list[Any], timeout_s: float) -> list[Any]:
    found: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(children):
        try:
            rank, answer, failure = answers.get(timeout=0.5)
        except Empty:
            dead = [r for r, child in enumerate(children) if child.exitcode and r not in found]
            assert not dead, f"rank {dead[0]} died with exit code {children[dead[0]].exitcode}"
            late = [r for r in range(len(children)) if r not in found]
            assert time.monotonic() < deadline, f"ranks {late} gave no answer within {timeout_s} s"
            continue
        assert failure is None, f"rank {rank} of {len(children)} failed:\n{failure}"
        found[rank] = answer
    return [found[rank] for rank in range(len(children))]


def _child(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    meeting: str,
    answers: Any,
    args: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size)
    )
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        answer = function(*args)
        dist.barrier()  # nobody leaves while another still talks to it
        answers.put((rank, answer, None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
