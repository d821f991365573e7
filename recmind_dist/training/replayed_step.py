"""Steps whose tensors keep their shapes, captured once as a CUDA graph and replayed.

A step of plain LightGCN is some fifty small kernels on a GPU, and starting them one by one takes
several times as long as they take.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recmind_dist.training.step_input import StepInput

log = logging.getLogger(__name__)
_SEEN_BEFORE = 5  # steps of the same shapes that are run as they are, which also warms kernels up
_INDICES = (
    "src_index",
    "dst_pos_index",
    "dst_neg_index",
    "user_index",
    "user_of_pair",
    "shared_index",
    "shared_positive",
)


class ReplayedStep:
    """Replays steps under full propagation of one rank, all of whose rows are seeds.

    Args:
        run: one whole step without a wait of the host; returns what is read of it later. What it
            reads besides the step's tensors must keep its place in memory.
    """

    def __init__(self, run: Callable[[StepInput], Tensor]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tensors: dict[str, Tensor] = {}
        self._values = torch.empty(0)
        self._shapes: list[torch.Size] = []
        self._seen, self._failed = 0, False

    def __call__(self, step: StepInput) -> Tensor | None:
        """What `run` returns; None if the step must be run as it is."""
        if not can_replay(step):
            return None
        shapes = [x.shape for x in tensors_of(step).values()]
        if self._graph is None:
            self._seen = self._seen + 1 if shapes == self._shapes else 0
            self._shapes = shapes
            if self._failed or self._seen < _SEEN_BEFORE:
                return None
            self._capture(step)
        if self._graph is None or shapes != self._shapes:
            return None
        for name, value in tensors_of(step).items():
            self._tensors[name].copy_(value)
        self._graph.replay()
        return self._values.clone()

    def _capture(self, step: StepInput) -> None:
        """Captures a step without doing it."""
        self._tensors = {name: value.clone() for name, value in tensors_of(step).items()}
        graph = torch.cuda.CUDAGraph()
        try:
            # the thread that makes batches goes on meanwhile, on its own stream
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._values = self._run(with_tensors(step, self._tensors))
        except RuntimeError as error:
            self._failed = True
            first = (str(error).splitlines() or [""])[0]
            log.warning("steps are not replayed as a CUDA graph, which is slower: %s", first)
            return
        self._graph = graph


def can_replay(step: StepInput) -> bool:
    """Whether nothing but the tensors of `tensors_of` differs from step to step."""
    operator = step.operator
    return (
        operator is not None
        and step.plan.local_rows is operator.everywhere
        and step.gate is None
        and step.fresh is None
        and step.edges is None
    )


def tensors_of(step: StepInput) -> dict[str, Tensor]:
    """The tensors of a step's own, those that are not empty."""
    found = {name: getattr(step.main, name) for name in _INDICES}
    if step.hidden is not None:
        found["hidden"] = step.hidden
    return {name: value for name, value in found.items() if value.numel()}


def with_tensors(step: StepInput, tensors: dict[str, Tensor]) -> StepInput:
    """The step with these tensors in place of its own."""
    own: dict[str, Any] = dict(tensors)
    hidden = own.pop("hidden", step.hidden)
    return replace(step, main=replace(step.main, **own), hidden=hidden)
