"""Working ahead: order kept, exceptions brought home, threads ended, waiting counted."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from recmind_dist.sampling import prefetch
from recmind_dist.sampling.prefetch import Prefetcher


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order_and_the_thread_ends(depth: int) -> None:
    assert list(Prefetcher(range(50), depth)) == list(range(50))
    assert not prefetch_threads()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_of_the_source_is_raised_in_the_consumer(depth: int) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    items = iter(Prefetcher(source(), depth))
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)
    assert not prefetch_threads()


def test_it_works_at_most_depth_ahead_and_leaving_early_ends_it() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for k in range(1000):
            made.append(k)
            yield k

    steps = Prefetcher(source(), 3)
    iterator = iter(steps)
    assert next(iterator) == 0
    deadline = time.monotonic() + 60
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 5  # one taken, three ready, one in hand
    iterator.close()  # type: ignore[attr-defined]
    assert not prefetch_threads()


def test_waiting_is_counted_and_the_consumers_own_time_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow() -> Iterator[int]:
        for k in range(3):
            clock[0] += 0.3
            yield k

    steps = Prefetcher(slow(), 0)
    for _ in steps:
        clock[0] += 10
    assert steps.stall_s == pytest.approx(0.9)


def test_waiting_for_the_thread_is_counted() -> None:
    def slow() -> Iterator[int]:
        for k in range(3):
            time.sleep(0.3)
            yield k

    start = time.perf_counter()
    steps = Prefetcher(slow(), 1)
    list(steps)
    assert 0 < steps.stall_s <= time.perf_counter() - start


def test_a_closed_prefetcher_says_so_instead_of_waiting_for_ever() -> None:
    steps = Prefetcher(range(3), 2)
    assert list(steps) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="ended"):
        next(iter(steps))


def test_the_caller_hears_of_a_long_wait() -> None:
    waits: list[float] = []

    def until_heard() -> Iterator[int]:
        while not waits:
            time.sleep(0.01)
        yield 1

    assert list(Prefetcher(until_heard(), 1, waits.append)) == [1]
    assert waits[0] >= 1.0


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="priorities of threads are Linux's"
)
def test_its_thread_stands_back_from_wherever_the_process_is() -> None:
    """Ray starts workers with niceness 15, and going back up is not for everybody."""
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def items() -> Iterator[int]:
        yield os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert list(Prefetcher(items(), 1)) == [min(19, here + 5)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here
