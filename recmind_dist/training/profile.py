"""Where a step's time goes: a Chrome trace and a text summary of the first steps of each phase,
with named regions.

Regions are torch.profiler's record_function names that begin with "recmind::"; they cost nothing to
speak of while no profile runs. What happens inside forward and backward has the names of its
autograd functions.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from recmind_dist.storage import write_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")

PREFIX = "recmind::"
REGIONS = ("sample", "gather", "forward", "backward", "update", "queue")
"""What a step consists of, in order; `sample` is the prefetching thread's and overlaps the others.
"""
INSIDE = {
    "exchange": ("_Lookup", "_LookupBackward", "_AllGather", "_AllGatherBackward"),
    "propagate": (
        "_Hop",
        "_HopBackward",
        "_Mean",
        "_MeanBackward",
        "_GatherSum",
        "_GatherSumBackward",
    ),
    "scatter": ("IndexSelectBackward0", "IndexBackward0", "EmbeddingBackward0"),
}
"""Parts of forward and backward by the autograd functions that do them."""
_of_all_threads: set[Any] = set()  # profilers that `start_profile` has started


class StepProfile:
    """Profiles `steps` steps of every phase after `skip`, and writes
    <run>/profile/<phase>-rank<r>.{trace.json,txt}.

    Args:
        run_dir: the run's directory.
        rank: of this worker.
        wanted: False makes this do nothing.
    """

    def __init__(
        self, run_dir: Path, rank: int, wanted: bool, skip: int = 3, steps: int = 20
    ) -> None:
        self._folder, self._rank, self._wanted = run_dir / "profile", rank, wanted
        self._skip, self._steps = skip, steps
        self._seen: dict[str, int] = defaultdict(int)
        self._done: set[str] = set()

    def follow(self, prepared: Iterator[T], phase: str) -> Iterator[T]:
        """The same steps; the work that the caller does on each of them is what is profiled.

        A phase's profile ends with the epoch in which it began, however few steps that has left.
        """
        running: Any = None
        count = 0
        try:
            for step in prepared:
                if running is not None and count >= self._steps:
                    self._finish(running, phase, count)
                    running = None
                if (
                    self._wanted
                    and phase not in self._done
                    and running is None
                    and self._seen[phase] >= self._skip
                ):
                    running = start_profile()
                self._seen[phase] += 1
                count += running is not None
                yield step
        finally:
            if running is not None:
                self._finish(running, phase, count)

    def _finish(self, running: Any, phase: str, count: int) -> None:
        stop_profile(running)
        self._done.add(phase)
        stem = self._folder / f"{phase}-rank{self._rank}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            running.export_chrome_trace(f"{stem}.trace.json")
            write_bytes(stem.with_suffix(".txt"), summary(running, count).encode())
        except OSError as error:  # a full disk does not end the training that is looked at
            log.warning("%s: the profile is not written: %s", self._folder, error)


def start_profile() -> Any:
    """A profiler that runs, over all threads, so that sampling is seen too."""
    from torch._C._profiler import _ExperimentalConfig

    activities = [ProfilerActivity.CPU] + (
        [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    )
    running = profile(
        activities=activities, experimental_config=_ExperimentalConfig(profile_all_threads=True)
    )
    running.start()
    _of_all_threads.add(running)
    return running


def stop_profile(running: Any) -> None:
    """Stops what `start_profile` returned."""
    running.stop()
    _of_all_threads.discard(running)


def region(name: str) -> AbstractContextManager[Any]:
    """A named region of the profile; nothing while none runs."""
    # torch says of this thread whether somebody profiles it, not whether all threads are profiled
    in_thread = torch.autograd._profiler_enabled()  # type: ignore[attr-defined]  # not in the stubs
    if not (in_thread or _of_all_threads):
        return nullcontext()
    return record_function(PREFIX + name)


def named(batches: Iterator[T], name: str) -> Iterator[T]:
    """The same items; making each of them is the region's work."""
    end = object()
    while True:
        with record_function(PREFIX + name):
            item = next(batches, end)
        if item is end:
            return
        yield item  # type: ignore[misc]  # not the sentinel


def region_ms(running: Any, steps: int) -> dict[str, float]:
    """Milliseconds a step of every region, and of the parts inside forward and backward."""
    total = {
        event.key: event.cpu_time_total / 1000 / max(steps, 1) for event in running.key_averages()
    }
    found = {name: total.get(PREFIX + name, 0.0) for name in REGIONS}
    return found | {name: sum(total.get(key, 0.0) for key in keys) for name, keys in INSIDE.items()}


def summary(running: Any, steps: int) -> str:
    """Regions first, then the operators that took most time themselves."""
    found = region_ms(running, steps)
    step_ms = sum(found[name] for name in REGIONS if name != "sample")
    lines = [f"{steps} steps, {step_ms:.2f} ms each (sampling, in its own thread, apart)", ""]
    for name, ms in found.items():
        where = "" if name in REGIONS else ", inside forward and backward"
        lines.append(
            f"{name:>10} {ms:10.3f} ms {100 * ms / max(step_ms, 1e-9):6.1f} % of the step{where}"
        )
    operators = running.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
    return "\n".join([*lines, "", operators, ""])
