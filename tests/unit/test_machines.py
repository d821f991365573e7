"""Machines as they are: no home and a read-only installation, Windows, terminals, closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recmind_dist import platform_check
from recmind_dist.launch import cluster, machine, ray_train
from recmind_dist.pipeline.embed import _Extraction
from recmind_dist.platform_check import CACHE, settle_numba_cache
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import resolve_model
from recmind_dist.training.run_stores import RunStores
from tests.tiny_language_model import make_bert

NOWHERE = Path("/proc/recmind")  # where nobody, not even root, can write


def test_numba_keeps_its_code_with_temporary_files_where_nothing_else_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    settle_numba_cache(NOWHERE)
    assert CACHE not in os.environ  # the home can be written
    monkeypatch.setenv("HOME", str(NOWHERE))
    settle_numba_cache(tmp_path)
    assert CACHE not in os.environ  # the installation can be written
    monkeypatch.setattr(platform_check.tempfile, "tempdir", str(tmp_path))
    settle_numba_cache(NOWHERE)
    cache = os.environ[CACHE]
    assert cache.startswith(str(tmp_path))
    monkeypatch.setenv(CACHE, "elsewhere")
    settle_numba_cache(NOWHERE)
    assert os.environ[CACHE] == "elsewhere"


def test_windows_is_refused_in_one_sentence() -> None:
    code = "import sys; sys.platform = 'win32'; import recmind_dist"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: recmind_dist needs Linux or macOS")


def recmind(folder: Path, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "recmind_dist.cli", *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def write_log(folder: Path) -> None:
    rows = [f"u{n % 9},i{n % 7},{1_700_000_000 + n}" for n in range(60)]
    text = "\n".join(["Benützer,Größe,Zeit", *rows])
    (folder / "log.csv").write_text(text + "\n", encoding="utf-8")


def test_output_that_is_not_utf8_and_a_reader_that_left_are_no_errors(tmp_path: Path) -> None:
    write_log(tmp_path)
    words = ("init", "log.csv", "--user", "Benützer", "--item", "Größe", "--to")
    plain = recmind(tmp_path, *words, "a", PYTHONIOENCODING="ascii")
    left = recmind(tmp_path, *words, "b", PYTHONUNBUFFERED="1")
    assert left.stdout is not None
    left.stdout.close()  # as `| head -0`
    out, errors = plain.communicate(timeout=120)
    assert plain.returncode == 0, errors
    assert b"user is Ben\\xfctzer" in out
    assert left.stderr is not None
    said = left.stderr.read()
    assert left.wait(timeout=120) == 141
    assert said == b""


class Started(Exception):
    """Ray would start now."""


def test_small_shared_memory_is_said_before_a_ray_of_its_own_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(config: RunConfig) -> None:
        raise Started

    monkeypatch.setattr(machine, "RAY_SHARE", 1e6)  # more than any machine has
    monkeypatch.setattr(ray_train, "start_ray", start)
    monkeypatch.setattr(cluster, "start_ray", start)
    config = RunConfig.model_validate({"dataset": {"name": "x", "interactions": "log.csv"}})
    said: list[str] = []
    with pytest.raises(Started):
        ray_train.evaluate_on_workers(config, RunStores(tmp_path), said.append)
    with pytest.raises(Started):
        _Extraction(config, said.append).start(1)
    assert [line.partition(":")[0] for line in said] == ["/dev/shm", "/dev/shm"]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # a cluster has shared memory of its own
    with pytest.raises(Started):
        ray_train.evaluate_on_workers(config, RunStores(tmp_path), said.append)
    assert len(said) == 2


def test_a_home_in_a_path_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_log(tmp_path)
    config = RunConfig.model_validate(
        {
            "run_dir": "~/runs/x",
            "cache_dir": "~/cache",
            "dataset": {"name": "x", "interactions": "~/log.csv"},
        }
    )
    assert config.run_dir == tmp_path / "runs" / "x"
    assert config.cache_dir == tmp_path / "cache"
    assert config.dataset.interactions.files("k") == [tmp_path / "log.csv"]
    make_bert(tmp_path / "model")
    assert resolve_model(TextSettings(model="~/model")) == tmp_path / "model"
