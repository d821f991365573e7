"""`launchers/cluster.py`: a token by default, nothing public without one."""

import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dist.test_ray_job import free_ports
from tests.shop import environment, ray_processes

pytestmark = pytest.mark.dist_slow

CLUSTER = Path(__file__).parents[2] / "launchers" / "cluster.py"


def run(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The launcher with a home of its own. What it runs in the end is `ray start --help`, which
    starts nothing.
    """
    env = environment(home, HOME=str(home), **more)
    command = [sys.executable, str(CLUSTER), *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=150, check=False
    )


@pytest.mark.parametrize(
    ("words", "more", "sentence"),
    [
        (
            ["--dashboard-host", "0.0.0.0"],
            {"RAY_AUTH_MODE": "disabled"},
            "--dashboard-host 0.0.0.0 without a token",
        ),
        (
            ["--dashboard-host", "::"],
            {"RAY_AUTH_MODE": "disabled"},
            "--dashboard-host :: without a token",
        ),
        (
            ["--dashboard-host", "head.example"],
            {"RAY_AUTH_MODE": "disabled"},
            "head.example without a token",
        ),
        ([], {"RAY_AUTH_MODE": "disabled"}, "--node-ip-address (unset) without a token"),
        (
            ["--node-ip-address", "10.0.0.1"],
            {"RAY_AUTH_MODE": "disabled"},
            "--node-ip-address 10.0.0.1 without a",
        ),
        (["--", "--dashboard-host=0.0.0.0"], {}, "--dashboard-host after --: give it before"),
        (["--", "--node_ip_address", "10.0.0.1"], {}, "--node-ip-address after --: give it before"),
        ([], {"RAY_AUTH_MODE": "off"}, "RAY_AUTH_MODE=off: choose token or disabled"),
    ],
)
def test_what_would_be_open_to_all_is_refused(
    tmp_path: Path, words: list[str], more: dict[str, str], sentence: str
) -> None:
    done = run(tmp_path, "head", *words, **more)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / ".ray").exists()


def test_a_node_without_the_token_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "node", "--address", "127.0.0.1:1")
    assert (done.returncode, "no token: copy the head's file there" in done.stderr) == (2, True)


def test_the_head_makes_a_token_that_only_its_owner_reads_and_never_shows_it(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, "head", "--dashboard-host", "0.0.0.0", "--", "--help")
    token = tmp_path / ".ray" / "auth_token"
    assert done.returncode == 0, done.stderr
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in done.stdout + done.stderr
    before = token.read_text()
    run(tmp_path, "head", "--", "--help")
    assert token.read_text() == before, "a token that is there stays"
    token.chmod(0o644)
    done = run(tmp_path, "head", "--", "--help")
    assert (done.returncode, "others may read the token: run chmod 600" in done.stderr) == (2, True)


@pytest.fixture
def head() -> Iterator[tuple[str, str, Path]]:
    """A head started by the launcher: its dashboard's address, its token, its log."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        home = Path(name)
        token = secrets.token_hex(32)
        (home / "token").write_text(token)
        (home / "token").chmod(0o600)
        ports = dict(
            zip(
                ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port"],
                free_ports(4),
                strict=True,
            )
        )
        words = ["--block", "--num-cpus=1", "--include-dashboard=true", f"--temp-dir={home}"]
        words += [f"--{option}={port}" for option, port in ports.items()]
        command = [
            sys.executable,
            str(CLUSTER),
            "head",
            "--node-ip-address",
            "127.0.0.1",
            "--",
            *words,
        ]
        env = environment(home, HOME=name, RAY_AUTH_TOKEN_PATH=str(home / "token"))
        with (home / "head.log").open("w") as log:
            process = subprocess.Popen(
                command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield f"http://127.0.0.1:{ports['dashboard-port']}/api/jobs/", token, home
        finally:
            process.terminate()
            for pid in ray_processes(home):
                os.kill(pid, signal.SIGKILL)
            process.wait(60)


def status(address: str, token: str | None) -> int | None:
    request = urllib.request.Request(
        address, headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.timeout(290)
def test_a_head_answers_nobody_without_the_token(head: tuple[str, str, Path]) -> None:
    address, token, home = head
    deadline = time.monotonic() + 200
    while (found := status(address, token)) != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == 200, (home / "head.log").read_text()
    assert status(address, None) == 401
    assert status(address, "0" * 64) == 403
    logs = [path for path in home.rglob("*") if path.is_file() and path != home / "token"]
    assert len(logs) > 5, "the session's logs were looked at"
    assert [path for path in logs if token.encode() in path.read_bytes()] == []
