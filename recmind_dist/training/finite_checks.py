"""Stops before damage is kept: a loss or gradient that is not finite ends all ranks, on a CPU
before the update, on a GPU before anything is saved, its batch written down.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import TrainingError
from recmind_dist.storage import write_json

if TYPE_CHECKING:
    from recmind_dist.sampling.batch import Batch
    from recmind_dist.training.cuda.captured_step import Gradients
    from recmind_dist.training.step_input import StepInput

KINDS = ("loss", "gradient of its rows", "gradient of the dense part")
REMEDY = "lower table.learning_rate or zero.learning_rate"
DIRECTORY = "not-finite"
_MOST_UNREAD = 20  # steps whose losses and ids are kept on a GPU until they are read


class NotFiniteError(TrainingError):
    """A loss term, a row's gradient or a dense gradient is NaN or infinite on some rank. Raised on
    every rank alike.

    Attributes:
        step: the step that it is of, None where no step is at fault.
        ids: of that step's batch, see `batch_ids`.
    """

    def __init__(
        self, message: str, step: int | None = None, ids: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.step, self.ids = step, ids


@dataclass(frozen=True)
class _Unread:
    step: int
    names: tuple[str, ...]
    values: Tensor
    ids: dict[str, Any]


class StepChecks:
    """Losses of the global batch, and whether all of a step was finite on all ranks.

    On a CPU each step is read before its update. Elsewhere the host would wait for every step:
    there they are read together, every so many steps, so an error names a step that others have
    followed; what they made is not saved.

    Args:
        every: steps between readings, 1 on a CPU.
    """

    def __init__(self, every: int) -> None:
        self._every = min(every, _MOST_UNREAD)
        self._unread: list[_Unread] = []
        self._last: dict[str, float] = {}

    def take(self, found: "Gradients", step: "StepInput") -> dict[str, float]:
        """Takes what a step has found, before its update; reads where that is due.

        Returns: the losses that were read last, none before.

        Raises:
            NotFiniteError: see `losses_of`. Raised on every rank alike.
        """
        self._unread.append(_Unread(step.step, found.names, found.sums, batch_ids(step)))
        return self.read() if (step.step + 1) % self._every == 0 else self._last

    def read(self) -> dict[str, float]:
        """The losses of the last step, after all unread ones were looked at.

        Raises:
            NotFiniteError: see `losses_of`. Raised on every rank alike.
        """
        unread, self._unread = self._unread, []
        if unread:
            rows = [step.values.cpu() for step in unread]  # the first waits, others are there
            for step, values in zip(unread, rows, strict=True):
                followed = None if self._every == 1 else unread[-1].step - step.step
                self._last = losses_of(step.names, values, step.step, followed, step.ids)
        return self._last


def sum_losses(
    terms: dict[str, Tensor], row_grad: Tensor, broken_dense: Tensor, context: DistContext
) -> Tensor:
    """What `losses_of` reads, a row of each rank, float64.

    Collective: every rank must call.

    Args:
        terms: this rank's share of each, [].
        row_grad: [u, D].
        broken_dense: [] 0, or NaN where a dense gradient is not finite.

    Returns: [P, terms + 2] the terms, a number that is finite if the rows' gradient is, and
        `broken_dense`.
    """
    numbers = [*(value.detach() for value in terms.values()), _all_of(row_grad)]
    local = torch.stack([*numbers, broken_dense.to(row_grad)]).double()
    if context.world_size == 1:
        return local[None]
    rows = local.new_zeros(context.world_size, len(local))
    rows[context.rank] = local
    return context.all_reduce(rows)


def losses_of(
    names: Sequence[str],
    values: Tensor,
    step: int,
    followed: int | None = None,
    ids: dict[str, Any] | None = None,
) -> dict[str, float]:
    """The loss terms by name and their sum, of what `sum_losses` returned.

    Args:
        followed: steps that were made after this one; None where it has not been updated.

    Raises:
        NotFiniteError: naming the ranks and what is not finite there.
    """
    losses = dict(zip(names, values[:, : len(names)].sum(0).tolist(), strict=True))
    parts = values[:, : len(names)].sum(1), values[:, -2], values[:, -1]
    broken = torch.stack([~torch.isfinite(parts[0]), ~torch.isfinite(parts[1]), parts[2] != 0], 1)
    found = broken.nonzero().tolist()
    if found or not all(math.isfinite(value) for value in losses.values()):
        where = ", ".join(f"rank {rank}: {KINDS[kind]}" for rank, kind in found)
        after = "nothing was updated"
        if followed is not None:
            after = f"it was updated, {followed} steps followed, and nothing of them is saved"
        message = f"step {step}: not finite ({where or losses}); {after}: {REMEDY}"
        raise NotFiniteError(message, step, ids)
    return losses | {"loss": sum(losses.values())}


def _all_of(grad: Tensor) -> Tensor:
    """A number that is finite only if all elements are. Shape: []."""
    if not grad.numel():
        return grad.new_zeros(())
    if grad.device.type != "cpu":
        greatest: Tensor = torch.linalg.vector_norm(grad, float("inf"))
        return greatest
    total = grad.sum()  # finite only if all of it is, and takes one pass instead of five
    if torch.isfinite(total):
        return total
    return torch.where(torch.isfinite(grad).all(), 0.0, torch.nan)


def check_finite_state(
    rows: dict[str, Tensor], dense: dict[str, Tensor], context: DistContext, step: int
) -> None:
    """Before a save: an update may overflow though its gradients were finite, and a run could not
    go on from that.

    Collective: every rank must call.

    Args:
        rows: this rank's.
        dense: the same on every rank.
    Raises:
        NotFiniteError: on every rank alike; nothing is saved.
    """
    broken = next((name for name, value in dense.items() if not torch.isfinite(value).all()), "")
    # a sum is finite only if all its terms are, and makes no second table as isfinite does
    lost = sum(not torch.isfinite(value.sum(dtype=torch.float64)) for value in rows.values())
    num_broken = context.all_reduce(torch.tensor([float(lost)], device=context.device))
    if broken or num_broken.item():
        what = broken or "a row of the table or of its optimizer"
        raise NotFiniteError(f"step {step}: {what} is not finite, nothing saved: {REMEDY}")


@contextmanager
def writing_ids(run_dir: Path, context: DistContext, phase: str) -> Iterator[None]:
    """Where a step is found that is not finite, each rank writes down the ids of its batch.

    Raises:
        TrainingError: with the name of the file.
    """
    try:
        yield
    except NotFiniteError as error:
        name = f"{phase}-{error.step or 0:08d}"
        path = run_dir / DIRECTORY / f"{name}-rank-{context.rank:05d}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"error": str(error), **_listed(error.ids or {})})
        except OSError as refused:
            raise TrainingError(
                f"{error} (ids of the batch could not be written: {refused})"
            ) from error
        raise TrainingError(f"{error} (ids of the batch: {path.parent / name}-*.json)") from error


def batch_ids(step: "StepInput") -> dict[str, Any]:
    """Node ids of what this rank had of the main and the gate batch; pairs are [users, items]."""
    batches = {"main": step.main, "gate": step.gate}
    own = {name: _ids_of(batch, step) for name, batch in batches.items() if batch is not None}
    return {"step": step.step, **own}


def _ids_of(batch: "Batch", step: "StepInput") -> dict[str, Tensor]:
    """Of a batch of fixed shapes the pairs alone, from which the nodes follow; a copy of them where
    a later step's overwrite them.
    """
    if batch.num_nodes is not None:
        pairs = batch.pairs if step.buffer is None else batch.pairs.clone()
        return {"input_id": batch.input_id, "pairs": pairs}
    return {"input_id": batch.input_id, "pairs": batch.pairs, "n_id": batch.n_id}


def _listed(ids: dict[str, Any]) -> dict[str, Any]:
    """Tensors as lists."""
    return {
        name: _listed(value)
        if isinstance(value, dict)
        else value.tolist()
        if isinstance(value, Tensor)
        else value
        for name, value in ids.items()
    }
