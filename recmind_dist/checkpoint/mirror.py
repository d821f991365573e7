"""A run's committed checkpoints and small files on shared storage, and a run that comes back from
there on a new machine.

    <storage_uri>/checkpoints/step-…/…   as in the run directory; a prefix without COMMIT does not
    exist for a reader <storage_uri>/files…                 the run's small files as of the last
    COMMIT (storage/tree.py) <storage_uri>/text/<key>/files…      a store of text vectors, the same
    way

Each rank uploads its own rows before its word that they are durable; rank 0 the rest: files.json,
manifest.json, last COMMIT.
"""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmind_dist import faults
from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, attempt_directories, step_of
from recmind_dist.checkpoint.manifest import Manifest, NewerSchemaError, read_commit
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.retention import score_of
from recmind_dist.errors import CheckpointError, ConfigError, StoreError
from recmind_dist.storage import directory_lock, empty_directory, verify_manifest
from recmind_dist.storage.atomic import PARTIAL
from recmind_dist.storage.lock import NAME as LOCK
from recmind_dist.storage.remote import Remote
from recmind_dist.storage.tree import INDEX, Tree

log = logging.getLogger(__name__)

CHECKPOINTS, TEXT = "checkpoints", "text"
_NAME = re.compile(r"(adapter/)?[0-9A-Za-z_][0-9A-Za-z_.-]*")


