"""The bundle that is served now, and its exchange for another without a lost request."""

import asyncio
import gc
import logging
from pathlib import Path

from recmind_dist.errors import RecmindError, StoreError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.recommender import RUN_BUNDLE
from recmind_dist.serving.served import Served
from recmind_dist.storage.manifest import NAME as MANIFEST

_log = logging.getLogger(__name__)
Mark = tuple[Path, int, int]


def open_served(path: Path, popularity_penalty: float = 0.0, indexed: bool = False) -> Served:
    """Reads a bundle, or the bundle of a run, into memory; every file is checked first.

    Args:
        popularity_penalty: see `Served`.
        indexed: whether its index of nearest neighbours ranks.
    Raises:
        DataError: it has no index.
        StoreError: no bundle, of another version, or damaged.
    """
    bundle = Bundle.open(bundle_directory(path), verify=True)
    return Served(bundle, popularity_penalty, indexed)


def bundle_directory(path: Path) -> Path:
    """The directory of the bundle itself, with links followed."""
    inner = path / RUN_BUNDLE
    return (inner if not (path / MANIFEST).is_file() and inner.is_dir() else path).resolve()


class Current:
    """Holds the bundle that is served. Requests under way keep the one that they began with.

    Attributes:
        served: the bundle in memory.
        swaps, refused: exchanges so far, and bundles that were refused.
    """

    def __init__(self, path: Path, served: Served) -> None:
        self.served = served
        self.swaps = self.refused = 0
        self._path, self._mark = path, _mark(path)
        self._one_at_a_time = asyncio.Lock()

    async def swap(self, path: Path) -> Served:
        """Serves another bundle once it lies checked in memory; returns it.

        Raises:
            RecmindError: it cannot be served; the one before goes on.
        """
        async with self._one_at_a_time:
            try:
                served = self.served
                given = served.popularity_penalty, served.indexed
                new = await asyncio.to_thread(open_served, path, *given)
            except Exception:
                self.refused += 1
                raise
            self.served, self.swaps = new, self.swaps + 1
            collect_once()
            _log.warning("serving %s, version %s", new.name, new.version)
            return new

    async def follow(self, every_s: float) -> None:
        """Swaps whenever the path that the server was started with leads to another bundle: a link
        that was moved, or a directory that was replaced. Does not return.
        """
        while True:
            await asyncio.sleep(every_s)
            mark = await asyncio.to_thread(_mark, self._path)
            if mark is None or mark == self._mark:  # None: it is being replaced just now
                continue
            self._mark = mark  # a bundle that is refused is not tried again until it changes
            try:
                await self.swap(self._path)
            except RecmindError as error:
                _log.error("the bundle before is served on: %s", error)
            except Exception:  # a defect of ours ends neither the watch nor the server
                _log.exception("the bundle before is served on")


def collect_once() -> None:
    """Collects garbage, the bundle before among it, and spares later collections the walk through
    what is left: with a bundle of 50,000 items each full one held all requests up for 0.1 s.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def inside(root: Path, path: str) -> Path:
    """A directory below the root, links followed.

    Args:
        path: absolute, or from the root.
    Raises:
        StoreError: outside.
    """
    try:
        found = (root / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path[:200]!r}: not a path: give a directory below the root") from error
    if not found.is_relative_to(root.resolve()):
        raise StoreError(
            f"{path[:200]!r}: outside the directory that bundles are taken from: copy it there, or "
            "start the server with another --root"
        )
    return found


def _mark(path: Path) -> Mark | None:
    """Differs between bundles; None where there is none."""
    try:
        directory = bundle_directory(path)
        status = (directory / MANIFEST).stat()
    except (OSError, RuntimeError):
        return None
    return directory, status.st_ino, status.st_mtime_ns
