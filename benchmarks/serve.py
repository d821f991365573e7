"""How fast does a served bundle answer? Requests/s and milliseconds of 16 clients, over a socket.

    python benchmarks/serve.py --quick     # under 4 minutes

A bundle of random numbers, 50,000 items, served by `recmind serve` in a process of its own, with a
token; the load generator (load.py) is another process. Both share the machine's cores.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.environments import CACHE
from benchmarks.measure import Report, Spread
from benchmarks.random_bundle import RandomBundle
from benchmarks.server_process import TOKEN, ServerProcess
from recmind_dist.recommend.bundle import Bundle

NUM_USERS, NUM_ITEMS = 20_000, 50_000
CLIENTS, REQUESTS = 16, 10_000
WARM = 1000
SWAPS = 6


def main(
    quick: bool = typer.Option(False, help="one round in place of five, under 4 minutes"),
) -> None:
    """Known users, a mixture, swaps under load, a kill and a restart."""
    report = Report("serve", quick)
    folder = _bundles()
    rounds = 1 if quick else 5
    with ServerProcess(folder / "first", token=TOKEN) as server:
        load(server, WARM, "user")
        known = [load(server, REQUESTS, "user", seed) for seed in range(rounds)]
        mixed = [load(server, REQUESTS // 4, "mixed", seed) for seed in range(rounds)]
        swapped = [load_with_swaps(server, REQUESTS // 2, seed) for seed in range(rounds)]
    _add(report, "known users, k 10", known)
    _add(report, "users, histories, filters, similar items", mixed)
    _add(report, f"known users, {SWAPS} swaps meanwhile", swapped)
    restarts = [restart_s(folder / "first") for _ in range(1 if quick else 3)]
    report.add("kill -9 to the first answer", "recmind serve", "s", Spread(tuple(restarts)))
    report.figures |= {
        "requests_per_s": statistics.median(REQUESTS / one["seconds"] for one in known),
        "p50_ms": statistics.median(one["p50_ms"] for one in known),
        "p99_ms": statistics.median(one["p99_ms"] for one in known),
        "errors": float(sum(one["errors"] for one in (*known, *mixed))),
        "swap_errors": float(sum(one["errors"] for one in swapped)),
        "swap_p99_ms": statistics.median(one["p99_ms"] for one in swapped),
        "restart_s": max(restarts),
    }
    report.note(
        f"{CLIENTS} clients, each with one request under way; {NUM_ITEMS} items of 129 numbers, "
        f"{NUM_USERS} users; replies carry shares, gates and nearest items"
    )
    report.note("server and load generator share the machine's cores")
    report.publish()


def load(server: ServerProcess, requests: int, kind: str, seed: int = 0) -> dict[str, Any]:
    """What the load generator found."""
    words = ["--requests", requests, "--clients", CLIENTS, "--num-users", NUM_USERS]
    words += ["--num-items", NUM_ITEMS, "--kind", kind, "--seed", seed]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("load.py")), server.url, *map(str, words)],
        env=os.environ | {"RECMIND_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def load_with_swaps(server: ServerProcess, requests: int, seed: int) -> dict[str, Any]:
    """As `load`, while the two bundles change places; a swap that fails is an error, too."""
    refused: list[int] = []

    def swap() -> None:
        for count in range(SWAPS):
            time.sleep(0.3)
            status, _ = server.ask("/bundle", {"path": ("second", "first")[count % 2]})
            if status != 200:
                refused.append(status)

    thread = threading.Thread(target=swap)
    thread.start()
    found = load(server, requests, "user", seed)
    thread.join()
    assert len(found["versions"]) == 2, "the swaps were over before the load"
    found["errors"] += len(refused)
    return found


def restart_s(bundle: Path) -> float:
    """Seconds from SIGKILL to the first answer of a server on the same port."""
    server = ServerProcess(bundle, token=TOKEN).wait()
    port = int(server.url.rsplit(":", 1)[1])
    assert server.ask("/recommend", {"user": "u1"})[0] == 200
    start = time.perf_counter()
    server.kill()
    with ServerProcess(bundle, token=TOKEN, port=port) as again:
        status, _ = again.ask("/recommend", {"user": "u1"})
        seconds = time.perf_counter() - start
    assert status == 200
    return seconds


def _bundles() -> Path:
    """A folder with two bundles, made once."""
    folder = CACHE / f"serve-{NUM_USERS}-{NUM_ITEMS}"
    for seed, name in enumerate(("first", "second")):
        if not (folder / name).is_dir():
            RandomBundle(NUM_USERS, NUM_ITEMS, seed=seed).write(folder / name)
        Bundle.open(folder / name, verify=True)
    return folder


def _add(report: Report, what: str, rounds: list[dict[str, Any]]) -> None:
    side = "recmind serve"
    rates = tuple(one["requests"] / one["seconds"] for one in rounds)
    report.add(what, side, "requests/s", Spread(rates))
    for percent in (50, 99):
        report.add(
            f"{what}, p{percent}",
            side,
            "ms",
            Spread(tuple(one[f"p{percent}_ms"] for one in rounds)),
        )


if __name__ == "__main__":
    typer.run(main)
