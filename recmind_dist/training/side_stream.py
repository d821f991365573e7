"""Step inputs made on a CUDA stream of their own, beside the stream that trains.

Without it a wait of the sampler's thread for a number would be a wait for all of training, too.
"""

from collections import deque
from collections.abc import Iterable, Iterator
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
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        if stream is not None:  # after what the consumer has put there
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        self._ready: deque[torch.cuda.Event] = deque()
        self._in_use: deque[tuple[torch.cuda.Event, T]] = deque()

    def make(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, made on the stream; iterated by the maker's thread."""
        source = iter(items)
        if self._stream is None:
            yield from source
            return
        end = object()
        while True:
            with torch.cuda.stream(self._stream):
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
        for item in items:
            torch.cuda.current_stream(self._stream.device).wait_event(self._ready.popleft())
            yield item
            done = torch.cuda.current_stream(self._stream.device).record_event()
            self._in_use.append((done, item))
            while len(self._in_use) > 1 and self._in_use[0][0].query():  # type: ignore[no-untyped-call]
                self._in_use.popleft()
