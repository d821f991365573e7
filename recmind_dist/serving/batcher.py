"""Requests that wait together are ranked together: one matrix product a batch."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from recmind_dist.serving.refusal import Refusal

Query = TypeVar("Query")
Answer = TypeVar("Answer")


class Batcher(Generic[Query, Answer]):
    """Answers queries in batches, one batch at a time, in a thread of its own.

    No query waits on purpose: a batch is whatever came while the one before was ranked.

    Args:
        answer: queries → an answer or an exception each, in their order.
        batch: most queries of a batch.
        waiting: most queries that wait.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Query]], Sequence[Answer | Exception]],
        batch: int,
        waiting: int,
    ) -> None:
        self._answer, self._batch, self._most = answer, batch, waiting
        self._queue: deque[tuple[Query, asyncio.Future[Answer]]] = deque()
        self._thread = ThreadPoolExecutor(1, "ranking")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Queries that wait for a batch."""
        return len(self._queue)

    async def ask(self, query: Query) -> Answer:
        """The answer to a query.

        Raises:
            Refusal: 503, too many wait already; or what the query itself is answered with.
        """
        if len(self._queue) >= self._most:
            raise Refusal(
                503, f"{self._most} requests wait already: try again", {"Retry-After": "1"}
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((query, future))
        if self._task is None:
            self._task = asyncio.create_task(self._empty_queue())
        return await future

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _empty_queue(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                count = min(self._batch, len(self._queue))
                batch = [self._queue.popleft() for _ in range(count)]
                batch = [(query, future) for query, future in batch if not future.done()]
                queries = [query for query, _ in batch]
                try:
                    answers = await loop.run_in_executor(self._thread, self._answer, queries)
                except Exception as error:  # of the whole batch: a defect, which each is told
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    _settle(future, answer)
        finally:
            self._task = None


def _settle(future: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if future.done():  # its client has gone
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
