"""A run's committed checkpoints and small files on shared storage, for a new machine to go on from.

    <storage_uri>/checkpoints/step-…/…   as in the run directory; ignored without COMMIT
    <storage_uri>/files…                 the run's small files at the last COMMIT (storage/tree.py)
    <storage_uri>/text/<key>/files…      a store of text vectors, likewise

Each rank uploads its rows before it declares them durable; rank 0 the rest, COMMIT last.
"""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from recmind_dist import faults
from recmind_dist.causes import telling_line
from recmind_dist.checkpoint.layout import COMMIT, MANIFEST, attempt_directories, step_of
from recmind_dist.checkpoint.manifest import Manifest, OtherSchemaError, read_commit
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.retention import score_of
from recmind_dist.errors import CheckpointError, ConfigError, StoreError
from recmind_dist.storage import directory_lock, empty_directory
from recmind_dist.storage.atomic import PARTIAL
from recmind_dist.storage.lock import NAME as LOCK
from recmind_dist.storage.remote import Remote
from recmind_dist.storage.tree import INDEX, Tree

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TEXT = "text"
_NAME = re.compile(r"(adapter/)?[0-9A-Za-z_][0-9A-Za-z_.-]*")


@dataclass
class Mirror:
    """One run on shared storage. `run`: its directory on this machine."""

    remote: Remote
    run: Path

    def __post_init__(self) -> None:
        self._files = Tree(self.remote, "", self.run)

    @staticmethod
    def of(uri: str | None, run: Path) -> "Mirror | None":
        """None if the run has no shared storage."""
        return Mirror(Remote(uri), run) if uri else None

    def push(self, attempt: Path, name: str) -> None:
        """Uploads a file of an attempt, durable here. Any rank. Raises OSError."""
        self.remote.upload(attempt / name, f"{CHECKPOINTS}/{attempt.name}/{name}")

    def push_commit(self, attempt: Path) -> None:
        """Rank 0, once all shares are uploaded: small files, manifest, COMMIT, then pruning."""
        self.push_files()
        self.push(attempt, MANIFEST)
        faults.check("mirror", 0, step_of(attempt.name) or 0)
        self.push(attempt, COMMIT)
        keep = {path.name for path in attempt_directories(self.run / CHECKPOINTS)}
        self._prune(keep, step_of(attempt.name) or 0)

    def push_files(self) -> None:
        """Uploads the run's small files that have changed. Raises OSError."""
        paths = [*self.run.iterdir(), *(self.run / "adapter").glob("*")]
        files = (path for path in paths if path.is_file())
        self._files.push(f for f in files if _NAME.fullmatch(str(f.relative_to(self.run))))

    def push_store(self, path: Path) -> None:
        """Uploads what has changed in a store of text vectors. Raises OSError."""
        files = (file for file in path.rglob("*") if file.is_file())
        visible = (file for file in files if not file.name.startswith("."))
        Tree(self.remote, f"{TEXT}/{path.name}", path).push(visible)

    def pull_store(self, path: Path) -> bool:
        """Downloads a store of text vectors if there is none here. Returns whether it did.

        Raises:
            StoreError: the storage fails, or its copy is damaged.
            LockedError: another process downloads or makes it.
        """
        if _has_files(path):
            return False
        with directory_lock(path):
            return not _has_files(path) and self._pull_store(path)

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
        """Uploads committed checkpoints that are only here, and small files. Raises OSError."""
        remote_files = self.remote.names(CHECKPOINTS)
        local = self._readable_here()
        for name in sorted(local, key=lambda name: local[name].sequence):
            if f"{name}/{COMMIT}" not in remote_files:
                path = self.run / CHECKPOINTS / name
                for file in local[name].files:
                    self.push(path, file)
                self.push_commit(path)
        self.push_files()

    def clear(self) -> None:
        """Removes the run from the storage, COMMITs first."""
        self._prune(set(), 1 << 62)
        self._files.clear()

    def pull(self) -> list[str]:
        """Downloads the newest checkpoint if it is newer than here, the best one, and small files.

        Returns:
            Names of the downloaded checkpoints.
        Raises:
            CheckpointError: no checkpoint there is good and none is here; or storage or disk
                failed, and nothing here has changed.
        """
        try:
            return self._pull()
        except OSError as error:
            raise CheckpointError(
                f"{self.remote.uri}: what is there could not be brought here "
                f"({telling_line(str(error))}): run again when storage and disk are well"
            ) from error

    def _pull(self) -> list[str]:
        remote, errors = self._readable_there()
        local = self._readable_here()
        newest_local = self._newest_good_here()
        newest = None
        for name in sorted(remote, key=lambda name: remote[name].sequence, reverse=True):
            if remote[name].sequence <= newest_local:
                break
            self._pull_files()  # before the checkpoint: a second try would skip them
            try:
                self._pull_one(name)
            except CheckpointError as error:
                errors.append(error)
                log.warning("%s; trying the checkpoint before", error)
                continue
            newest = name
            break
        if newest is None:
            if errors and not local:
                first = errors[0]
                raise CheckpointError(
                    f"{self.remote.uri}: {len(errors)} checkpoint(s), none is good: {first}"
                ) from first
            return []
        best = _best(remote)
        if best is None or best in {*local, newest}:
            return [newest]
        try:
            self._pull_one(best)
        except CheckpointError as error:
            log.warning("%s; continuing without the best checkpoint", error)
            return [newest]
        return [newest, best]

    def _pull_one(self, name: str) -> None:
        """Downloads one checkpoint, verifies it, and renames it into place."""
        final = self.run / CHECKPOINTS / name
        arriving = self.run / CHECKPOINTS / f"{PARTIAL}{name}"
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            manifest = self._read_commit(name, arriving)
            for file in manifest.files:
                self._download(name, file, arriving)
            manifest.verify_files(arriving)
            if final.exists():
                shutil.rmtree(final)  # never committed, or damaged
            arriving.rename(final)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _read_commit(self, name: str, into: Path) -> Manifest:
        """Downloads and reads a checkpoint's manifest."""
        for file in (MANIFEST, COMMIT):
            self._download(name, file, into)
        return read_commit(into)

    def _download(self, name: str, file: str, into: Path) -> None:
        source = f"{CHECKPOINTS}/{name}/{file}"
        try:
            self.remote.download(source, into / file)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.remote.uri}/{source}: missing") from error

    def _readable_there(self) -> tuple[dict[str, Manifest], list[CheckpointError]]:
        """Committed checkpoints of the storage, and the faults of the others."""
        files = self.remote.names(CHECKPOINTS)
        committed = {name.partition("/")[0] for name in files if name.endswith(f"/{COMMIT}")}
        manifests: dict[str, Manifest] = {}
        errors: list[CheckpointError] = []
        copy = self.run / CHECKPOINTS / f"{PARTIAL}manifest"
        try:
            for name in sorted(name for name in committed if step_of(name) is not None):
                try:
                    manifests[name] = self._read_commit(name, copy)
                except OtherSchemaError:
                    raise
                except CheckpointError as error:
                    source = f"{self.remote.uri}/{CHECKPOINTS}/{name}"
                    errors.append(CheckpointError(str(error).replace(str(copy), source)))
                    log.warning("%s; skipped", errors[-1])
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return manifests, errors

    def _readable_here(self) -> dict[str, Manifest]:
        manifests: dict[str, Manifest] = {}
        for path in attempt_directories(self.run / CHECKPOINTS):
            try:
                if (path / COMMIT).exists():
                    manifests[path.name] = read_commit(path)
            except CheckpointError as error:
                log.warning("%s", error)
        return manifests

    def _newest_good_here(self) -> int:
        """Sequence of the newest checkpoint here that verifies; 0 without one."""
        try:
            found = find_checkpoint(self.run / CHECKPOINTS)
        except OtherSchemaError:
            raise
        except CheckpointError:
            return 0
        return found.manifest.sequence if found else 0

    def _pull_files(self) -> None:
        """Downloads the small files of the storage's last COMMIT over those here."""
        try:
            self._files.pull()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self.remote.uri}/{INDEX}: missing: no run can go on from there"
            ) from error
        except StoreError as error:
            raise CheckpointError(str(error)) from error

    def _prune(self, keep: set[str], up_to_step: int) -> None:
        """Deletes other checkpoints than `keep`, and dead attempts up to a step; COMMIT first."""
        files = self.remote.names(CHECKPOINTS)
        for name in {name.partition("/")[0] for name in files} - keep:
            step = step_of(name)
            if step is None or (step > up_to_step and f"{name}/{COMMIT}" not in files):
                continue
            self.remote.delete(f"{CHECKPOINTS}/{name}/{COMMIT}")
            self.remote.delete_folder(f"{CHECKPOINTS}/{name}")


def open_mirror(uri: str | None, run: Path) -> Mirror | None:
    """As `Mirror.of`, after a test read. Raises ConfigError if that fails."""
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


def _has_files(path: Path) -> bool:
    return path.is_dir() and any(file.name != LOCK for file in path.iterdir())


def _best(manifests: dict[str, Manifest]) -> str | None:
    scores = {name: score_of(manifest.info) for name, manifest in manifests.items()}
    scored = [(score, manifests[n].sequence, n) for n, score in scores.items() if score is not None]
    return max(scored)[2] if scored else None
