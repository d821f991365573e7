"""Environments of peers: a virtual environment each, made on first use, so that their pins never
meet the project's.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from recmind_dist.errors import RecmindError
from recmind_dist.storage import directory_lock

CACHE = Path(
    os.environ.get("RECMIND_BENCH_CACHE", Path(__file__).parents[1] / "cache" / "benchmarks")
)
"""Where graphs, environments and models of the benchmarks are kept between runs."""
_STAMP = "installed.sha256"


@dataclass(frozen=True)
class Environment:
    """A peer's packages, pinned.

    Attributes:
        name: of its folder under the cache.
        requirements: as pip takes them.
    """

    name: str
    requirements: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The environment's folder."""
        return CACHE / "environments" / self.name

    def python(self) -> Path:
        """The interpreter; makes the environment where it is absent, unfinished or of other pins.

        Raises:
            RecmindError: pip could not install it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        (CACHE / "locks" / self.name).mkdir(parents=True, exist_ok=True)
        with directory_lock(CACHE / "locks" / self.name):
            stamp = self.path / _STAMP
            if not stamp.is_file() or stamp.read_text() != self._key():
                self._make()
                stamp.write_text(self._key())
        return self.path / "bin" / "python"

    def _key(self) -> str:
        return hashlib.sha256("\n".join([sys.version, *self.requirements]).encode()).hexdigest()

    def _make(self) -> None:
        print(
            f"making the environment {self.name}: {' '.join(self.requirements)}",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(self.path, ignore_errors=True)
        pip = [
            self.path / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        for command in ([sys.executable, "-m", "venv", self.path], [*pip, *self.requirements]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RecmindError(
                    f"environment {self.name}: {(done.stderr or done.stdout).strip()[-400:]}: "
                    "check the package index, "
                    f"then run the benchmark again"
                )


RECBOLE = Environment(
    "recbole-1.2.1",
    (
        "recbole==1.2.1",
        "torch==2.13.0",
        "numpy==1.26.4",
        "scipy<1.13",
        "pandas<2.2",
        "scikit-learn<1.6",
        "setuptools<81",
    ),
)
SENTENCE_TRANSFORMERS = Environment(
    "sentence-transformers",
    ("sentence-transformers>=5,<7", "torch==2.13.0", "transformers>=5.23,<6"),
)
IMPLICIT = Environment("implicit-0.7.3", ("implicit==0.7.3", "numpy==2.4.6", "scipy==1.17.1"))
