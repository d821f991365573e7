"""What a checkpoint of training holds, and how it comes back: table rows by range, all dense things
by name.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recmind_dist.checkpoint import compare_identity
from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.errors import CheckpointError
from recmind_dist.training.momentum import MomentumEncoder

if TYPE_CHECKING:  # DeepSpeed is for workers: the driver need not wait for it
    from recmind_dist.distributed.zero_engine import Engine

PHASES = ("warmup", "joint", "done")
_EPOCHS = "settings.train.epochs:"


@dataclass
class Cursor:
    """How far a run is: the next step to do, and what validation has said."""

    phase: str = "warmup"
    epoch: int = 0
    step_in_epoch: int = 0
    steps_done: int = 0
    """Optimizer steps of all phases."""
    best: float | None = None
    bad_validations: int = 0
    score: float | None = None
    """Of the last validation, if no parameter of the model has changed since."""
    norm_exponent: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def to_info(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_info(info: dict[str, Any]) -> "Cursor":
        """Raises CheckpointError if `info` is not what `to_info` gave."""
        names = {f.name for f in dataclasses.fields(Cursor)}
        cursor = info.get("cursor")
        if not isinstance(cursor, dict) or set(cursor) != names or cursor["phase"] not in PHASES:
            raise CheckpointError(
                "checkpoint has no cursor that this program knows: use the version that wrote it"
            )
        return Cursor(**cursor)


def cursor_of(checkpoint: Checkpoint, epochs: int) -> Cursor:
    """Where training goes on from a checkpoint. A run that has ended goes on where more epochs are
    asked for than it had, wherever validation ended it.

    Args:
        epochs: train.epochs as it is now.
    """
    cursor = Cursor.from_info(checkpoint.info)
    before = saved_epochs(checkpoint)
    if cursor.phase == "done" and before is not None and epochs > before:
        return dataclasses.replace(cursor, phase="joint", bad_validations=0)
    return cursor


def saved_epochs(checkpoint: Checkpoint) -> int | None:
    """train.epochs when a checkpoint was saved."""
    value: Any = checkpoint.info.get("identity")
    for key in ("settings", "train", "epochs"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def gather_dense_state(engine: "Engine", keys: MomentumEncoder | None) -> dict[str, Tensor]:
    """Everything that is not by row. Collective: every rank must call."""
    state = engine.gather_state()
    if keys is not None:
        state |= {
            f"key.{name}": value.detach().cpu() for name, value in keys.model.state_dict().items()
        }
        for view, queue in keys.queues.items():
            state |= {f"queue.{view}.{name}": value.cpu() for name, value in queue.state().items()}
    return state


def load_dense_state(
    state: dict[str, Tensor], engine: "Engine", keys: MomentumEncoder | None
) -> None:
    """Takes what `gather_dense_state` gave. Collective: every rank must call.

    Raises:
        CheckpointError: something the model has is not in the checkpoint.
    """
    try:
        engine.load_state(state)
        if keys is not None:
            keys.model.load_state_dict(
                {name: state[f"key.{name}"] for name in keys.model.state_dict()}
            )
            for view, queue in keys.queues.items():
                queue.load_state({name: state[f"queue.{view}.{name}"] for name in queue.state()})
    except KeyError as error:
        raise CheckpointError(
            f"checkpoint has no tensor {error.args[0]!r}: it is of another model"
        ) from error


def load_table(checkpoint: Checkpoint, table: ShardedTable) -> None:
    """Reads this rank's rows, whoever saved them."""
    if checkpoint.num_rows != table.num_rows:
        raise CheckpointError(
            f"{checkpoint.path}: table of {checkpoint.num_rows} rows, the graph has "
            f"{table.num_rows} nodes"
        )
    table.load_rows(checkpoint.rows(table.start, table.stop))


def refuse_settings_without_effect(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raises CheckpointError where a run has ended, so that other settings would change nothing but
    what its config.yaml says.
    """
    if cursor_of(checkpoint, identity["settings"]["train"]["epochs"]).phase != "done":
        return
    differences = compare_identity(checkpoint.info.get("identity", {}), identity)
    if others := [line for line in differences if line.startswith("settings.")]:
        raise CheckpointError(
            f"{checkpoint.path}: the run has ended, so other settings would train nothing: "
            f"{'; '.join(others[:5])}: raise train.epochs, choose another run_dir, or start over "
            "with --resume never"
        )


def refuse_other_run(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raises CheckpointError with the differences if config, graph or texts are not those of the
    checkpoint. A run that has ended may get more epochs.
    """
    differences = compare_identity(checkpoint.info.get("identity", {}), identity)
    epochs = identity["settings"]["train"]["epochs"]
    if Cursor.from_info(checkpoint.info).phase != cursor_of(checkpoint, epochs).phase:
        differences = [line for line in differences if not line.startswith(_EPOCHS)]
    if differences:
        shown = "; ".join(differences[:5]) + (
            f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        )
        raise CheckpointError(
            f"{checkpoint.path}: made under other settings: {shown}: "
            "restore them, choose another run_dir, start over with --resume never, or go on with "
            "--allow-mismatch"
        )
