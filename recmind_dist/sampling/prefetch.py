"""Work ahead in a background thread, and know how long training waited for it."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates `source` in a background thread, at most `depth` items ahead.

    An exception of the source is raised in the consumer. `stall_s` is the time the consumer waited.

    Args:
        source: made and used in the thread alone; depth: items held ready, 0 for no thread; on_wait: called about once a
            second while the consumer waits.
    """

    def __init__(self, source: Iterable[T], depth: int, on_wait: Callable[[float], None] | None = None) -> None:
        self.stall_s = 0.0
        self._source = source
        self._on_wait = on_wait
        self._stop = threading.Event()
        self._queue: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(max(depth, 1))
        self._thread = threading.Thread(target=self._work, daemon=True, name="prefetch") if depth else None
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
        """Stops the thread; what it made ahead is dropped."""
        self._stop.set()
        if self._thread and self._thread is not threading.current_thread():
            while self._thread.is_alive():
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
                if self._on_wait:
                    self._on_wait(time.perf_counter() - start)

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
