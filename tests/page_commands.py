"""Commands that pages show, and whether the programs that they name would take them."""

import argparse
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import typer

from recmind_dist.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
PROGRAMS = ("recmind", "python", "make", "pip install", "sh", "ray", "pytest", ".ci/")
PLACE = re.compile(r"[A-Z][A-Z0-9_]*…?|…")
"""What stands for a word of one's own: RUN, FILES…"""


class Command(NamedTuple):
    """A command of a page.

    Attributes:
        page: from the root of the repository.
        is_whole: it can be typed as it stands; else a sentence or a table mentions it, and what it
            needs may be left out.
    """

    page: str
    text: str
    is_whole: bool = True

    def words(self) -> list[str]:
        """Without what stands behind it, brackets of a synopsis and comments."""
        return shlex.split(self.text.replace("[", "").replace("]", ""), comments=True)


def commands() -> list[Command]:
    """Of all blocks of the pages."""
    found = []
    for page, text in _texts():
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        shown = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        shown += re.findall(r"^    ((?:recmind|python|sh|cd) .+)", text, re.MULTILINE)
        found += [Command(page, line) for line in shown if line.strip()]
    return found


def mentions() -> list[Command]:
    """Commands within sentences and tables."""
    found = dict[Command, None]()
    for page, text in _texts():
        for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if any(re.match(rf"{re.escape(name)}(?<=/)|{name} ", code) for name in PROGRAMS):
                found[Command(page, code.replace("\\|", "|"), is_whole=False)] = None
    return list(found)


def _texts() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")


class Parsed(BaseException):
    """Ends a script once its command line has been taken."""


def check_recmind(words: list[str]) -> list[str]:
    """Raises as `recmind` would for wrong options. Returns the words key=value."""
    return _check_whole(typer.main.get_command(app), "recmind", words)


def check_recmind_mention(words: list[str]) -> None:
    """Fails for a command or option that `recmind` does not have."""
    here: Any = typer.main.get_command(app)
    for word in words:
        if hasattr(here, "commands") and not word.startswith("-"):
            if PLACE.fullmatch(word):
                return
            assert word in here.commands, f"no command {word}"
            here = here.commands[word]
    known = {name for one in here.params for name in (*one.opts, *one.secondary_opts)}
    known |= {"--help", "--quiet"}
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= known, f"{here.name} has no {options - known}"


def check_script(path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script up to where it has taken its command line. Fails where it does not take it."""
    source = path.read_text(encoding="utf-8")
    if not re.search(r"typer\.run\(|\bapp\(\)|parse_args\(", source):
        assert not [word for word in words if word.startswith("-")], f"{path.name} has no options"
        return

    def run(function: Any) -> None:
        made = typer.Typer()
        made.command()(function)
        take(made)

    def take(made: typer.Typer) -> None:
        _check_whole(typer.main.get_command(made), path.name, words)
        raise Parsed

    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        real(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(typer, "run", run)
    monkeypatch.setattr(typer.Typer, "__call__", take)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    with patch.dict(os.environ), pytest.raises(Parsed):
        runpy.run_path(str(path), run_name="__main__")


def _check_whole(here: Any, name: str, words: list[str]) -> list[str]:
    context = here.make_context(name, list(words))
    while hasattr(here, "commands"):
        name, here, rest = here.resolve_command(context, context._protected_args + context.args)
        context = here.make_context(name, rest, parent=context)
    return context.params.get("overrides") or []
