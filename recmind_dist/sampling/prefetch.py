"""Makes items ahead in a background thread, and measures how long the consumer waited."""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from recmind_dist.errors import WorkerLostError

log = logging.getLogger(__name__)
T = TypeVar("T")
CLOSE_S = 10.0
_NICENESS = 5  # added to the thread's; raising it needs no privilege


def _lower_priority() -> None:
    """Training goes first where both threads share a core: other ranks wait for its rows."""
    if sys.platform.startswith("linux"):  # elsewhere a priority belongs to the whole process
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness))


class Prefetcher(Generic[T]):
    """Iterates `source` in a background thread, at most `depth` items ahead.

    An exception of the source is raised in the consumer. A thread that died, or that makes nothing
    for `timeout_s`, raises WorkerLostError there. `stall_s` is the time that the consumer waited.

    Args:
        source: iterated only in the thread.
        depth: items held ready, 0 for no thread.
        on_wait: called about once a second, with the seconds waited, while the consumer waits.
        timeout_s: longest time for one item. Default: no limit.
    """

    def __init__(
        self,
        source: Iterable[T],
        depth: int,
        on_wait: Callable[[float], None] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.stall_s = 0.0
        self._timeout_s = timeout_s
        self._source = source
        self._on_wait = on_wait
        self._stop = threading.Event()
        self._queue: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(max(depth, 1))
        self._thread = (
            threading.Thread(target=self._work, daemon=True, name="prefetch") if depth else None
        )
        if self._thread:
            self._thread.start()

    def __iter__(self) -> Iterator[T]:
        if self._thread is None:
            yield from self._timed_source()
            return
        try:
            while True:
                kind, item = self._next()
                if kind == "end":
                    return
                if kind == "error":
                    assert isinstance(item, BaseException)
                    raise item
                yield item  # type: ignore[misc]
        finally:
            self.close()

    def close(self) -> None:
        """Stops the thread and drops its items. A thread that hangs ends with the process."""
        self._stop.set()
        if self._thread and self._thread is not threading.current_thread():
            deadline = time.monotonic() + CLOSE_S
            while self._thread.is_alive():
                if time.monotonic() > deadline:
                    log.warning("the sampler's thread does not end: left at %s", self._position())
                    return
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    self._thread.join(0.01)

    def _next(self) -> tuple[str, T | BaseException | None]:
        start = time.perf_counter()
        while True:
            try:
                item = self._queue.get(timeout=1.0)
                self.stall_s += time.perf_counter() - start
                return item
            except queue.Empty:
                if self._stop.is_set():
                    raise RuntimeError("the prefetcher has ended: make a new one") from None
                waited = time.perf_counter() - start
                if self._on_wait:
                    self._on_wait(waited)
                self._watch(waited)

    def _watch(self, waited_s: float) -> None:
        """Raises WorkerLostError if the thread died, or nothing has come for too long."""
        assert self._thread is not None
        if not self._thread.is_alive() and self._queue.empty():
            raise WorkerLostError(
                "the sampler's thread died and left no error: see the worker's log, then run again"
            )
        if self._timeout_s is not None and waited_s > self._timeout_s:
            raise WorkerLostError(
                f"the sampler's thread has made no batch for {waited_s:.0f} s, it stands at "
                f"{self._position()}: look there, or raise scaling.collective_timeout_s if it is "
                "only slow"
            )

    def _position(self) -> str:
        """File, line and function that the thread is in."""
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread else None
        if frame is None:
            return "its end"
        return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"

    def _timed_source(self) -> Iterator[T]:
        iterator = iter(self._source)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.stall_s += time.perf_counter() - start
            yield item

    def _work(self) -> None:
        try:
            _lower_priority()
            for item in self._source:
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, entry: tuple[str, T | BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
