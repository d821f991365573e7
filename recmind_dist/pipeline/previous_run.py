"""The run that an update begins from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recmind_dist.checkpoint.reader import Checkpoint, find_checkpoint
from recmind_dist.errors import CheckpointError
from recmind_dist.graph import Graph
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.finished_run import preferred_checkpoint, read_inputs, read_run
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor, saved_epochs


@dataclass(frozen=True)
class PreviousRun:
    """A finished run."""

    directory: RunDirectory
    config: RunConfig
    inputs: RunStores

    @staticmethod
    def open(path: Path) -> "PreviousRun":
        """Raises:
        ConfigError, StoreError: not a trained run.
        CheckpointError: its training has not ended.
        """
        directory, config = read_run(path)
        if not config.trains:
            raise CheckpointError(
                f"{path}: variant {config.variant} learns nothing: run its config on the longer log"
            )
        last = find_checkpoint(directory.checkpoints, verify=False)
        cursor = Cursor.from_info(last.info) if last is not None else None
        if cursor is None or cursor.phase != "done":
            where = f"in epoch {cursor.epoch} of {cursor.phase}" if cursor else "without checkpoint"
            epochs = saved_epochs(last) if last is not None else None
            # of a run that was to train longer, config.yaml still has the epochs from before
            more = f" train.epochs={epochs}" if epochs not in (None, config.train.epochs) else ""
            raise CheckpointError(
                f"{path}: training has not ended ({where}): end it by `recmind train "
                f"{directory.config}{more}`, then update"
            )
        return PreviousRun(directory, config, read_inputs(directory))

    @cached_property
    def graph(self) -> Graph:
        return Graph.open(self.inputs.graph)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The one that serves."""
        found = find_checkpoint(self.directory.checkpoints, preferred_checkpoint(self.graph))
        assert found is not None, "PreviousRun.open saw a checkpoint"
        return found

    @property
    def adapter(self) -> Path | None:
        """The adapters that the run's texts were embedded with."""
        return self.directory.path / "adapter" if self.inputs.texts is not None else None
