"""Inputs of sampled steps, made by a CUDA graph on a GPU.

Drawing three hops is some hundred small kernels, and twice a hop the host waits to learn how many
nodes and edges there are. With fixed shapes it need not know.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from recmind_dist.sampling.batch import StepBatches
from recmind_dist.sampling.padded_loader import BatchRequest, PaddedLoader
from recmind_dist.training.cuda.cuda_graph import CapturedCall, capture
from recmind_dist.training.step_input import StepInput

NUM_BUFFERS = 2
"""Inputs that are in memory at once: one is trained on while the next one is made."""
_MADE_BEFORE = 3  # inputs that are made as they are, which also warms kernels up


class CapturedInputs:
    """Makes one rank's inputs, in `NUM_BUFFERS` buffers in turn.

    Args:
        prepare: of `StepPreparer.prepare_steps`.

    Attributes:
        replays: whether a CUDA graph makes them, as soon as there is one; never on a CPU.
    """

    def __init__(
        self,
        loader: PaddedLoader,
        prepare: Callable[[Iterable[StepBatches]], Iterator[StepInput]],
        device: torch.device,
    ) -> None:
        self._loader, self._prepare = loader, prepare
        self.replays = device.type == "cuda"
        self._captured: list[CapturedCall[StepInput]] = []
        self._made, self._buffer = 0, 0

    def of_epoch(self, epoch: int, first_step: int) -> Iterator[StepInput]:
        """An epoch's inputs. Those in a buffer are overwritten by the next one but one. For one
        rank alone.
        """
        for request in self._loader.requests(epoch, first_step):
            if isinstance(request, StepBatches):
                yield from self._prepare([request])
            else:
                yield self._replay(request) or self._make(request.step, request.tensors)

    def _replay(self, request: BatchRequest) -> StepInput | None:
        """None if the input is to be made as it is."""
        self._made += 1
        if not self.replays or self._made <= _MADE_BEFORE:
            return None
        if not self._captured:
            self._captured = self._capture(request)
        if not self._captured:
            self.replays = False
            return None
        buffer = self._buffer = (self._buffer + 1) % NUM_BUFFERS
        found = self._captured[buffer](request.tensors)
        return replace(found, step=request.step, buffer=buffer)

    def _capture(self, request: BatchRequest) -> list[CapturedCall[StepInput]]:
        """A graph for each buffer; none where one of them cannot be captured."""
        captured = []
        for _ in range(NUM_BUFFERS):
            call = capture("batches", partial(self._make, request.step), request.tensors)
            if call is None:
                return []
            captured.append(call)
        return captured

    def _make(self, step: int, tensors: Sequence[Tensor]) -> StepInput:
        [made] = self._prepare([StepBatches(step, self._loader.make(*tensors))])
        return made
