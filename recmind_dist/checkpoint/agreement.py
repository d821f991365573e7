"""All ranks choose a checkpoint together, and share the hashing: none waits in one broadcast while
another reads it all.

A file goes to a rank that needs it, if it is said who needs what, and to no other; files are dealt
by size. After each file the ranks meet, so that no wait is longer than the hashing of one file.
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
from recmind_dist.storage import verify_manifest

_SENTENCE = 480

log = logging.getLogger(__name__)


def agree_on_checkpoint(
    directory: Path, which: str, context: DistContext, bounds: Sequence[int] | None = None
) -> Checkpoint | None:
    """As `find_checkpoint`, each rank hashing its share of the files. Every rank must call; what
    it returns is the same on every rank.

    Args:
        which: "last", "best" or a name; only rank 0's view of the directory counts;
        bounds: rank r will read rows [bounds[r], bounds[r + 1]), so it is files with these that it
        hashes.
    Raises:
        CheckpointError: checkpoints are there and none is good, on every rank with the first fault
        found.
    """
    names: list[str] = []
    faults: list[str] = []
    if context.rank == 0:
        try:
            readable, unreadable = candidates(Path(directory), which)
            names, faults = [path.name for path in readable], [str(error) for error in unreadable]
        except CheckpointError as error:
            faults = [str(error)]
    while name := context.broadcast_str(names.pop(0) if names else ""):
        found = _all_open(Path(directory) / name, context, bounds)
        if isinstance(found, Checkpoint):
            return found
        faults.append(found)
        if context.rank == 0:
            log.warning("%s; trying the next checkpoint", found)
    fault = _first_fault(faults[0] if faults else "", context)
    if fault is not None:
        raise CheckpointError(f"{directory}: checkpoint(s) there, none is good: {fault}")
    return None


def rank_slice(sizes: dict[str, int], rank: int, world_size: int) -> list[str]:
    """The files that a rank hashes: dealt in order of size, so that shares are alike. All ranks
    together get them all.
    """
    return sorted(sizes, key=lambda name: (-sizes[name], name))[rank::world_size]


def shares_by_rows(manifest: Manifest, bounds: Sequence[int]) -> list[list[str]]:
    """For each rank the files that it hashes, among those it needs: each file goes to the rank with
    the least so far.

    Args:
        bounds: as in `agree_on_checkpoint`. The dense file is needed by all, one without rows by
        none and dealt all the same.
    """
    world_size, spans = (
        len(bounds) - 1,
        {rows_file(r): span for r, span in enumerate(manifest.row_ranges)},
    )
    shares: list[list[str]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for name, entry in sorted(manifest.files.items(), key=lambda file: (-file[1].bytes, file[0])):
        start, stop = spans.get(name, (0, manifest.num_rows))
        needing = range(
            max(bisect_right(bounds, start) - 1, 0), min(bisect_left(bounds, stop), world_size)
        )
        rank = min(needing or range(world_size), key=lambda r: (load[r], r))
        load[rank] += entry.bytes
        shares[rank].append(name)
    return shares


def _all_open(path: Path, context: DistContext, bounds: Sequence[int] | None) -> Checkpoint | str:
    """The checkpoint, if it is good; else the first fault that any rank finds, the same on every
    rank. Every rank must call.
    """
    fault, shares, checkpoint = "", list[list[str]](), None
    try:
        checkpoint = open_manifest(path)
        shares = _shares(checkpoint.manifest, context.world_size, bounds)
    except CheckpointError as error:
        fault = str(error)
    if (found := _first_fault(fault, context)) is not None:
        return found
    assert checkpoint is not None
    # rank 0's number of turns: on storage that lags what ranks read may differ
    turns = context.sum_uint64(max(map(len, shares)) if context.rank == 0 else 0)
    for turn in range(turns):
        try:
            mine = shares[context.rank][turn : turn + 1]
            files = {name: checkpoint.manifest.files[name].model_dump() for name in mine}
            verify_manifest(path, {"files": files}, CheckpointError)
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
    """The sentence of the first rank that has one, the same on every rank. Every rank must call."""
    if context.world_size == 1:
        return fault or None
    said = torch.zeros(context.world_size, _SENTENCE, dtype=torch.int32, device=context.device)
    data = fault.encode()[:_SENTENCE]
    said[context.rank, : len(data)] = torch.tensor(list(data), dtype=torch.int32)
    rows = (
        bytes(row).rstrip(b"\0").decode(errors="replace")
        for row in context.all_reduce(said).tolist()
    )
    return next((sentence for sentence in rows if sentence), None)
