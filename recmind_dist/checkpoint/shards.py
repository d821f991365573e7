"""One safetensors file: written durably with its hash, read by name or rows. Cannot run code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recmind_dist.errors import CheckpointError
from recmind_dist.storage import sha256_file


def write_shard(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Writes host tensors to a new file, fsynced. Returns {"bytes", "sha256"}.

    Raises:
        CheckpointError: the file exists (an attempt's name was used twice), or the disk refuses it.
    """
    if path.exists():
        raise CheckpointError(
            f"{path}: exists: every start of the workers needs its own attempt name"
        )
    try:
        save_file(tensors, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}): free space, or move the run"
        ) from error


@contextmanager
def open_shard(path: Path) -> Iterator[Any]:
    """A safetensors handle. Raises CheckpointError for a link or another kind of file."""
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path}: missing or not a plain file: the checkpoint cannot be used")
    try:
        handle = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}): refused, others can run code"
        ) from error
    with handle:
        yield handle


def read_shard(path: Path) -> dict[str, Tensor]:
    with open_shard(path) as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}


def shard_layout(path: Path) -> dict[str, tuple[str, list[int]]]:
    """dtype and shape of every tensor, from the header."""
    with open_shard(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def read_rows(shards: list[tuple[Path, int, int]], start: int, stop: int) -> dict[str, Tensor]:
    """Rows [start, stop) of every tensor, from the files that hold them. Shapes: [stop - start,
    ...].

    Args:
        shards: (file, first row, end row) in row order, without gaps
    Raises:
        CheckpointError: not a safetensors file, or not the rows that it should have.
    """
    overlapping = [shard for shard in shards if shard[1] < stop and shard[2] > start]
    overlapping = overlapping or shards[:1]  # for dtypes and shapes
    out: dict[str, Tensor] = {}
    for path, first, end in overlapping:
        with open_shard(path) as file:
            for name in file.keys():  # noqa: SIM118
                low, high = max(start, first), min(stop, end)
                stored = file.get_slice(name)
                if (shape := stored.get_shape())[:1] != [end - first]:
                    raise CheckpointError(
                        f"{path}: {name} has shape {shape}, not {end - first} rows"
                    )
                part = stored[low - first : high - first] if high > low else stored[0:0]
                if name not in out:
                    out[name] = torch.empty((stop - start, *part.shape[1:]), dtype=part.dtype)
                if high > low:
                    out[name][low - start : high - start] = part
    return out
