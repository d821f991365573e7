"""Gradients captured once as a CUDA graph and replayed, where the shapes of steps do not change.

A step of plain LightGCN is some ninety small kernels, and the host takes several times as long to
start them one by one as the GPU takes to run them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recmind_dist.training.cuda.cuda_graph import CapturedCall, capture
from recmind_dist.training.step_input import StepInput

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


class CapturedGradients:
    """Replays the gradients of steps of one rank, with BPR: under full propagation, or of inputs
    that are replayed themselves, for each of whose buffers there is a graph.

    Args:
        run: finds a step's gradients without a wait of the host. What it reads besides the step's
            tensors must keep its place in memory.
    """

    def __init__(self, run: Callable[[StepInput], Gradients]) -> None:
        self._run = run
        self._captured: dict[int, CapturedCall[Gradients]] = {}
        self._shapes: list[torch.Size] = []
        self._seen, self._failed = 0, False

    def __call__(self, step: StepInput) -> Gradients:
        """What `run` returns, valid until the next call."""
        return self._replay(step) or self._run(step)

    def _replay(self, step: StepInput) -> Gradients | None:
        """None if the step is to be run as it is."""
        if not can_be_captured(step):
            return None
        tensors, buffer = list(tensors_of(step).values()), step.buffer or 0
        shapes = [x.shape for x in tensors]
        if buffer not in self._captured:
            self._seen = self._seen + 1 if shapes == self._shapes else 0
            self._shapes = shapes
            if self._failed or self._seen < _SEEN_BEFORE:
                return None
            self._capture(step)
        if buffer not in self._captured or shapes != self._shapes:
            return None
        found = self._captured[buffer](tensors)
        return replace(found, sums=found.sums.clone())

    def _capture(self, step: StepInput) -> None:
        """Captures a step without doing it."""
        names, inputs = (
            zip(*tensors_of(step).items(), strict=True) if tensors_of(step) else ((), ())
        )

        def run(given: Sequence[Tensor]) -> Gradients:
            return self._run(with_tensors(step, dict(zip(names, given, strict=True))))

        captured = capture("steps", run, inputs)
        if captured is None:
            self._failed = True
        else:
            self._captured[step.buffer or 0] = captured


def can_be_captured(step: StepInput) -> bool:
    """Whether nothing but the tensors of `tensors_of` differs from step to step, or nothing but
    what is in a buffer.
    """
    if step.buffer is not None:
        return True
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
    """The tensors of a step's own; none of one in a buffer."""
    if step.buffer is not None:
        return {}
    found = {name: getattr(step.main, name) for name in _INDICES}
    return found if step.hidden is None else found | {"hidden": step.hidden}


def with_tensors(step: StepInput, tensors: dict[str, Tensor]) -> StepInput:
    """The step with these tensors in place of its own."""
    own: dict[str, Any] = dict(tensors)
    hidden = own.pop("hidden", step.hidden)
    return replace(step, main=replace(step.main, **own), hidden=hidden)
