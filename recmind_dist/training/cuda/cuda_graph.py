"""A function captured as a CUDA graph, which starts all of its kernels at once."""

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
log = logging.getLogger(__name__)


class CapturedCall(Generic[T]):
    """What `run` returned of `inputs`, found anew at each replay, in the same memory.

    Args:
        run: starts work on the device without a wait of the host, and is not done but captured.
            What it reads besides its inputs must keep its place in memory.
        inputs: of the shapes that all inputs will have; copied.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def __init__(self, run: Callable[[Sequence[Tensor]], T], inputs: Sequence[Tensor]) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # a thread that makes batches goes on meanwhile, on its own stream
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._found = run(self._inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> T:
        """Valid until the next call."""
        if self._inputs:
            torch._foreach_copy_(self._inputs, list(inputs))
        self._graph.replay()
        return self._found


def capture(
    what: str, run: Callable[[Sequence[Tensor]], T], inputs: Sequence[Tensor]
) -> CapturedCall[T] | None:
    """As `CapturedCall`; None, with a warning, where it cannot be captured."""
    try:
        return CapturedCall(run, inputs)
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0]
        log.warning("%s are not replayed as a CUDA graph, which is slower: %s", what, first)
        return None
