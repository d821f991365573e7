"""Nothing that a stranger wrote into a title or an id reaches the terminal as a command to it."""

import unicodedata
from pathlib import Path

import pytest

from recmind_dist.cli.app import main
from recmind_dist.errors import DataError
from recmind_dist.recommend.recommender import Recommendation
from recmind_dist.report import MetricsLog
from recmind_dist.report.follow import follow_training
from recmind_dist.report.printable import printable, printable_lines

HOSTILE = [
    "\x1b[2J",  # clears the screen
    "\x1b]0;owned\x07",  # renames the window
    "good\rbad",  # writes over the line
    "\x07",
    "\x08" * 9,
    "\x9b2J",  # C1: as ESC [
    "\x85next line",
    "\u202egnp.exe",  # right to left
    "\u2066isolated\u2069",
    "\u2028line",
    "\ud800",  # half a surrogate pair, which print cannot encode
    "two\nlines\ttabbed",
]


def assert_harmless(text: str) -> None:
    text.encode()
    assert [
        hex(ord(c)) for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_shown_and_not_sent(text: str) -> None:
    assert_harmless(printable(text))
    assert printable(text) != text


def test_what_people_write_is_unchanged() -> None:
    for text in ("Amélie", "千と千尋", "Ёлки", "שלום", "C:\\films", "👩‍🚀 [bold]", "a % b"):
        assert printable(text) == text
    assert printable_lines("one\ntwo\x1b[0m") == "one\ntwo\\x1b[0m"


class Shelf:
    """Recommends items with hostile titles."""

    def recommend(self, user_id: str, k: int) -> list[Recommendation]:
        return [Recommendation(text, text, 1.0) for text in HOSTILE]


def test_recommended_titles_and_ids_are_one_harmless_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recmind_dist.recommend.recommender.load", lambda run: Shelf())
    main(["recommend", "run", "--user", "\x1b[1mme"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(HOSTILE)
    for line in lines:
        assert_harmless(line)


def test_an_error_that_quotes_a_file_is_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Path) -> Shelf:
        raise DataError(f"log.csv:3: no user in {HOSTILE[0]}")

    monkeypatch.setattr("recmind_dist.recommend.recommender.load", refuse)
    with pytest.raises(SystemExit):
        main(["recommend", "run", "--user", "me"])
    assert_harmless(capsys.readouterr().err.rstrip("\n"))


def test_a_warning_of_the_workers_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with follow_training(metrics, every_s=0.01), MetricsLog(metrics) as log:
        log.log("warning", message=f"item {HOSTILE[0]}")
    printed = capsys.readouterr().err
    assert "item" in printed
    assert_harmless(printed.rstrip("\n"))
