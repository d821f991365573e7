"""What newcomers read is true: versions agree, links lead somewhere, hooks run CI's checks."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
RUFF_FORMAT = ("ruff format", "ruff format --check")  # the hook mends what CI only refuses


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_of_this_version_under_this_license() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["version"] == project()["version"]
    assert citation["license"] == project()["license"] == "Apache-2.0"
    assert [author["name"] for author in citation["authors"]] == [
        a["name"] for a in project()["authors"]
    ]
    assert "2509.06286" in citation["references"][0]["url"]


def test_the_license_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["license-files"] == ["LICENSE"]


def test_hooks_run_what_ci_runs_and_download_nothing() -> None:
    config = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")
    [local] = config["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    recipe = (
        (ROOT / "Makefile")
        .read_text(encoding="utf-8")
        .partition("\ncheck:")[2]
        .partition("\n\n")[0]
    )
    checks = re.findall(r"\$\(BIN\)/(.+)", recipe)
    hooks = [
        hook["entry"].removeprefix(".venv/bin/").replace(*RUFF_FORMAT) for hook in local["hooks"]
    ]
    assert hooks == checks


def test_the_contributors_page_names_commands_that_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", page, re.MULTILINE))
    assert targets >= {"check", "test", "unit", "chaos"}
    assert all(f"\n{target}: " in makefile for target in targets)
    files = re.findall(r"`(tests/[\w/]+(?:\.py)?)`", page)
    assert all((ROOT / file).exists() for file in files), files


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken
