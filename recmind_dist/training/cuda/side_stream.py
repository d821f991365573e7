"""Step inputs made on a CUDA stream of their own, beside the stream that trains.

Without it a wait of the sampler for a number would be a wait for all of training, too.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def make_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream on a GPU, None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class SideStream(Generic[T]):
    """Hands items from their maker's stream to the consumer's; on a CPU it does nothing.

    Args:
        stream: of `make_stream`. One serves a process: torch keeps freed memory by stream.
        num_buffers: in so many buffers items are made in turn, none before the consumer asks for
            it; 0: each has memory of its own.

    Attributes:
        stall_s: on a GPU, the time that its training stream stood still between two items.
    """

    def __init__(self, stream: torch.cuda.Stream | None, num_buffers: int = 0) -> None:
        self._stream = stream
        self._num_buffers = num_buffers
        self._ends = deque[torch.cuda.Event](maxlen=max(num_buffers, 1))
        if stream is not None:  # after what the consumer has put there
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        self.stall_s = 0.0
        self._ready: deque[torch.cuda.Event] = deque()
        self._in_use: deque[tuple[_Use, T]] = deque()

    def make(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, made on the stream; iterated by the maker's thread."""
        source = iter(items)
        if self._stream is None:
            yield from source
            return
        end = object()
        while True:
            with torch.cuda.stream(self._stream):
                if self._num_buffers and len(self._ends) == self._num_buffers:
                    self._stream.wait_event(self._ends[0])  # the last use of the item's buffer
                item = next(source, end)
                if item is end:
                    return
                self._ready.append(self._stream.record_event())
            yield item  # type: ignore[misc]  # not the sentinel

    def take(self, items: Iterable[T]) -> Iterator[T]:
        """The items of `make`, each after its tensors are there; iterated by the consumer.

        An item is kept until the consumer's stream is past it: its memory goes back to the
        maker's stream, which would write over it.
        """
        if self._stream is None:
            yield from items
            return
        consumer, last = torch.cuda.current_stream(self._stream.device), None
        for item in items:
            consumer.wait_event(self._ready.popleft())
            use = _Use(last, _event_on(consumer))
            yield item
            last = use.end = _event_on(consumer)
            self._ends.append(last)
            self._in_use.append((use, item))
            while len(self._in_use) > 1 and self._in_use[0][0].is_over:
                self.stall_s += self._in_use.popleft()[0].waited_s
        consumer.synchronize()
        self.stall_s += sum(use.waited_s for use, _ in self._in_use)
        self._in_use.clear()


@dataclass
class _Use:
    """When the consumer's stream began and ended with an item, and ended with the one before."""

    before: torch.cuda.Event | None
    start: torch.cuda.Event
    end: torch.cuda.Event | None = None

    @property
    def is_over(self) -> bool:
        return self.end is not None and self.end.query()  # type: ignore[no-untyped-call]

    @property
    def waited_s(self) -> float:
        if self.before is None:
            return 0.0
        waited_ms: float = self.before.elapsed_time(self.start)
        return waited_ms / 1000


def _event_on(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