@dataclass
class Mirror:
    """One run's place on shared storage. `run`: its directory here."""

    remote: Remote
    run: Path

    def __post_init__(self) -> None:
        self._files = Tree(self.remote, "", self.run)

    @staticmethod
    def of(uri: str | None, run: Path) -> "Mirror | None":
        """None where the run has no shared storage."""
        return Mirror(Remote(uri), run) if uri else None

    def push(self, attempt: Path, name: str) -> None:
        """Uploads one file of an attempt, which is durable here. Any rank. Raises OSError."""
        self.remote.upload(attempt / name, f"{CHECKPOINTS}/{attempt.name}/{name}")

    def push_commit(self, attempt: Path) -> None:
        """Rank 0, when every share is up: the run's files, the manifest, COMMIT; then what is kept
        no longer goes.
        """
        self.push_files()
        self.push(attempt, MANIFEST)
        faults.check("mirror", 0, step_of(attempt.name) or 0)
        self.push(attempt, COMMIT)
        self._prune(
            {path.name for path in attempt_directories(self.run / CHECKPOINTS)},
            step_of(attempt.name) or 0,
        )

    def push_files(self) -> None:
        """The run's small files as they are now; what has not changed is not sent again. Raises
        OSError.
        """
        paths = [*self.run.iterdir(), *(self.run / "adapter").glob("*")]
        self._files.push(
            path
            for path in paths
            if path.is_file() and _NAME.fullmatch(str(path.relative_to(self.run)))
        )

    def push_store(self, path: Path) -> None:
        """Uploads a store of text vectors, what has changed of it. Raises OSError."""
        files = (
            file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")
        )
        Tree(self.remote, f"{TEXT}/{path.name}", path).push(files)

    def pull_store(self, path: Path) -> bool:
        """Brings a store of text vectors that is not here at all. Returns whether it came.

        Raises:
            StoreError: the storage fails, or has it damaged.
            LockedError: another process brings or makes it.
        """
        if _holds_something(path):
            return False
        with directory_lock(path):
            return not _holds_something(path) and self._pull_store(path)

    def _pull_store(self, path: Path) -> bool:
        try:
            Tree(self.remote, f"{TEXT}/{path.name}", path).pull()
        except FileNotFoundError:
            empty_directory(path)
            return False
        except (OSError, StoreError) as error:
            empty_directory(path)
            raise StoreError(
                f"{error}: run again when storage is well, or remove {TEXT}/{path.name} there"
            ) from error
        return True

    def sync(self) -> None:
        """Uploads what is committed here and not there, and the run's files. Raises OSError."""
        files = self.remote.names(CHECKPOINTS)
        here = self._readable_here()
        for name in sorted(here, key=lambda name: here[name].sequence):
            if f"{name}/{COMMIT}" not in files:
                path = self.run / CHECKPOINTS / name
                for file in here[name].files:
                    self.push(path, file)
                self.push_commit(path)
        self.push_files()

    def clear(self) -> None:
        """Removes the run from the storage, COMMITs first."""
        self._prune(set(), 1 << 62)
        self._files.clear()

    def pull(self) -> list[str]:
        """Brings what the storage has and this directory has not: the newest checkpoint, the best
        one, the run's files.

        Returns:
            Names of the checkpoints that came.
        Raises:
            CheckpointError: the storage has checkpoints, none of them is good, and none is here
            either; or storage or disk
                failed on the way, and nothing is here that was not here before.
        """
        try:
            return self._pull()
        except OSError as error:
            first = (str(error).splitlines() or [""])[0][:300]
            raise CheckpointError(
                f"{self.remote.uri}: what is there could not be brought here ({first}): run again "
                "when storage and disk are well"
            ) from error

    def _pull(self) -> list[str]:
        there, faults_found = self._readable_there()
        here = self._readable_here()
        newest_here = self._newest_good_here()
        pulled = []
        for name in sorted(there, key=lambda name: there[name].sequence, reverse=True):
            if there[name].sequence <= newest_here:
                break
            self._pull_files()  # before the checkpoint is here, or a second try would do without
            try:
                self._pull_one(name)
            except CheckpointError as error:
                faults_found.append(error)
                log.warning("%s; trying the checkpoint before", error)
                continue
            pulled.append(name)
            break
        if not pulled and not here and faults_found:
            raise CheckpointError(
                f"{self.remote.uri}: {len(faults_found)} checkpoint(s), none is good: "
                f"{faults_found[0]}"
            ) from faults_found[0]
        if pulled:
            self._pull_best(there, set(here) | set(pulled), pulled)
        return pulled

    def _pull_best(self, there: dict[str, Manifest], have: set[str], pulled: list[str]) -> None:
        scores = {
            name: score for name in there if (score := score_of(there[name].info)) is not None
        }
        best = max(scores, key=lambda name: (scores[name], there[name].sequence), default=None)
        if best is None or best in have:
            return
        try:
            self._pull_one(best)
            pulled.append(best)
        except CheckpointError as error:
            log.warning("%s; the best checkpoint does not come along", error)

    def _pull_one(self, name: str) -> None:
        """One checkpoint, verified, then there in one go."""
        final = self.run / CHECKPOINTS / name
        arriving = self.run / CHECKPOINTS / f"{PARTIAL}{name}"
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            manifest = self._read_commit(name, arriving)
            for file in manifest.files:
                try:
                    self.remote.download(f"{CHECKPOINTS}/{name}/{file}", arriving / file)
                except FileNotFoundError as error:
                    raise CheckpointError(
                        f"{self.remote.uri}/{CHECKPOINTS}/{name}/{file}: missing"
                    ) from error
            verify_manifest(arriving, {"files": _plain(manifest)}, CheckpointError)
            if final.exists():
                shutil.rmtree(final)  # never committed, or damaged
            arriving.rename(final)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _read_commit(self, name: str, into: Path) -> Manifest:
        """The manifest of a checkpoint there, brought to a folder of the checkpoint's name below or
        at `into`.
        """
        for file in (MANIFEST, COMMIT):
            try:
                self.remote.download(f"{CHECKPOINTS}/{name}/{file}", into / file)
            except FileNotFoundError as error:
                raise CheckpointError(
                    f"{self.remote.uri}/{CHECKPOINTS}/{name}/{file}: missing"
                ) from error
        return read_commit(into)

    def _readable_there(self) -> tuple[dict[str, Manifest], list[CheckpointError]]:
        """Committed checkpoints of the storage, and what is wrong with the others. Damaged ones are
        named.
        """
        files = self.remote.names(CHECKPOINTS)
        committed = {name.partition("/")[0] for name in files if name.endswith(f"/{COMMIT}")}
        there: dict[str, Manifest] = {}
        found: list[CheckpointError] = []
        looking = self.run / CHECKPOINTS / f"{PARTIAL}looking"
        try:
            for name in sorted(name for name in committed if step_of(name) is not None):
                try:
                    there[name] = self._read_commit(name, looking)
                except NewerSchemaError:
                    raise
                except CheckpointError as error:
                    shown = CheckpointError(
                        str(error).replace(str(looking), f"{self.remote.uri}/{CHECKPOINTS}/{name}")
                    )
                    found.append(shown)
                    log.warning("%s; passing it over", shown)
        finally:
            shutil.rmtree(looking, ignore_errors=True)
        return there, found

    def _readable_here(self) -> dict[str, Manifest]:
        here: dict[str, Manifest] = {}
        for path in attempt_directories(self.run / CHECKPOINTS):
            try:
                if (path / COMMIT).exists():
                    here[path.name] = read_commit(path)
            except CheckpointError as error:
                log.warning("%s", error)
        return here

    def _newest_good_here(self) -> int:
        """Sequence of the newest checkpoint here whose files are what was written: a damaged one
        must not keep a good one off.
        """
        try:
            found = find_checkpoint(self.run / CHECKPOINTS)
        except NewerSchemaError:
            raise
        except CheckpointError:
            return 0
        return found.manifest.sequence if found else 0

    def _pull_files(self) -> None:
        """The run's files as of the storage's last COMMIT, over those that are here."""
        try:
            self._files.pull()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self.remote.uri}/{INDEX}: missing: no run can go on from there"
            ) from error
        except StoreError as error:
            raise CheckpointError(str(error)) from error

    def _prune(self, keep: set[str], up_to_step: int) -> None:
        """Deletes checkpoints that are kept no longer, and dead attempts up to a step; COMMIT goes
        first.
        """
        files = self.remote.names(CHECKPOINTS)
        for name in {name.partition("/")[0] for name in files} - keep:
            step = step_of(name)
            if step is None or (step > up_to_step and f"{name}/{COMMIT}" not in files):
                continue
            self.remote.delete(f"{CHECKPOINTS}/{name}/{COMMIT}")
            self.remote.delete_folder(f"{CHECKPOINTS}/{name}")


def open_mirror(uri: str | None, run: Path) -> Mirror | None:
    """As `Mirror.of`, after a look at the storage. Raises ConfigError in one sentence if it cannot
    be read.
    """
    mirror = Mirror.of(uri, run)
    if mirror is None:
        return None
    try:
        mirror.remote.names(CHECKPOINTS)
    except OSError as error:
        raise ConfigError(
            f"storage_uri {mirror.remote.uri}: cannot be read ({error}): check bucket, "
            "credentials and network"
        ) from error
    return mirror


def _holds_something(path: Path) -> bool:
    return path.is_dir() and any(file.name != LOCK for file in path.iterdir())


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {name: entry.model_dump() for name, entry in manifest.files.items()}
