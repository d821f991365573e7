"""A bundle written again with some files changed, atomically."""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from recmind_dist.errors import StoreError
from recmind_dist.recommend.bundle import KIND, SCHEMA, Bundle
from recmind_dist.storage.atomic import atomic_directory
from recmind_dist.storage.lock import directory_lock
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.storage.manifest import write_manifest


def content_of(bundle: Bundle) -> dict[str, Any]:
    """What its manifest says beside the files."""
    return {k: v for k, v in bundle.manifest.items() if k not in ("kind", "schema", "files")}


@contextmanager
def rewriting(
    bundle: Bundle,
    content: Mapping[str, Any],
    changed: Collection[str],
    to: Path | None = None,
) -> Iterator[Path]:
    """Yields a directory with all files but the changed ones, which the block writes; then it
    stands at `to`. If the block fails, nothing has changed.

    Args:
        content: of the new manifest, over the old one's; None takes a key away.
        changed: names of files.
        to: None: in place of the bundle, which is locked meanwhile.
    Raises:
        StoreError: there is something else at `to`.
        LockedError: another process changes the bundle.
    """
    to = bundle.path if to is None else to
    if to.exists() and not (to / MANIFEST).is_file():
        raise StoreError(f"{to}: exists and is no bundle: give another directory")
    with ExitStack() as stack:
        if to == bundle.path:
            stack.enter_context(directory_lock(to))
        directory = stack.enter_context(atomic_directory(to))
        for name in bundle.manifest["files"]:
            if name not in changed:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(bundle.path / name, directory / name)
        yield directory
        merged = {**content_of(bundle), **content}
        kept = {
            key: value
            for key, value in merged.items()
            if value is not None or (key in bundle.manifest and key != "index")
        }
        write_manifest(directory, KIND, SCHEMA, kept)


def with_card_line(bundle: Bundle, directory: Path, subject: str, line: str | None) -> None:
    """Writes the card with a line "subject: …" at its end, in place of one that is there; None
    takes it away.
    """
    path = bundle.path / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    card = re.sub(rf"\n*^{re.escape(subject)}: .*$", "", card, flags=re.MULTILINE).rstrip()
    end = "" if line is None else f"\n\n{line}"
    (directory / "README.md").write_text(f"{card}{end}\n", encoding="utf-8")
