"""A hundred thousand rows, ten thousand of them malformed in every way we know: each is accounted
for, by its line.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recmind_dist.ingest import DatasetSettings, ingest_dataset

ROWS, BAD = 100_000, 10_000
Fault = Callable[[int], bytes]


def delimited(s: bytes) -> dict[str, Fault]:
    """Malformed lines of a file of three columns."""
    return {
        "too few fields": lambda n: b"u%d" % n,
        "too many fields": lambda n: s.join([b"u%d" % n, b"i", b"1", b"x"]),
        "no user": lambda n: s.join([b"", b"i%d" % n, b"1"]),
        "a user of spaces": lambda n: s.join([b"   ", b"i%d" % n, b"1"]),
        "no item": lambda n: s.join([b"u%d" % n, b"", b"1"]),
        "no time": lambda n: s.join([b"u%d" % n, b"i", b""]),
        "a word for a time": lambda n: s.join([b"u%d" % n, b"i", b"soon"]),
        "NaN": lambda n: s.join([b"u%d" % n, b"i", b"NaN"]),
        "infinity": lambda n: s.join([b"u%d" % n, b"i", b"1e999"]),
        "Latin-1": lambda n: s.join([b"caf\xe9%d" % n, b"i", b"1"]),
        "UTF-16": lambda n: f"u{n}".encode("utf-16"),
        "a bare carriage return": lambda n: b"u%d\rx" % n,
        "only separators": lambda n: s + s,
        "zero bytes": lambda n: b"\0" * 9,
    }


QUOTES: dict[str, Fault] = {
    "a quote never closed": lambda n: b'u%d,"i,1' % n,
    "a letter after a quote": lambda n: b'u%d,"i"x,1' % n,
    "a record over two lines": lambda n: b'u%d,"i' % n,
}
OBJECTS: dict[str, Fault] = {
    "cut off": lambda n: b'{"user": "u%d", "it' % n,
    "a list": lambda n: b'["u%d", "i", 1]' % n,
    "a number": lambda n: b"%d" % n,
    "two objects": lambda n: b'{"user": "u%d", "item": "i", "time": 1}{}' % n,
    "a null user": lambda n: b'{"user": null, "item": "i%d", "time": 1}' % n,
    "a user that is a list": lambda n: b'{"user": ["u%d"], "item": "i", "time": 1}' % n,
    "a user that is true": lambda n: b'{"user": true, "item": "i%d", "time": 1}' % n,
    "no item": lambda n: b'{"user": "u%d", "time": 1}' % n,
    "an empty item": lambda n: b'{"user": "u%d", "item": " ", "time": 1}' % n,
    "NaN": lambda n: b'{"user": "u%d", "item": "i", "time": NaN}' % n,
    "infinity": lambda n: b'{"user": "u%d", "item": "i", "time": 1e999}' % n,
    "ten thousand digits": lambda n: (
        b'{"user": "u%d", "item": "i", "time": %s}' % (n, b"9" * 10_000)
    ),
    "half a surrogate pair": lambda n: b'{"user": "u%d\\ud800", "item": "i", "time": 1}' % n,
    "nested too deep": lambda n: b'{"user": "u%d", "item": %s' % (n, b"[" * 3000),
    "not UTF-8": lambda n: b'{"user": "u%d\xff", "item": "i", "time": 1}' % n,
    "a tab in a text": lambda n: b'{"user": "u%d\t", "item": "i", "time": 1}' % n,
    "Python": lambda n: b"{'user': 'u%d', 'item': 'i', 'time': 1}" % n,
}
LAYOUTS: dict[str, tuple[str, bytes, Fault, dict[str, Fault]]] = {
    "csv": (
        "log.csv",
        b"user,item,time\n",
        lambda n: b"u%d,i%d,%d" % (n % 997, n, n),
        delimited(b",") | QUOTES,
    ),
    "tsv": (
        "log.tsv",
        b"user\titem\ttime\n",
        lambda n: b"u%d\ti%d\t%d" % (n % 997, n, n),
        delimited(b"\t"),
    ),
    "atomic": (
        "log.inter",
        b"user_id:token\titem_id:token\ttimestamp:float\n",
        lambda n: b"u%d\ti%d\t%d" % (n % 997, n, n),
        delimited(b"\t"),
    ),
    "jsonl": (
        "log.jsonl",
        b"",
        lambda n: b'{"user": "u%d", "item": "i%d", "time": %d}' % (n % 997, n, n),
        OBJECTS,
    ),
}


def write_log(path: Path, header: bytes, good: Fault, kinds: dict[str, Fault]) -> dict[int, str]:
    """Writes the rows in a seeded order. Returns the line of each malformed one with its kind."""
    chosen = set(random.Random(7).sample(range(ROWS), BAD))
    bad: dict[int, str] = {}
    with path.open("wb") as file:
        file.write(header)
        for n in range(ROWS):
            kind = list(kinds)[n % len(kinds)]
            file.write((kinds[kind](n) if n in chosen else good(n)) + b"\n")
            if n in chosen:
                bad[n + 1 + bool(header)] = kind
    return bad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_malformed_row_is_found_by_its_line_and_every_sound_one_kept(
    tmp_path: Path, layout: str
) -> None:
    name, header, good, kinds = LAYOUTS[layout]
    bad = write_log(tmp_path / name, header, good, kinds)
    assert set(bad.values()) == set(kinds), "every kind stands in the file"
    settings = DatasetSettings.model_validate(
        {"name": "x", "interactions": tmp_path / name, "max_bad_rows": BAD}
    )
    made = ingest_dataset(settings, tmp_path / "cache")

    records = [json.loads(line) for line in (made / "quarantine.jsonl").read_text().splitlines()]
    found = {record["line"] for record in records}
    assert {line: kind for line, kind in bad.items() if line not in found} == {}
    assert [record["line"] for record in records] == sorted(bad), (
        "each once, and no sound row among them"
    )
    assert all(record["reason"] and record["file"].endswith(name) for record in records)

    kept = pl.read_parquet(made / "interactions.parquet")
    sound = [n for n in range(ROWS) if n + 1 + bool(header) not in bad]
    assert kept["item"].to_list() == [f"i{n}" for n in sound]
    assert kept["row"].to_list() == [n + 1 for n in sound]
    counts = json.loads((made / "manifest.json").read_text())["counts"]
    assert (counts["rows_in"], counts["rows_kept"], counts["rows_quarantined"]) == (
        ROWS,
        ROWS - BAD,
        BAD,
    )


def test_one_bad_row_more_than_allowed_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    name, header, good, kinds = LAYOUTS["csv"]
    bad = write_log(tmp_path / name, header, good, kinds)
    settings = DatasetSettings.model_validate(
        {"name": "x", "interactions": tmp_path / name, "max_bad_rows": BAD - 1}
    )
    with pytest.raises(
        ValueError, match=rf"log\.csv:{min(bad)}: .*more than dataset\.max_bad_rows = {BAD - 1}"
    ):
        ingest_dataset(settings, tmp_path / "cache")
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*")), "nothing is written"
