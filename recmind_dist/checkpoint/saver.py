"""`Checkpointer`: copies a rank's state to host memory, and writes it while training goes on."""

import json
import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from recmind_dist import faults
from recmind_dist.causes import telling_line
from recmind_dist.checkpoint.commit import (
    Closing,
    commit,
    read_done,
    take_back,
    wait_for,
    write_done,
)
from recmind_dist.checkpoint.layout import COMMIT, DENSE, done_file, rows_file, step_of
from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.checkpoint.retention import prune
from recmind_dist.checkpoint.settings import CheckpointSettings
from recmind_dist.checkpoint.shards import shard_layout, write_shard
from recmind_dist.errors import CheckpointError, WorkerLostError
from recmind_dist.storage.lock import NAME as LOCK
from recmind_dist.types import Rank

log = logging.getLogger(__name__)
MAX_FAILURES = 3
"""Saves in a row that may fail (full disk, lost rank) before training stops."""
WAIT_S = 600.0
"""Seconds that a save waits for the other ranks' shares and their upload before it fails."""
# how long an aborted run waits for other ranks' shares once its own is there: those of live ranks
# follow soon, and a lost rank writes none
CLOSING_WAIT_S = 30.0
LOST_WAIT_S = 5.0


class Checkpointer:
    """Saves one rank's share of the run. Every rank has one, and saves at the same steps.

    Args:
        directory: the run's checkpoints/, on storage that all ranks share
        row_range: half-open range of this rank's table rows
        num_rows: rows of the whole table
        mirror: shared storage for uploads. Where an upload fails, the checkpoint stands here, and
            the save counts as failed
    """

    def __init__(
        self,
        directory: Path,
        rank: Rank,
        world_size: int,
        row_range: tuple[int, int],
        num_rows: int,
        settings: CheckpointSettings,
        mirror: Mirror | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.rank = rank
        self.world_size = world_size
        self.row_range = row_range
        self.num_rows = num_rows
        self.settings = settings
        self.mirror = mirror
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[tuple[str, str | None]] | None = None
        self._committed: list[str] = []
        self._failures_in_a_row = 0
        self._closing = Closing()

    def save(
        self,
        attempt: str,
        rows: dict[str, Tensor],
        dense: dict[str, Tensor] | None,
        info: dict[str, Any] | None,
    ) -> None:
        """Starts a save, after the one before has ended. Returns when the copies are taken.

        Args:
            attempt: `attempt_name(step, id)`, the same on all ranks and never used before
            rows: name → [local rows, …]
            dense: tensors that are not stored by row; None except on rank 0
            info: plain JSON data without NaN; None except on rank 0. info["score"] (higher is
                better) decides which checkpoints are kept as best
        Raises:
            CheckpointError: MAX_FAILURES saves in a row have failed, or the arguments cannot be
                saved.
        """
        self._collect()
        self._check(attempt, rows, dense, info)
        host_rows = _to_host(rows)
        host_dense = None if dense is None else _to_host(dense)
        frozen = None if info is None else json.loads(_json(attempt, info))
        self._pending = self._writer.submit(self._write, attempt, host_rows, host_dense, frozen)

    def wait(self) -> list[str]:
        """Waits for the current save. Returns the names committed since the last call, the same on
        every rank.

        Raises:
            CheckpointError: MAX_FAILURES saves in a row have failed.
        """
        self._collect()
        names, self._committed = self._committed, []
        return names

    def close(self, patience_s: float | None = None) -> None:
        """Ends the thread, after the current save.

        Args:
            patience_s: of an aborted run: seconds for other ranks' shares once this rank's is there
        """
        if patience_s is not None:
            self._closing.begin(patience_s)
        try:
            self._collect()
        finally:
            self._writer.shutdown(wait=True)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close(LOST_WAIT_S if isinstance(error, WorkerLostError) else CLOSING_WAIT_S)

    def _check(
        self,
        attempt: str,
        rows: dict[str, Tensor],
        dense: dict[str, Tensor] | None,
        info: dict[str, Any] | None,
    ) -> None:
        if step_of(attempt) is None:
            raise CheckpointError(f"attempt {attempt!r}: make it with attempt_name(step, id)")
        if self.rank == 0 and (dense is None or info is None):
            raise CheckpointError(f"{attempt}: rank 0 saves dense tensors and info: give both")
        expected = self.row_range[1] - self.row_range[0]
        for name, tensor in rows.items():
            if tensor.ndim == 0 or tensor.shape[0] != expected:
                shapes = f"{name} has shape {list(tensor.shape)}, this rank owns {expected} rows"
                raise CheckpointError(f"{attempt}: {shapes}")

    def _collect(self) -> None:
        """The outcome of the current save. Counts failures of disk and ranks; raises defects."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            name, not_mirrored = pending.result()
        except (CheckpointError, OSError) as error:
            self._count_failure(error)
            return
        self._committed.append(name)
        if not_mirrored is not None:
            self._count_failure(CheckpointError(not_mirrored))
        else:
            self._failures_in_a_row = 0

    def _count_failure(self, error: CheckpointError | OSError) -> None:
        self._failures_in_a_row += 1
        count = self._failures_in_a_row
        log.warning(
            "checkpoint not saved (failure %d of %d in a row): %s", count, MAX_FAILURES, error
        )
        if count >= MAX_FAILURES and not self._closing.begun():
            sentence = f"{count} checkpoints in a row could not be saved: {error}"
            raise CheckpointError(sentence) from error

    def _write(
        self,
        attempt: str,
        rows: dict[str, Tensor],
        dense: dict[str, Tensor] | None,
        info: dict[str, Any] | None,
    ) -> tuple[str, str | None]:
        """Returns the name, and what kept the checkpoint from shared storage."""
        path = self.directory / attempt
        path.mkdir(parents=True, exist_ok=True)
        shares: list[dict[str, Any]] = []
        try:
            (path / LOCK).touch()  # while there is room: on a full disk it is needed to free some
            not_mirrored = self._write_share(path, rows)
            # the copy is as large as the rank's shard: freed before the wait for other ranks
            rows.clear()
            if self.rank == 0 and dense is not None and info is not None:
                shares = self._commit(path, dense, info)
        except (CheckpointError, OSError):
            self._give_up(path)
            raise
        if self.rank == 0:
            self._prune(attempt)
            not_mirrored = self._mirror_commit(path, shares)
        else:
            wait_for(path, [COMMIT], WAIT_S, lambda _: "no COMMIT from rank 0", self._closing)
        return attempt, not_mirrored

    def _give_up(self, path: Path) -> None:
        """Frees the disk and notifies the other ranks, unless the checkpoint was committed."""
        if self.world_size > 1:
            # `done` first: a kill in between must not leave it without rows
            names = [done_file(self.rank), rows_file(self.rank)]
            take_back(path, [*names, DENSE] if self.rank == 0 else names)
        elif not (path / COMMIT).exists():
            shutil.rmtree(path, ignore_errors=True)

    def _write_share(self, path: Path, rows: dict[str, Tensor]) -> str | None:
        """Writes rows, uploads them, declares them durable. Returns the fault of the upload."""
        faults.check("shard", self.rank, step_of(path.name) or 0)
        entry = write_shard(path / rows_file(self.rank), rows)
        layout = shard_layout(path / rows_file(self.rank))
        one_row = {name: [dtype, shape[1:]] for name, (dtype, shape) in sorted(layout.items())}
        not_mirrored = self._push(path, rows_file(self.rank))
        faults.check("share", self.rank, step_of(path.name) or 0)
        entry["not_mirrored"] = not_mirrored
        write_done(path, self.rank, self.row_range, entry, one_row)
        return not_mirrored

    def _push(self, path: Path, name: str) -> str | None:
        if self.mirror is None:
            return None
        try:
            self.mirror.push(path, name)
        except OSError as error:
            return self._not_mirrored(path, error)
        return None

    def _mirror_commit(self, path: Path, shares: list[dict[str, Any]]) -> str | None:
        """Rank 0: uploads the commit if every share is uploaded. Returns the fault."""
        if self.mirror is None:
            return None
        for share in shares:
            if share.get("not_mirrored"):
                return str(share["not_mirrored"])
        try:
            self.mirror.push(path, DENSE)
            self.mirror.push_commit(path)
        except OSError as error:
            return self._not_mirrored(path, error)
        return None

    def _not_mirrored(self, path: Path, error: OSError) -> str:
        assert self.mirror is not None
        uri, fault = self.mirror.remote.uri, telling_line(str(error))
        return f"{path}: rank {self.rank} could not upload it to {uri}: {fault}"

    def _commit(
        self, path: Path, dense: dict[str, Tensor], info: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Rank 0: commits when all shares are there. Returns the `done` files."""
        entry = write_shard(path / DENSE, dense)
        ranks = {done_file(rank): str(rank) for rank in range(self.world_size)}
        wait_for(
            path,
            list(ranks),
            WAIT_S,
            lambda names: f"rank {', '.join(ranks[n] for n in names)} has not saved its rows",
            self._closing,
        )
        shares = read_done(path, self.world_size)
        commit(path, shares, self.num_rows, entry, info)
        return shares

    def _prune(self, attempt: str) -> None:
        try:
            prune(self.directory, attempt, self.settings.keep_last)
        except OSError as error:
            log.warning("old checkpoints not removed: %s", error)


def _to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def _json(attempt: str, info: dict[str, Any]) -> str:
    try:
        return json.dumps(info, allow_nan=False)
    except (TypeError, ValueError) as error:
        sentence = f"{attempt}: info is not plain JSON ({error}): convert it, leave out NaN"
        raise CheckpointError(sentence) from error
