"""Nothing that a stranger wrote into a title or an id reaches the terminal as a command to it."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.random_bundle import RandomBundle
from recmind_dist.cli.app import main
from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import KIND, SCHEMA
from recmind_dist.report import MetricsLog
from recmind_dist.report.follow import _Display, follow_training
from recmind_dist.report.printable import printable, printable_lines
from recmind_dist.storage import read_manifest, write_manifest

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


def test_recommended_titles_and_ids_are_one_harmless_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = RandomBundle(2, len(HOSTILE), dim=2, history=2).write(tmp_path / "bundle")
    hostile = pa.array(text.encode("utf-8", "replace").decode() for text in HOSTILE)
    items = pq.read_table(bundle / "items.parquet")
    for name in ("id", "title"):
        items = items.set_column(items.column_names.index(name), name, hostile)
    pq.write_table(items, bundle / "items.parquet")
    manifest = read_manifest(bundle, KIND, SCHEMA)
    content = {key: manifest[key] for key in manifest if key not in ("kind", "schema", "files")}
    write_manifest(bundle, KIND, SCHEMA, content)
    words = ["recommend", str(bundle), "--user", "u1", "--user", "\x1b[1mme", "--seen", "include"]
    main([*words, "--why", "--k", str(len(items))])
    said = capsys.readouterr()
    assert len([line for line in said.out.splitlines() if line[:3].strip().isdigit()]) == len(items)
    for line in [*said.out.splitlines(), *said.err.splitlines()]:
        assert_harmless(line)


def test_an_error_that_quotes_a_file_is_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Path, *_: object) -> None:
        raise DataError(f"log.csv:3: no user in {HOSTILE[0]}")

    monkeypatch.setattr("recmind_dist.recommend.recommender.load", refuse)
    with pytest.raises(SystemExit):
        main(["recommend", "run", "--user", "me"])
    assert_harmless(capsys.readouterr().err.rstrip("\n"))


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [("", ["recall@5", "ndcg@5"]), ("mrr@3", ["recall@5", "ndcg@5", "mrr@3"]), ("ndcg@5", None)],
)
def test_progress_shows_the_metric_that_chooses(chosen: str, shown: list[str] | None) -> None:
    told: list[str] = []

    class Bar:
        def update(self, _: int, **scores: float) -> None:
            told.extend(scores)

    display = _Display(chosen)
    display._bar = Bar()  # type: ignore[assignment]
    display.add({"kind": "validation", "mrr@3": 0.1, "recall@5": 0.2, "ndcg@5": 0.3, "epoch": 1})
    assert told == (shown or ["recall@5", "ndcg@5"])


def test_a_warning_of_the_workers_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with follow_training(metrics, every_s=0.01), MetricsLog(metrics) as log:
        log.log("warning", message=f"item {HOSTILE[0]}")
    printed = capsys.readouterr().err
    assert "item" in printed
    assert_harmless(printed.rstrip("\n"))
