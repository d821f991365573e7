"""All ranks choose a checkpoint together, and each hashes a share of its files.

A rank hashes files that it will read, if the caller gives the ranks' rows. After each file the
ranks meet, so that no wait is longer than the hashing of one file.
"""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

import torch

from recmind_dist.checkpoint.layout import rows_file
from recmind_dist.checkpoint.manifest import Manifest
from recmind_dist.checkpoint.reader import Checkpoint, candidates, open_manifest
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import CheckpointError

_SENTENCE_BYTES = 480

log = logging.getLogger(__name__)


def agree_on_checkpoint(
    directory: Path, which: str, context: DistContext, bounds: Sequence[int] | None = None
) -> Checkpoint | None:
    """As `find_checkpoint`, on all ranks. Collective: every rank must call; the result is the same
    on every rank.

    Args:
        which: "last", "best" or a name; only rank 0's view of the directory counts
        bounds: rank r will read rows [bounds[r], bounds[r + 1]), and hashes files with these rows
    Raises:
        CheckpointError: there are checkpoints and none is good; names the first fault on every
            rank.
    """
    names: list[str] = []
    faults: list[str] = []
    if context.rank == 0:
        try:
            readable, unreadable = candidates(Path(directory), which)
            names = [path.name for path in readable]
            faults = [str(error) for error in unreadable]
        except CheckpointError as error:
            faults = [str(error)]
    while name := context.broadcast_str(names.pop(0) if names else ""):
        found = _open_together(Path(directory) / name, context, bounds)
        if isinstance(found, Checkpoint):
            return found
        faults.append(found)
        if context.rank == 0:
            log.warning("%s; trying the next checkpoint", found)
    fault = _first_fault(faults[0] if faults else "", context)
    if fault is not None:
        raise CheckpointError(f"{directory}: checkpoint(s) there, none is good: {fault}")
    return None


def open_together(path: Path, context: DistContext) -> Checkpoint:
    """One checkpoint, of whose files each rank has hashed a share. Collective: every rank must
    call.

    Raises:
        CheckpointError: not a checkpoint, not committed, or damaged; the same on every rank.
    """
    found = _open_together(path, context, None)
    if isinstance(found, str):
        raise CheckpointError(found)
    return found


def rank_slice(sizes: dict[str, int], rank: int, world_size: int) -> list[str]:
    """The files that a rank hashes: every world_size-th by size, so that shares are alike."""
    return sorted(sizes, key=lambda name: (-sizes[name], name))[rank::world_size]


def shares_by_rows(manifest: Manifest, bounds: Sequence[int]) -> list[list[str]]:
    """The files that each rank hashes: a file goes to the least loaded rank that reads its rows.

    All ranks read the dense file. None reads a file without rows, but it is hashed too.
    """
    world_size = len(bounds) - 1
    row_ranges = {rows_file(rank): rows for rank, rows in enumerate(manifest.row_ranges)}
    shares: list[list[str]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for name, entry in sorted(manifest.files.items(), key=lambda file: (-file[1].bytes, file[0])):
        start, stop = row_ranges.get(name, (0, manifest.num_rows))
        first = max(bisect_right(bounds, start) - 1, 0)
        readers = range(first, min(bisect_left(bounds, stop), world_size))
        rank = min(readers or range(world_size), key=lambda r: (load[r], r))
        load[rank] += entry.bytes
        shares[rank].append(name)
    return shares


def _open_together(
    path: Path, context: DistContext, bounds: Sequence[int] | None
) -> Checkpoint | str:
    """The checkpoint or the first fault, the same on every rank.

    Collective: every rank must call.
    """
    fault = ""
    shares: list[list[str]] = []
    checkpoint = None
    try:
        checkpoint = open_manifest(path)
        shares = _shares(checkpoint.manifest, context.world_size, bounds)
    except CheckpointError as error:
        fault = str(error)
    if (found := _first_fault(fault, context)) is not None:
        return found
    assert checkpoint is not None
    # rank 0's count: where storage lags, ranks may read different manifests
    rounds = context.sum_uint64(max(map(len, shares)) if context.rank == 0 else 0)
    for i in range(rounds):
        try:
            checkpoint.manifest.verify_files(path, shares[context.rank][i : i + 1])
        except CheckpointError as error:
            fault = str(error)
        if (found := _first_fault(fault, context)) is not None:
            return found
    return checkpoint


def _shares(manifest: Manifest, world_size: int, bounds: Sequence[int] | None) -> list[list[str]]:
    if bounds is not None:
        return shares_by_rows(manifest, bounds)
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    return [rank_slice(sizes, rank, world_size) for rank in range(world_size)]


def _first_fault(fault: str, context: DistContext) -> str | None:
    """The first rank's fault, the same on every rank. Collective: every rank must call."""
    if context.world_size == 1:
        return fault or None
    sentences = torch.zeros(
        context.world_size, _SENTENCE_BYTES, dtype=torch.int32, device=context.device
    )
    data = fault.encode()[:_SENTENCE_BYTES]
    sentences[context.rank, : len(data)] = torch.tensor(list(data), dtype=torch.int32)
    rows = map(bytes, context.all_reduce(sentences).tolist())
    decoded = (row.rstrip(b"\0").decode(errors="replace") for row in rows)
    return next((sentence for sentence in decoded if sentence), None)
