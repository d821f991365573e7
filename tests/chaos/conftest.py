"""The table of faults at the end of a chaos run, and the undisturbed run that disturbed ones are
compared with.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores
from tests.training_runs import config_of, make_inputs

FAULTS = {
    1: "SIGKILL of a worker in mid-step",
    2: "kill between shard write and COMMIT",
    3: "kill between COMMIT and report",
    4: "a node leaves and returns, or does not",
    5: "driver dies",
    6: "a rank hangs, a collective fails",
    7: "disk full while saving",
    8: "disk full while extracting",
    9: "truncated, empty, missing, bit-flipped shard",
    10: "garbage or another version's manifest",
    11: "Zarr shard lost or flipped",
    12: "extraction actor dies, runs out of memory",
    13: "encoder yields NaN or a wrong width",
    14: "NaN or Inf loss or gradient on one rank",
    15: "resume 1→2, 2→4, 4→3",
    16: "config, graph or texts changed",
    17: "two runs on one directory",
    18: "isolated node, empty part, cold item, hub",
    19: "malformed input rows",
    20: "hostile YAML, manifest path, .pt",
    21: "resume asked for, nothing to resume",
    22: "an abort right after a save",
    23: "two runs on one cache while one extracts",
    24: "a bundle swapped under load",
    25: "a served bundle with a flipped byte",
}
_ROW = re.compile(r"::test_row_(\d\d)_")
LossTerms = tuple[str, float]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def inputs(home: Path) -> RunStores:
    return make_inputs(home)


def chaos_config(home: Path, run: str, **changes: Any) -> RunConfig:
    """A run of 24 steps on both phases, with everything on, saved every fourth step."""
    rooms = {"checkpoint": {"every_steps": 4}, "scaling": {"collective_timeout_s": 120}}
    for room, values in rooms.items():
        changes[room] = {**values, **changes.get(room, {})}
    return config_of(home, run, **changes)


@pytest.fixture(scope="session")
def calm(home: Path, inputs: RunStores) -> Path:
    """The directory of an undisturbed run on two ranks."""
    from tests.chaos.group import run_to_end

    config = chaos_config(home, "calm")
    run_to_end(config, inputs, starts=1)
    return config.run_dir


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints fault | test | result | seconds, if any test of a row was run."""
    rows = list(_outcomes(terminalreporter.stats))
    if not rows:
        return
    terminalreporter.section("faults")
    width = max(len(name) for _, name, _, _ in rows)
    for row, name, outcome, seconds in sorted(rows):
        terminalreporter.write_line(
            f"{row:>2} | {FAULTS[row]:<45} | {name:<{width}} | {outcome:<7} | {seconds:6.1f} s"
        )
    missing = sorted(set(FAULTS) - {row for row, *_ in rows})
    terminalreporter.write_line(
        f"rows without a test in this run: {', '.join(map(str, missing)) or 'none'}"
    )


def _outcomes(stats: dict[str, list[Any]]) -> Iterator[tuple[int, str, str, float]]:
    """(row, test, outcome, seconds); of set-up, call and tear-down the worst outcome and the sum of
    the seconds.
    """
    found: dict[str, tuple[str, float]] = {}
    for outcome in ("passed", "skipped", "failed", "error", ""):
        for report in stats.get(outcome, []):
            if _ROW.search(report.nodeid):
                name, seconds = found.get(report.nodeid, ("", 0.0))
                found[report.nodeid] = (outcome or name, seconds + report.duration)
    for node, (outcome, seconds) in found.items():
        match = _ROW.search(node)
        assert match is not None
        yield int(match.group(1)), node.split("::", 1)[1], outcome, seconds
