"""Rankings of the served bundle: one thread reads texts, another ranks batches."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from recmind_dist.serving.batcher import Batcher
from recmind_dist.serving.bodies import RecommendBody
from recmind_dist.serving.current import Current
from recmind_dist.serving.metrics import Metrics
from recmind_dist.serving.served import Body, Reply, Served
from recmind_dist.serving.settings import Limits
from recmind_dist.types import FloatArray

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_TEXTS = 16  # that the language model reads at once


class Rankings:
    """Answers requests, each by the bundle that was served when it came.

    Args:
        current: holds the bundle.
        limits: of batches and of requests that wait.
        metrics: counts the requests of a batch.
    """

    def __init__(self, current: Current, limits: Limits, metrics: Metrics) -> None:
        self._current, self._metrics = current, metrics
        self._batches = Batcher(self._rank, limits.batch, limits.waiting)
        self._texts = Batcher(_read, _TEXTS, limits.waiting)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._batches.waiting + self._texts.waiting

    async def ask(self, body: Body) -> Reply:
        """The reply to a request. Raises Refusal or RecmindError where there is none."""
        served = self._current.served
        if isinstance(body, RecommendBody) and body.text is not None:
            vector = await self._texts.ask((served, body.text))
            body = body.model_copy(update={"text": None, "vector": vector.tolist()})
        return await self._batches.ask((served, body))

    def close(self) -> None:
        """Ends the threads."""
        self._batches.close()
        self._texts.close()

    def _rank(self, asked: Sequence[tuple[Served, Body]]) -> list[Reply | Exception]:
        self._metrics.batch.observe(len(asked))
        return _by_bundle(asked, Served.answer)


def _read(asked: Sequence[tuple[Served, str]]) -> list[FloatArray | Exception]:
    return _by_bundle(asked, Served.read_texts)


def _by_bundle(
    asked: Sequence[tuple[Served, Asked]],
    answer: Callable[[Served, Sequence[Asked]], Sequence[Answer | Exception]],
) -> list[Answer | Exception]:
    """Answers in the order of the requests; two bundles are among them around an exchange."""
    answers: dict[int, Answer | Exception] = {}
    for served in dict.fromkeys(served for served, _ in asked):
        places = [at for at, (one, _) in enumerate(asked) if one is served]
        found = answer(served, [asked[at][1] for at in places])
        answers |= dict(zip(places, found, strict=True))
    return [answers[at] for at in range(len(asked))]
