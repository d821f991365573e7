"""`pip install recmind-dist` in a new environment ranks by a bundle. Needs a package index."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.random_bundle import RandomBundle

ROOT = Path(__file__).parents[2]


@pytest.mark.dist_slow
@pytest.mark.timeout(600)
def test_the_base_install_ranks_without_torch(tmp_path: Path) -> None:
    bundle = RandomBundle(60, 40, dim=4, history=5).write(tmp_path / "bundle")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    recmind, python = (tmp_path / "venv" / "bin" / name for name in ("recmind", "python"))
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    pip = (str(python), "-m", "pip", "install", "--quiet", *constraints, str(ROOT))
    subprocess.run(pip, check=True)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(recmind), *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert subprocess.run([str(python), "-c", "import torch"], check=False).returncode == 1
    out = run("recommend", str(bundle), "--user", "u1", "--user", "x", "--where", "year > 1990")
    assert (out.returncode, out.stderr) == (0, "left out, not in random: x\n")
    assert out.stdout.startswith("for user u1:\n")
    assert run("recommend", str(bundle), "--history", "i1,i2", "--json").returncode == 0
    assert run("similar", str(bundle), "--item", "i1").returncode == 0
    assert run("recommend", str(bundle), "--out", "all.parquet").returncode == 0
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 600
    assert run("--help").returncode == 0
    refused = run("train", str(ROOT / "configs" / "quickstart.yaml"))
    assert refused.returncode == 2
    assert refused.stderr.endswith(": pip install 'recmind-dist[train]'\n")
    assert len(refused.stderr.splitlines()) == 1
