"""Bytes are counted by the prefetching thread and the training thread at once, and none is lost."""

import threading
from collections.abc import Callable

import pytest

from recmind_dist.distributed.traffic import KINDS, Traffic


class Meanwhile(int):
    """A number of bytes; while it is added, another thread does something to the counters."""

    def __new__(cls, value: int, work: Callable[[], object]) -> "Meanwhile":
        made = super().__new__(cls, value)
        made.thread = threading.Thread(target=work)
        return made

    thread: threading.Thread

    def __radd__(self, other: int) -> int:
        self.thread.start()
        self.thread.join(0.3)  # it ends, or waits until this is added
        return other + int(self)


def test_what_two_threads_add_at_once_is_all_counted() -> None:
    traffic = Traffic()
    sent = Meanwhile(100, lambda: traffic.add("ids", 7))
    traffic.add("ids", sent)
    sent.thread.join()
    assert traffic.take() == {**dict.fromkeys(KINDS, 0), "ids": 107}


def test_what_is_added_while_the_counts_are_taken_is_in_one_of_them() -> None:
    traffic, taken = Traffic(), []
    traffic.add("ids", 1)
    sent = Meanwhile(100, lambda: taken.append(traffic.take()))
    traffic.add("ids", sent)
    sent.thread.join()
    assert taken[0]["ids"] + traffic.take()["ids"] == 101


def test_a_kind_that_nobody_knows_is_a_defect() -> None:
    with pytest.raises(KeyError):
        Traffic().add("letters", 1)
