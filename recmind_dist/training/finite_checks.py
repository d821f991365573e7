"""Stops before damage is done: a loss or gradient that is not finite ends all ranks before the
update, its batch written down.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import TrainingError
from recmind_dist.storage import write_json

if TYPE_CHECKING:
    from recmind_dist.training.step_input import StepInput

KINDS = ("loss", "gradient of its rows", "gradient of the dense part")
REMEDY = "lower table.learning_rate or zero.learning_rate"
DIRECTORY = "not-finite"


class NotFiniteError(TrainingError):
    """A loss term, a row's gradient or a dense gradient is NaN or infinite on some rank. Raised on
    every rank alike.
    """


def check_finite_losses(
    terms: dict[str, Tensor],
    row_grad: Tensor,
    broken_dense: Tensor,
    context: DistContext,
    step: int,
) -> dict[str, float]:
    """The loss terms of the global batch and their sum, after all of it was seen to be finite on
    all ranks.

    Every rank must call, before any update.

    Args:
        terms: this rank's share of each, []; row_grad: [u, D]; broken_dense: [] how many dense
        gradients are not finite.
    Raises:
        NotFiniteError: naming the ranks and what is not finite there.
    """
    local = torch.stack([value.detach().double() for value in terms.values()])
    faulty = local.new_zeros(
        context.world_size, len(KINDS)
    )  # one sum over ranks for all, so a row for each rank
    found = [~torch.isfinite(local).all(), _broken(row_grad), broken_dense > 0]
    faulty[context.rank] = torch.stack([flag.to(local.device) for flag in found]).double()
    values = context.all_reduce(torch.cat([local, faulty.flatten()])).cpu()
    losses = dict(zip(terms, values[: len(terms)].tolist(), strict=True))
    told = values[len(terms) :].view(faulty.shape).nonzero().tolist()
    if told or not all(math.isfinite(value) for value in losses.values()):
        where = ", ".join(f"rank {rank}: {KINDS[kind]}" for rank, kind in told)
        raise NotFiniteError(
            f"step {step}: not finite ({where or losses}); nothing was updated: {REMEDY}"
        )
    return losses | {"loss": sum(losses.values())}


def _broken(grad: Tensor) -> Tensor:
    """Whether any element is not finite. A sum is finite only if all of it is, and takes one pass
    instead of five.
    """
    return (
        torch.zeros((), dtype=torch.bool)
        if torch.isfinite(grad.sum())
        else ~torch.isfinite(grad).all()
    )


def check_finite_state(
    rows: dict[str, Tensor], dense: dict[str, Tensor], context: DistContext, step: int
) -> None:
    """Before a save: an update may overflow though its gradients were finite, and nobody could go
    on from that.

    Every rank must call.

    Args:
        rows: this rank's; dense: the same on every rank.
    Raises:
        NotFiniteError: on every rank alike; nothing is saved.
    """
    broken = next((name for name, value in dense.items() if not torch.isfinite(value).all()), "")
    # a sum is finite only if all its terms are, and makes no second table as isfinite does
    lost = sum(not torch.isfinite(value.sum(dtype=torch.float64)) for value in rows.values())
    told = context.all_reduce(torch.tensor([float(lost)], device=context.device))
    if broken or told.item():
        what = broken or "a row of the table or of its optimizer"
        raise NotFiniteError(f"step {step}: {what} is not finite, nothing saved: {REMEDY}")


def run_guarded(
    train: Callable[["StepInput"], dict[str, float]],
    step: "StepInput",
    run_dir: Path,
    context: DistContext,
    phase: str,
) -> dict[str, float]:
    """`train(step)`; where it finds something that is not finite, each rank writes down the ids of
    its batch.

    Raises:
        TrainingError: with the name of the file.
    """
    try:
        return train(step)
    except NotFiniteError as error:
        name = f"{phase}-{step.step:08d}"
        path = run_dir / DIRECTORY / f"{name}-rank-{context.rank:05d}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"error": str(error), **batch_ids(step)})
        except OSError as refused:
            raise TrainingError(
                f"{error} (ids of the batch could not be written: {refused})"
            ) from error
        raise TrainingError(f"{error} (ids of the batch: {path.parent / name}-*.json)") from error


def batch_ids(step: "StepInput") -> dict[str, object]:
    """Node ids: all pairs of the global batch, [users, items]; and what this rank had of the main
    and the gate batch.
    """
    batches = {"main": step.main, "gate": step.gate}
    own = {
        name: {"input_id": batch.input_id.tolist(), "n_id": batch.n_id.tolist()}
        for name, batch in batches.items()
        if batch is not None
    }
    return {"step": step.step, "global_pairs": step.main.global_pairs.tolist(), **own}
