"""Real processes on gloo for tests: `run_ranks` runs one module-level function on P ranks and
brings the answers home.

Children come from a fork server that has imported torch and DeepSpeed once, so a group of them
starts in about a second.
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
    # the last two are what torch and DeepSpeed import at an engine's first start, for six seconds
    ["recmind_dist.training.trainer", "zarr", "torch._dynamo", "tests.deepspeed_on_cpu"]
)


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
