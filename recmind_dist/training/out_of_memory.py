"""A step that does not fit into the GPU: what in it is large, and what makes it smaller."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from recmind_dist.causes import telling_line
from recmind_dist.errors import TrainingError

if TYPE_CHECKING:
    from recmind_dist.training.step_input import StepInput

# torch: "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of
# which 1.50 GiB is free. …"
_NUMBERS = re.compile(r"Tried to allocate ([\d.]+ \w+)\. GPU (\d+) .*? of which ([\d.]+ \w+) is")


@contextmanager
def saying_what_is_large(step: "StepInput", dim: int) -> Iterator[None]:
    """Around a step. Args: dim: D of the table.

    Raises:
        TrainingError: it does not fit into the GPU.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        sentence = out_of_memory(str(error), step.step, sizes_of_step(step, dim))
        raise TrainingError(sentence) from error


def sizes_of_step(step: "StepInput", dim: int) -> dict[str, int]:
    """Float32 numbers of the tensors that grow with a batch, by name, the largest first.

    Args:
        dim: D of the table
    """
    sizes: dict[str, int] = {}
    for name, batch in (("", step.main), ("the gates' ", step.gate)):
        if batch is None:
            continue
        users, shared = batch.shared_positive.shape
        sizes |= {
            f"{name}states of {len(batch.n_id):,} nodes": len(batch.n_id) * dim,
            f"{name}scores of {users:,} users and {shared:,} negatives": users * shared,
            f"{name}{len(batch.input_id):,} pairs": len(batch.input_id) * dim,
        }
    if step.operator is not None:
        rows = len(step.operator.own_nodes)
        sizes[f"states of all {rows:,} rows"] = rows * dim
    return dict(sorted(sizes.items(), key=lambda size: -size[1]))


def out_of_memory(message: str, step: int, sizes: dict[str, int]) -> str:
    """The sentence for users.

    Args:
        message: torch's
        sizes: see `sizes_of_step`
    """
    found = _NUMBERS.search(message)
    what = telling_line(message)
    if found:
        what = f"{found[1]} more than GPU {found[2]} has, of which {found[3]} is free"
    largest, *others = sizes
    beside = f", beside it {', '.join(others[:2])}" if others else ""
    return (
        f"step {step} does not fit into the GPU ({what}): the largest part of a layer is its "
        f"{largest}{beside}: lower train.batch_size, sampler.num_neighbors or "
        "sampler.negatives.num_shared, or raise scaling.num_workers, which deals the batch out"
    )
