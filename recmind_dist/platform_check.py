"""What must be settled before anything else is imported: the system, and where numba keeps code."""

import os
import sys
import tempfile
from pathlib import Path

CACHE = "NUMBA_CACHE_DIR"


def refuse_windows() -> None:
    """Raises ImportError on Windows, in one sentence."""
    if sys.platform == "win32":
        raise ImportError(
            "recmind_dist needs Linux or macOS (locks, shared memory, Ray): on Windows install it "
            "in WSL (wsl --install)"
        )


def settle_numba_cache(package: Path) -> None:
    """Where neither the installation nor the home can be written, numba's compiled code goes to the
    folder of temporary files: it would refuse to import otherwise. Workers inherit the variable.
    """
    if CACHE in os.environ or _is_writable(package):
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if not _is_writable(home):
        os.environ[CACHE] = str(Path(tempfile.gettempdir()) / f"recmind-numba-{os.getuid()}")


def _is_writable(directory: Path) -> bool:
    """Whether a file can be made in a directory, or in what would have to be made above it."""
    above = next(one for one in (directory, *directory.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            return True
    except OSError:
        return False
