"""What `pip install recmind-dist` brings ranks by a bundle; what needs more names the extra."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.random_bundle import RandomBundle
from tests.unit.test_dependencies import ROOT, declared

# runs command lines one after another where nothing but the base install can be imported
PROGRAM = """
import json, sys
absent = set(json.loads(sys.argv[1]))
class OnlyTheBaseInstall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in absent:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
sys.meta_path.insert(0, OnlyTheBaseInstall())
from recmind_dist.cli import main
for words in json.loads(sys.argv[2]):
    try:
        main(words)
    except SystemExit as stop:
        print("exit code", stop.code, file=sys.stderr)
    print("loaded after", words[0], *sys.modules, file=sys.stderr)
try:
    from recmind_dist import Pipeline
except ModuleNotFoundError as error:
    print("from Python:", error, file=sys.stderr)
"""


def distributions_of_the_base_install() -> set[str]:
    """The base install and all that it requires."""
    found: set[str] = set()
    pending = list(declared().values())
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            pending += map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            continue
    return found


def modules_beyond_the_base_install() -> Iterator[str]:
    base = distributions_of_the_base_install() | {"recmind-dist"}
    for module, names in packages_distributions().items():
        if not base & {canonicalize_name(name) for name in names}:
            yield module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RandomBundle(60, 40, dim=4, history=5).write(tmp_path_factory.mktemp("base") / "bundle")


@pytest.fixture(scope="module")
def said(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """Lines on the two streams of all commands."""
    home, source = tmp_path_factory.mktemp("home"), str(bundle)
    (home / "kids.txt").write_text("i2\ni7\n")
    commands = [
        ["recommend", source, "--user", "u1", "--k", "3"],
        ["recommend", source, "--user", "u1", "--user", "u2", "--json", "--where", "year < 2000"],
        ["recommend", source, "--history", "i1,i2", "--why", "--items", str(home / "kids.txt")],
        ["recommend", source, "--out", str(home / "all.parquet")],
        ["similar", source, "--item", "i1", "--where", 'contains(title, "a")'],
        ["train", str(ROOT / "configs" / "quickstart.yaml")],
        ["cache", "list"],
        ["info"],
        ["configs", "list"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*modules_beyond_the_base_install()]),
         json.dumps(commands)],
        capture_output=True, text=True, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pq.read_table(home / "all.parquet").num_rows == 60 * 10
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_the_base_install_ranks_by_a_bundle(said: tuple[list[str], list[str]]) -> None:
    out, errors = said
    assert [line for line in out if line.startswith(("for ", "near "))] == [
        "for user u1:",
        "for a new user:",
        "near item i1:",
    ]
    [rankings] = [json.loads(line)["rankings"] for line in out if line.startswith("{")]
    assert [ranking["user_id"] for ranking in rankings] == ["u1", "u2"]
    assert any(line.endswith("600 recommendations for 60 users") for line in out)
    assert not any("Traceback" in line for line in errors)


def test_a_recommendation_waits_for_no_package_that_it_does_not_need(
    said: tuple[list[str], list[str]],
) -> None:
    [first, *_] = [line for line in said[1] if line.startswith("loaded after recommend ")]
    slow = {"pandas", "pyarrow.compute", "pyarrow.dataset", "pydantic", "rich", "safetensors"}
    assert not slow & set(first.split())


def test_what_needs_more_names_the_extra(said: tuple[list[str], list[str]]) -> None:
    refused = [line for line in said[1] if line.startswith("error")]
    assert len(refused) == 2, said[1]
    for line in refused:
        assert line.startswith("error: this needs the package ")
        assert line.endswith(": pip install 'recmind-dist[train]'")
    assert said[1].count("exit code 2") == 2
    [python] = [line for line in said[1] if line.startswith("from Python: ")]
    assert python.startswith("from Python: recmind_dist.Pipeline: this needs the package ")


def test_the_hook_knows_what_the_base_install_is() -> None:
    found = set(modules_beyond_the_base_install())
    assert found >= {"torch", "polars", "ray", "scipy", "ruamel", "pytest"}
    assert not found & {"numpy", "pyarrow", "safetensors", "typer", "rich", "recmind_dist"}
