"""Gradients captured once as a CUDA graph and replayed, where the shapes of steps do not change.

A step of plain LightGCN is some ninety small kernels, and the host takes several times as long to
start them one by one as the GPU takes to run them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recmind_dist.training.step_input import StepInput

log = logging.getLogger(__name__)
_SEEN_BEFORE = 5  # steps of the same shapes that are run as they are, which also warms kernels up
_INDICES = ("src_index", "dst_pos_index", "dst_neg_index")


@dataclass(frozen=True)
class Gradients:
    """What a step has found before its update.

    Attributes:
        names: of the loss terms.
        sums: of `finite_checks.sum_losses`.
        rows: [u, D] gradient of the table's rows.
        keys: views to enqueue.
    """

    names: tuple[str, ...]
    sums: Tensor
    rows: Tensor
    keys: dict[str, Tensor]


class ReplayedGradients:
    """Replays the gradients of steps under full propagation of one rank, with BPR.

    Args:
        run: finds a step's gradients without a wait of the host. What it reads besides the step's
            tensors must keep its place in memory.
    """

    def __init__(self, run: Callable[[StepInput], Gradients]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._found: Gradients | None = None
        self._shapes: list[torch.Size] = []
        self._seen, self._failed = 0, False

    def __call__(self, step: StepInput) -> Gradients:
        """What `run` returns, valid until the next call."""
        return self._replay(step) or self._run(step)

    def _replay(self, step: StepInput) -> Gradients | None:
        """None if the step is to be run as it is."""
        if not can_replay(step):
            return None
        tensors = list(tensors_of(step).values())
        shapes = [x.shape for x in tensors]
        if self._graph is None:
            self._seen = self._seen + 1 if shapes == self._shapes else 0
            self._shapes = shapes
            if self._failed or self._seen < _SEEN_BEFORE:
                return None
            self._capture(step)
        if self._graph is None or self._found is None or shapes != self._shapes:
            return None
        torch._foreach_copy_(self._inputs, tensors)
        self._graph.replay()
        return replace(self._found, sums=self._found.sums.clone())

    def _capture(self, step: StepInput) -> None:
        """Captures a step without doing it."""
        inputs = {name: value.clone() for name, value in tensors_of(step).items()}
        graph = torch.cuda.CUDAGraph()
        try:
            # the thread that makes batches goes on meanwhile, on its own stream
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._found = self._run(with_tensors(step, inputs))
        except RuntimeError as error:
            self._failed = True
            first = (str(error).splitlines() or [""])[0]
            log.warning("steps are not replayed as a CUDA graph, which is slower: %s", first)
            return
        self._graph, self._inputs = graph, list(inputs.values())


def can_replay(step: StepInput) -> bool:
    """Whether nothing but the tensors of `tensors_of` differs from step to step."""
    operator = step.operator
    return (
        operator is not None
        and step.plan.local_rows is operator.everywhere
        and step.gate is None
        and step.fresh is None
        and step.edges is None
        and not len(step.main.shared_index)  # distinct ones, whose number differs
    )


def tensors_of(step: StepInput) -> dict[str, Tensor]:
    """The tensors of a step's own."""
    found = {name: getattr(step.main, name) for name in _INDICES}
    return found if step.hidden is None else found | {"hidden": step.hidden}


def with_tensors(step: StepInput, tensors: dict[str, Tensor]) -> StepInput:
    """The step with these tensors in place of its own."""
    own: dict[str, Any] = dict(tensors)
    hidden = own.pop("hidden", step.hidden)
    return replace(step, main=replace(step.main, **own), hidden=hidden)
