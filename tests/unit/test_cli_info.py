"""What is installed, what a config may hold, the packaged configs, --quiet, and completion."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from recmind_dist import errors
from recmind_dist.cli import main
from recmind_dist.report.quiet import QUIET_VARIABLE
from recmind_dist.run_config.json_schema import config_schema
from tests.shop import CONFIG as SHOP

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RECMIND = Path(sys.executable).parent / "recmind"
Run = Callable[..., str]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    def run(*words: str, code: int | None = None) -> str:
        if code is None:
            main([*words])
        else:
            with pytest.raises(SystemExit) as stop:
                main([*words])
            assert stop.value.code == code
        return "".join(capfd.readouterr())

    monkeypatch.setenv(QUIET_VARIABLE, "")  # restored whatever a command sets
    return run


def test_the_version_is_the_package_s(run: Run) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert run("--version") == f"recmind-dist {version[1]}\n"
    asked = [sys.executable, "-m", "recmind_dist", "--version"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"recmind-dist {version[1]}\n", "")


def test_info_names_versions_devices_kernels_and_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    found = json.loads(run("info", "--json"))
    assert found["versions"]["torch"] == torch.__version__
    assert "pytest" not in found["versions"]  # which only developers need
    assert found["devices"][0].startswith(f"{len(os.sched_getaffinity(0))} CPU cores")
    assert found["kernels"]["row-wise Adam"] in ("numba", "Triton", "torch")
    monkeypatch.setattr("recmind_dist.doctor.installation.find_spec", lambda module: None)
    text = run("info")
    assert "[train]  nothing can be trained or evaluated" in text
    assert "kernels" not in text  # without torch


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schema_takes_every_packaged_config(path: Path) -> None:
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    found = [fault.message for fault in validator.iter_errors(YAML(typ="safe").load(path))]
    assert found == []


SCHEMA = config_schema()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"kind": "lightgcn", "gate": {}}}, "gate"),
        ({"train": {"epochs": "ten"}}, "ten"),
        ({"dataset": {"name": "shop"}}, "interactions"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(change: dict[str, Any], key: str) -> None:
    values = YAML(typ="safe").load(SHOP)
    jsonschema.validate(values, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.validate({**values, **change}, SCHEMA)


def test_the_schema_command_prints_it_with_the_keys_descriptions(run: Run) -> None:
    printed = json.loads(run("schema"))
    assert printed == json.loads(json.dumps(SCHEMA))
    assert printed["properties"]["run_dir"]["description"].startswith("Where results")


def test_packaged_configs_are_listed_and_copied_but_not_over_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = json.loads(run("configs", "list", "--json"))
    assert {path.stem for path in CONFIGS} < listed.keys()
    assert listed["quickstart"].startswith("The quick start")
    assert run("configs", "copy", "quickstart").endswith("next: recmind run quickstart.yaml\n")
    copied, original = tmp_path / "quickstart.yaml", ROOT / "configs" / "quickstart.yaml"
    assert copied.read_bytes() == original.read_bytes()
    copied.write_text("mine")
    refused = run("configs", "copy", "quickstart", code=2)
    assert refused == "error: quickstart.yaml: is there already: give another name by --to\n"
    assert copied.read_text() == "mine"
    assert run("configs", "copy", "no", code=2).startswith("error: no: no such config: choose a")
    run("configs", "copy", "spaces/recmind", "--quiet")
    assert (tmp_path / "spaces" / "recmind.yaml").is_file()


def test_quiet_leaves_out_what_is_done_wherever_it_stands(run: Run, tmp_path: Path) -> None:
    words = ["synth", "num_users=20", "num_items=10", "num_edges=40"]
    assert run(*words[:1], str(tmp_path / "a"), *words[1:]).startswith("synthetic data: at ")
    assert run(*words[:1], str(tmp_path / "b"), *words[1:], "--quiet") == ""
    assert run("--quiet", *words[:1], str(tmp_path / "c"), *words[1:]) == ""
    assert run("--quiet", "configs", "list").startswith("amazon-beauty")  # a result


def test_a_shell_completes_commands() -> None:
    asked = {"_RECMIND_COMPLETE": "complete_bash", "COMP_WORDS": "recmind ev", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(RECMIND)], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("evaluate", "", 0)


def test_the_page_has_every_exit_code() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    ours = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.RecmindError)
    }
    assert listed == {0, 1, *ours, 4, 130, 141, 143}


def test_the_page_names_every_command() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    from recmind_dist.cli.app import app

    groups = [group.name for group in app.registered_groups]
    commands = [
        (command.name or command.callback.__name__)  # type: ignore[union-attr]
        for command in app.registered_commands
    ]
    missing = [name for name in [*commands, *groups] if f"`recmind {name}" not in page]
    assert not missing
    assert shutil.which("recmind", path=str(RECMIND.parent))
