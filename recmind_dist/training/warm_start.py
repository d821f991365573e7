"""Where the run of an update starts: rows, optimizer state and dense parameters of another run's
checkpoint, by external id.

Legend: N nodes, n rows of this rank, D dims.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.errors import CheckpointError
from recmind_dist.graph import Graph
from recmind_dist.graph.store import map_array
from recmind_dist.model.queue import KeyQueue
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import atomic_directory, read_manifest, write_manifest
from recmind_dist.training.alignment import VIEWS
from recmind_dist.types import IntArray

KIND = "warm-start"
SCHEMA = 1
NEW = -1
_ROWS = "old_rows.npy"
_BLOCK_ROWS = 65_536  # rows of the old table in memory at a time


@dataclass(frozen=True)
class WarmStart:
    """A checkpoint, and which of its rows each row of the new table starts from.

    Attributes:
        checkpoint: directory of a committed checkpoint.
        old_rows: int64 [N] by row of the new table, −1 (`NEW`) for nodes that came after.
    """

    checkpoint: Path
    old_rows: IntArray

    @staticmethod
    def write(path: Path, checkpoint: Path, old: Graph | None, new: Graph) -> None:
        """Makes the directory `path`, from which every rank reads its rows' numbers.

        Args:
            old: None: no row is carried over.
        """
        old_rows = np.full(new.num_nodes, NEW, np.int64) if old is None else rows_by_id(old, new)
        with atomic_directory(path) as work:
            np.save(work / _ROWS, old_rows)
            write_manifest(work, KIND, SCHEMA, {"checkpoint": str(checkpoint)})

    @staticmethod
    def open(path: Path) -> "WarmStart":
        """Maps a directory of `write`. Raises StoreError: it is damaged."""
        manifest = read_manifest(path, KIND, SCHEMA)
        return WarmStart(Path(manifest["checkpoint"]), map_array(path / _ROWS, np.int64, None))


def rows_by_id(old: Graph, new: Graph) -> IntArray:
    """The old table's row of each row of the new one, −1 for new nodes. Shape: int64 [N]."""
    found = np.full(new.num_nodes, NEW, np.int64)
    sides = (
        (old.user_ids, new.user_ids, 0, 0),
        (old.item_ids, new.item_ids, old.num_users, new.num_users),
    )
    for old_ids, new_ids, old_first, new_first in sides:
        places = places_by_id(old_ids, new_ids)
        known = np.flatnonzero(places != NEW)
        row = np.asarray(new.row_of_node)[new_first + known]
        found[row] = np.asarray(old.row_of_node)[old_first + places[known]]
    return found


def places_by_id(old_ids: pl.Series, new_ids: pl.Series) -> IntArray:
    """The place of each new id among the old ones, −1 (`NEW`) where it is not. Shape: int64."""
    places = pl.DataFrame({"id": old_ids, "place": np.arange(len(old_ids))})
    joined = pl.DataFrame({"id": new_ids}).join(places, on="id", how="left", maintain_order="left")
    found: IntArray = joined.get_column("place").fill_null(NEW).to_numpy()
    return found


def carry_rows(checkpoint: Checkpoint, old_rows: IntArray, table: ShardedTable) -> None:
    """Fills rows of this rank's table, with optimizer state, from those of a checkpoint.

    A block of the old table is in memory at a time.

    Args:
        old_rows: [n] of this rank's rows; those that are `NEW` stay as they are.
    Raises:
        CheckpointError: the checkpoint's rows are of another width or optimizer.
    """
    order = np.argsort(old_rows, kind="stable")
    ascending = old_rows[order]
    tensors = table.rows()
    for first in range(0, checkpoint.num_rows, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, checkpoint.num_rows)
        start, stop = np.searchsorted(ascending, (first, last))
        if start == stop:
            continue
        here = torch.from_numpy(order[start:stop])
        there = torch.from_numpy(ascending[start:stop] - first)
        block = checkpoint.rows(first, last)
        for name, tensor in tensors.items():
            if name not in block or block[name].shape[1:] != tensor.shape[1:]:
                raise CheckpointError(
                    f"{checkpoint.path}: its table has no {name} of shape "
                    f"{list(tensor.shape[1:])}: keep table.optimizer and model.embedding_dim as "
                    "they were, or train anew"
                )
            tensor[here.to(tensor.device)] = block[name][there].to(tensor.device)


def dense_state_at_start(
    dense: dict[str, Tensor], gates: list[str], config: RunConfig
) -> dict[str, Tensor]:
    """The dense state that a run begins with: another run's, with empty momentum queues, whose keys
    are of nodes by other numbers, and with gates at rest, which Adam's momentum would move on.

    Args:
        gates: names of the parameters of gates that rest.
    """
    state = dict(dense)
    for name in gates:
        key = f"exp_avg.model.{name}"
        if key in state:
            state[key] = torch.zeros_like(state[key])
    if config.aligns and config.alignment.queue_size:
        empty = KeyQueue(config.alignment.queue_size, config.model.embedding_dim).state()
        state |= {f"queue.{view}.{name}": value for view in VIEWS for name, value in empty.items()}
    return state


def lost_ids(old: pl.Series, new: pl.Series) -> list[str]:
    """External ids of `old` that `new` lacks."""
    return [str(lost) for lost in old.filter(~old.is_in(new.implode()))]
