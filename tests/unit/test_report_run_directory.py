"""A run directory is there only once something was written into it."""

from pathlib import Path

import pytest

from recmind_dist.errors import ConfigError
from recmind_dist.report import RunDirectory


def stop(run: RunDirectory, error: BaseException, writes: bool = False) -> None:
    """A stage that ends so, after it has written a line if asked to."""
    with run.lock():
        if writes:
            (run.logs / "worker.log").write_text("a line\n")
        raise error


def test_what_is_refused_before_anything_is_written_leaves_no_directory(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs/x")
    with pytest.raises(ConfigError):
        stop(run, ConfigError("no GPU"))
    assert not run.path.exists()


def test_a_directory_with_a_file_stays(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs/x")
    with pytest.raises(ConfigError):
        stop(run, ConfigError("no GPU"), writes=True)
    assert (run.logs / "worker.log").read_text() == "a line\n"


def test_the_directory_of_an_earlier_call_stays(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs/x")
    run.create()
    with pytest.raises(ConfigError):
        stop(run, ConfigError("no GPU"))
    assert run.path.is_dir()


def test_a_stop_that_is_no_refusal_leaves_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs/x")
    with pytest.raises(KeyboardInterrupt):
        stop(run, KeyboardInterrupt())
    assert run.path.is_dir()
