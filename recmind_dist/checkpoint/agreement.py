"""All ranks choose a checkpoint together, and share the hashing: none waits in one broadcast while another reads it all.

Files are dealt to ranks by size; after each file the ranks meet, so that no wait is longer than the hashing of one file.
"""

import logging
from pathlib import Path

import torch

from recmind_dist.checkpoint.reader import Checkpoint, candidates, open_checkpoint
from recmind_dist.errors import CheckpointError
from recmind_dist.parallel import Ranks
from recmind_dist.storage import verify_manifest

_SENTENCE = 480

log = logging.getLogger(__name__)


def all_find_checkpoint(directory: Path, which: str, ranks: Ranks) -> Checkpoint | None:
    """As `find_checkpoint`, each rank hashing its share of the files. Every rank must call; what
    it returns is the same on every rank.

    Args:
        which: "last", "best" or a name; only rank 0's view of the directory counts.
    Raises:
        CheckpointError: checkpoints are there and none is good, on every rank with the first fault found.
    """
    names: list[str] = []
    faults: list[str] = []
    if ranks.rank == 0:
        try:
            readable, unreadable = candidates(Path(directory), which)
            names, faults = [path.name for path in readable], [str(error) for error in unreadable]
        except CheckpointError as error:
            faults = [str(error)]
    while name := ranks.all_text(names.pop(0) if names else ""):
        fault = _all_verify(Path(directory) / name, ranks)
        if fault is None:
            return open_checkpoint(Path(directory) / name, verify=False)
        faults.append(fault)
        if ranks.rank == 0:
            log.warning("%s; trying the next checkpoint", fault)
    fault = _all_first(faults[0] if faults else "", ranks)
    if fault is not None:
        raise CheckpointError(f"{directory}: checkpoint(s) there, none is good: {fault}")
    return None


def share_of(sizes: dict[str, int], rank: int, world_size: int) -> list[str]:
    """The files that a rank hashes: dealt in order of size, so that shares are alike. All ranks together get them all."""
    return sorted(sizes, key=lambda name: (-sizes[name], name))[rank::world_size]


def _all_verify(path: Path, ranks: Ranks) -> str | None:
    """The first fault that any rank finds, the same on every rank; None where the checkpoint is
    good. Every rank must call.
    """
    fault, share, files = "", [], {}
    try:
        checkpoint = open_checkpoint(path, verify=False)
        files = {name: entry.model_dump() for name, entry in checkpoint.manifest.files.items()}
        share = share_of({name: entry["bytes"] for name, entry in files.items()}, ranks.rank, ranks.world_size)
    except CheckpointError as error:
        fault = str(error)
    if (found := _all_first(fault, ranks)) is not None:
        return found
    count = ranks.all_sum_words(len(files) if ranks.rank == 0 else 0)  # on storage that lags they may differ
    for turn in range(-(-count // ranks.world_size)):
        try:
            mine = {name: files[name] for name in share[turn : turn + 1]}
            verify_manifest(path, {"files": mine}, CheckpointError)
        except CheckpointError as error:
            fault = str(error)
        if (found := _all_first(fault, ranks)) is not None:
            return found
    return None


def _all_first(fault: str, ranks: Ranks) -> str | None:
    """The sentence of the first rank that has one, the same on every rank. Every rank must call."""
    if ranks.world_size == 1:
        return fault or None
    said = torch.zeros(ranks.world_size, _SENTENCE, dtype=torch.int32, device=ranks.device)
    data = fault.encode()[:_SENTENCE]
    said[ranks.rank, : len(data)] = torch.tensor(list(data), dtype=torch.int32)
    rows = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in ranks.all_sum(said).tolist())
    return next((sentence for sentence in rows if sentence), None)
