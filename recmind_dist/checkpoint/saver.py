"""`Checkpointer`: copies a rank's state to host memory, writes it behind training's back, tells what was committed."""

import json
import logging
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from recmind_dist import faults
from recmind_dist.checkpoint.commit import commit, wait_for, write_done
from recmind_dist.checkpoint.layout import COMMIT, DENSE, FAILED, done_file, rows_file, step_of
from recmind_dist.checkpoint.retention import prune
from recmind_dist.checkpoint.settings import CheckpointSettings
from recmind_dist.checkpoint.shards import shard_layout, write_shard
from recmind_dist.errors import CheckpointError
from recmind_dist.types import Rank

log = logging.getLogger(__name__)


class Checkpointer:
    """Saves one rank's share of the run. Every rank has one, and calls `save` and `wait` at the same steps.

    Args:
        directory: the run's checkpoints/, on storage that all ranks share; rank, world_size: this worker's;
        row_range: half-open range of table rows this rank owns; num_rows: rows of the whole table.
    """

    def __init__(
        self,
        directory: Path,
        rank: Rank,
        world_size: int,
        row_range: tuple[int, int],
        num_rows: int,
        settings: CheckpointSettings,
    ) -> None:
        self.directory = Path(directory)
        self.rank = rank
        self.world_size = world_size
        self.row_range = row_range
        self.num_rows = num_rows
        self.settings = settings
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[str] | None = None
        self._committed: list[str] = []
        self._failures_in_a_row = 0
        self._closing = threading.Event()

    def save(
        self, attempt: str, rows: dict[str, Tensor], dense: dict[str, Tensor] | None, info: dict[str, Any] | None
    ) -> None:
        """Starts a save, after the former one has ended. Returns when the copies are taken.

        Args:
            attempt: `attempt_name(step, id)`, equal on all ranks and never used before;
            rows: name → [local rows, …], this rank's range; dense, info: rank 0's, None elsewhere. info is plain JSON
                data without NaN; info["score"] (higher is better) decides what is kept as best.
        Raises:
            CheckpointError: `max_failures` saves in a row have failed; or the arguments cannot be saved.
        """
        self._collect()
        self._check(attempt, rows, dense, info)
        host_rows = {name: _copied(tensor) for name, tensor in rows.items()}
        host_dense = None if dense is None else {name: _copied(tensor) for name, tensor in dense.items()}
        frozen = None if info is None else json.loads(_json(attempt, info))
        self._pending = self._writer.submit(self._write, attempt, host_rows, host_dense, frozen)
        if not self.settings.background:
            self._collect()

    def wait(self) -> list[str]:
        """Waits for the save under way. Returns the names committed since the last call, the same on every rank.

        Raises:
            CheckpointError: `max_failures` saves in a row have failed.
        """
        self._collect()
        names, self._committed = self._committed, []
        return names

    def close(self, abandon: bool = False) -> None:
        """Ends the thread: after the save under way, or, with `abandon`, without waiting for other ranks."""
        if abandon:
            self._closing.set()
        try:
            self._collect()
        finally:
            self._writer.shutdown(wait=True)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abandon=error is not None)

    def _check(
        self, attempt: str, rows: dict[str, Tensor], dense: dict[str, Tensor] | None, info: dict[str, Any] | None
    ) -> None:
        if step_of(attempt) is None:
            raise CheckpointError(f"attempt {attempt!r}: make it with attempt_name(step, id)")
        if self.rank == 0 and (dense is None or info is None):
            raise CheckpointError(f"{attempt}: rank 0 saves dense tensors and info: give both, empty if need be")
        expected = self.row_range[1] - self.row_range[0]
        for name, tensor in rows.items():
            if tensor.ndim == 0 or tensor.shape[0] != expected:
                shape = list(tensor.shape)
                raise CheckpointError(f"{attempt}: {name} has shape {shape}, this rank owns {expected} rows")

    def _collect(self) -> None:
        """Takes in the outcome of the save under way; failures of disk and peers are counted, defects are raised."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            self._committed.append(pending.result())
            self._failures_in_a_row = 0
        except (CheckpointError, OSError) as error:
            self._failures_in_a_row += 1
            count, limit = self._failures_in_a_row, self.settings.max_failures
            log.warning("checkpoint not saved (failure %d of %d in a row): %s", count, limit, error)
            if count >= limit and not self._closing.is_set():
                raise CheckpointError(f"{count} checkpoints in a row could not be saved: {error}") from error

    def _write(
        self, attempt: str, rows: dict[str, Tensor], dense: dict[str, Tensor] | None, info: dict[str, Any] | None
    ) -> str:
        path = self.directory / attempt
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._write_share(path, rows)
            rows.clear()  # the copy is as large as the rank's table: freed before the wait for other ranks
            if self.rank == 0 and dense is not None and info is not None:
                self._commit(path, dense, info)
        except (CheckpointError, OSError):
            self._give_up(path)
            raise
        if self.rank == 0:
            self._prune(attempt)
        else:
            wait_for(path, [COMMIT], self.settings.wait_s, lambda _: "no COMMIT from rank 0", self._closing.is_set)
        return attempt

    def _give_up(self, path: Path) -> None:
        """Frees the disk and tells the other ranks; the emptied directory goes with the next commit's pruning.

        Not removed at once where there are other ranks: a late one would make it again and wait in it to the time-out.
        """
        if (path / COMMIT).exists():
            return
        if self.world_size == 1:
            shutil.rmtree(path, ignore_errors=True)
            return
        for name in (rows_file(self.rank), done_file(self.rank), *([DENSE] if self.rank == 0 else [])):
            (path / name).unlink(missing_ok=True)
        try:
            (path / FAILED).touch()
        except OSError as error:
            log.warning("%s: other ranks cannot be told and will time out: %s", path, error)

    def _write_share(self, path: Path, rows: dict[str, Tensor]) -> None:
        faults.check("shard", self.rank, step_of(path.name) or 0)
        entry = write_shard(path / rows_file(self.rank), rows)
        layout = shard_layout(path / rows_file(self.rank))
        one_row = {name: [dtype, shape[1:]] for name, (dtype, shape) in sorted(layout.items())}
        faults.check("share", self.rank, step_of(path.name) or 0)
        write_done(path, self.rank, self.row_range, entry, one_row)

    def _commit(self, path: Path, dense: dict[str, Tensor], info: dict[str, Any]) -> None:
        entry = write_shard(path / DENSE, dense)
        ranks = {done_file(rank): rank for rank in range(self.world_size)}
        wait_for(
            path,
            list(ranks),
            self.settings.wait_s,
            lambda missing: f"rank {', '.join(str(ranks[name]) for name in missing)} has not saved its rows",
            self._closing.is_set,
        )
        commit(path, self.world_size, self.num_rows, entry, info)

    def _prune(self, attempt: str) -> None:
        try:
            prune(self.directory, attempt, self.settings.keep_last, self.settings.keep_best)
        except OSError as error:
            log.warning("old checkpoints not removed: %s", error)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _json(attempt: str, info: dict[str, Any]) -> str:
    try:
        return json.dumps(info, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{attempt}: info is not plain JSON ({error}): convert it, leave out NaN") from error
