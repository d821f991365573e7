"""Every command that a page shows or mentions is there, with its options, settings and files."""

import os
import re
from pathlib import Path

import pytest

from recmind_dist.run_config.load import load_run_config
from tests.page_commands import (
    PLACE,
    ROOT,
    Command,
    check_recmind,
    check_recmind_mention,
    check_script,
    commands,
    mentions,
)
from tests.unit.test_dependencies import pyproject

CONFIG = ROOT / "configs" / "quickstart.yaml"
LAUNCHERS = ROOT / "launchers"


def name_of(command: Command) -> str:
    return f"{command.page}: {command.text.split('  ')[0]}"


@pytest.mark.parametrize("command", [*commands(), *mentions()], ids=name_of)
def test_what_a_command_names_is_there(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command.words()
    if words[:1] == ["recmind"]:
        check_options(command, words[1:])
    if script := script_of(words):
        check_script(*script, monkeypatch)
    files = [
        word
        for word in words
        if re.match(r"(benchmarks|launchers|configs|docker|tests)/.+\.", word)
    ]
    assert [file for file in files if not (ROOT / file).exists()] == []
    for word in words[:1]:
        assert not word.startswith(".ci/") or os.access(ROOT / word, os.X_OK)
    if words[:1] == ["make"]:
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    for extras in re.findall(r"(?:recmind-dist|['\"]\.)\[([\w,]+)\]", command.text):
        assert set(extras.split(",")) <= pyproject()["optional-dependencies"].keys()


def check_options(command: Command, words: list[str]) -> None:
    if command.is_whole:
        overrides = check_recmind(["gate" if word == "NAME" else word for word in words])
    else:
        check_recmind_mention(words)
        overrides = [word for word in words if re.match(r"[a-z][\w.]*=", word)]
    load_run_config(CONFIG, [word for word in overrides if "…" not in word])


def script_of(words: list[str]) -> tuple[Path, list[str]] | None:
    """A script of this repository and its words, the last ones of a command that sends it off."""
    for at, word in enumerate(words):
        if re.fullmatch(r"(\S+/)?python", word) and len(words) > at + 1:
            name, *rest = words[at + 1 :]
            if name == "-m" and rest:
                name, rest = f"{rest[0].replace('.', '/')}.py", rest[1:]
            beside = LAUNCHERS / name if at else ROOT / name  # sent with its folder
            for path in (ROOT / name, beside):
                if path.is_file():
                    return path, [one for one in rest if one not in (">",) and one != "&"]
    return None


def test_commands_are_found_in_blocks_tables_and_sentences() -> None:
    shown = {(one.page, one.text) for one in (*commands(), *mentions())}
    assert ("docs/reproduce.md", "python benchmarks/peers.py") in shown  # a table
    assert ("CONTRIBUTING.md", "make package") in shown
    assert any(page == "benchmarks/README.md" and "sampler.py" in text for page, text in shown)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "RUN", "--no-such-option"],
        ["no-such-command"],
        ["cache", "no-such-command"],
    ],
)
def test_a_mention_of_what_is_not_there_fails(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_recmind_mention(words)
    check_recmind_mention(["COMMAND", "--help"])
    assert PLACE.fullmatch("FILES…")


@pytest.mark.parametrize("script", ["benchmarks/table.py", "benchmarks/scale.py", ".ci/audit.py"])
def test_an_option_that_a_script_has_not_fails(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BaseException, match=r"no-such|no options|^2$"):
        check_script(ROOT / script, ["--no-such-option"], monkeypatch)
