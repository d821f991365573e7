"""docker/: paths, extras, pins and commands that the Dockerfiles name are those of the package."""

import re
from pathlib import Path

import pytest

from tests.unit.test_dependencies import ROOT, pyproject

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def test_there_is_one_for_each_device() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_dockerfile_names_is_there(path: Path) -> None:
    text, project = path.read_text(encoding="utf-8"), pyproject()
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for word in line.split()]
    assert [word for word in copied if not (ROOT / word).exists()] == []
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert needed <= set(copied)
    [extras] = re.findall(r"'/opt/recmind\[(.+)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"\S+==\S+", text)) <= set(pins)
    assert re.findall(r'^ENTRYPOINT \["(.+)"\]', text, re.M)[0] in project["scripts"]
    assert f"-f docker/{path.name} " in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_commands_are_those_of_the_page(path: Path) -> None:
    page = (ROOT / "docs" / "quick_start.md").read_text(encoding="utf-8")
    commands = re.findall(r"^#   (docker .+)$", path.read_text(encoding="utf-8"), re.M)
    assert len(commands) == 2
    assert all(command in page for command in commands)
    assert "**Not built**" in page
