"""Generated data sets, each file in a layout, encoding and packing of its own: what is read is what
was written, in memory and in blocks alike, and the counts add up; a row that was spoilt is named by
its line and costs itself alone.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset
from recmind_dist.ingest.dataset import SCHEMA
from recmind_dist.ingest.summary import REASONS
from recmind_dist.storage import read_manifest

quick = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Row = tuple[Any, ...]
Head = tuple[str, ...]
HEADS = {"log": ("user", "item", "time"), "items": ("id", "title", "note")}
HEADS["users"] = HEADS["items"]
COMMON = {"log": ("uu", "ii", 1_500_000_000), "items": ("ii", "t", "n"), "users": ("uu", "t", "n")}
"""The last row of each file: files of a data set must have ids in common."""
ENCODINGS = {
    "utf-8": "é💡",
    "utf-8-sig": "é",
    "latin-1": "éÿ",
    "cp1252": "é€",
    "utf-16": "é💡",
    "cp1251": "жЯ",
    "gb18030": "中é",
    "shift_jis": "ソ表ポ",
}
"""Encoding → letters beside ASCII. In Shift-JIS the second bytes of these are those of \\ and |."""
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip in members": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
PLAIN_LETTERS = "abZ09.-_#/"
ODD_LETTERS = ' ",;\t|\n\\'
TIMES = st.integers(1_000_000_000, 2_000_000_000)


def quoted(separator: str, header: bool = True, **form: Any) -> Callable[[Head, list[Row]], str]:
    def write(head: Head, rows: list[Row]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=separator, lineterminator="\n", **form)
        writer.writerows([head, *rows] if header else rows)
        return out.getvalue()

    return write


def plain(separator: str, kinds: str = "") -> Callable[[Head, list[Row]], str]:
    def write(head: Head, rows: list[Row]) -> str:
        named = tuple(f"{name}{kinds}" for name in head)
        return "".join(separator.join(map(str, row)) + "\n" for row in (named, *rows))

    return write


def objects(head: Head, rows: list[Row]) -> str:
    values = (dict(zip(head, row, strict=True)) for row in rows)
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def array(head: Head, rows: list[Row]) -> str:
    elements = [dict(zip(head, row, strict=True)) for row in rows]
    return json.dumps(elements, ensure_ascii=False, indent=len(rows) % 3 or None)


def dicts(head: Head, rows: list[Row]) -> str:
    return "".join(f"{dict(zip(head, row, strict=True))!r}\n" for row in rows)


@dataclass(frozen=True)
class Layout:
    """How a file is written, and what is said of it. `odd`: texts may hold any letter."""

    suffix: str
    write: Callable[[Head, list[Row]], str]
    settings: dict[str, Any] = field(default_factory=dict)
    odd: bool = True


ESCAPED = {"doublequote": False, "escapechar": "\\", "quoting": csv.QUOTE_ALL}
LAYOUTS: dict[str, Layout] = {
    "csv": Layout(".csv", quoted(",")),
    "semicolons": Layout(".csv", quoted(";"), {"separator": ";"}),
    "bars": Layout(".csv", quoted("|"), {"separator": "|"}),
    "escaped": Layout(".csv", quoted(",", **ESCAPED), {"escape": "\\"}),
    "no header": Layout(".csv", quoted(",", header=False), {"has_header": False}),
    "tsv": Layout(".tsv", plain("\t"), odd=False),
    "atomic": Layout(".inter", plain("\t", ":token"), odd=False),
    "double colons": Layout(".dat", plain("::"), {"format": "csv", "separator": "::"}, odd=False),
    "jsonl": Layout(".jsonl", objects),
    "array": Layout(".json", array),
    "python": Layout(".txt", dicts, {"format": "python"}),
}


@dataclass(frozen=True)
class File:
    """One file of a data set; its last row is that of COMMON."""

    side: str
    layout: str
    encoding: str
    packing: str
    rows: list[Row]

    @property
    def name(self) -> str:
        return self.side + LAYOUTS[self.layout].suffix

    def written(self, folder: Path) -> dict[str, Any]:
        """Writes it. Returns its settings."""
        layout, path = LAYOUTS[self.layout], folder / self.name
        text = layout.write(HEADS[self.side], self.rows)
        path.write_bytes(PACKERS[self.packing](text.encode(self.encoding)))
        found = {"path": path, "encoding": self.encoding, **layout.settings}
        if layout.settings.get("has_header") is False:
            numbers = {"columns": {"user": 0, "item": 1, "time": 2}}
            found |= numbers if self.side == "log" else {"id": 0, "fields": [1, 2]}
        return found

    def spoilt(self, at: int) -> tuple["File", int]:
        """The same with a row that has no time, or no id, and that row's line (of an array: its
        element).
        """
        row = self.rows[at]
        bad = (*row[:2], "soon-ish") if self.side == "log" else ("", *row[1:])
        rows = [*self.rows[:at], bad, *self.rows[at + 1 :]]
        before = LAYOUTS[self.layout].write(HEADS[self.side], self.rows[:at])
        line = at + 1 if self.layout == "array" else before.count("\n") + 1
        return File(self.side, self.layout, self.encoding, self.packing, rows), line

    def without(self, at: int) -> list[Row]:
        return [*self.rows[:at], *self.rows[at + 1 :]]


@st.composite
def files(draw: st.DrawFn, side: str, layout: str | None = None, fewest: int = 0) -> File:
    """A file of a side: of this layout, or of any.

    Args:
        fewest: rows beside the last one.
    """
    chosen = layout or draw(st.sampled_from(list(LAYOUTS)))
    encoding = draw(st.sampled_from(list(ENCODINGS)))
    letters = PLAIN_LETTERS + ENCODINGS[encoding] + ODD_LETTERS * LAYOUTS[chosen].odd
    words = st.text(letters, min_size=1, max_size=5).map(lambda text: f"x{text}x")
    row = st.tuples(words, words, TIMES if side == "log" else words)
    distinct = 2 if side == "log" else 1
    rows = st.lists(row, min_size=fewest, max_size=8, unique_by=lambda row: row[:distinct])
    packing = draw(st.sampled_from(list(PACKERS)))
    return File(side, chosen, encoding, packing, [*draw(rows), COMMON[side]])


def ingest(folder: Path, log: dict[str, Any], **how: Any) -> Path:
    words = {"name": "x", "interactions": log, **how}
    return ingest_dataset(DatasetSettings.model_validate(words), folder / "cache")


def ingest_files(folder: Path, given: list[File], **how: Any) -> Path:
    written = {file.side: file.written(folder) for file in given}
    return ingest(folder, written.pop("log"), **written, **how)


def must_be(made: Path, rows: list[Row], rows_in: int) -> None:
    """The log has these rows, in their order, and the counts add up."""
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    assert frame.select("user", "item", "time").rows() == rows
    counts = read_manifest(made, "dataset", SCHEMA)["counts"]
    assert counts["rows_in"] == rows_in
    assert rows_in == counts["rows_kept"] + sum(counts[name] for name in REASONS)
    assert f"log: {rows_in} rows, {len(rows)} kept" in dataset_summary(made)[0]


def texts_must_be(made: Path, side: str, rows: list[Row], rows_in: int) -> None:
    """A text file has these rows, in their order, and its counts add up."""
    assert pl.read_parquet(made / f"{side}.parquet").rows() == rows
    table = read_manifest(made, "dataset", SCHEMA)["read"]["tables"][side[:-1]]
    assert (table["rows_in"], table["rows_quarantined"]) == (rows_in, rows_in - len(rows))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_is_what_was_written(tmp_path: Path, layout: str) -> None:
    @settings(quick, max_examples=20)
    @given(log=files("log", layout), items=files("items"), users=files("users"))
    def check(log: File, items: File, users: File) -> None:
        made = ingest_files(tmp_path, [log, items, users])
        must_be(made, log.rows, len(log.rows))
        for table in (items, users):
            texts_must_be(made, table.side, table.rows, len(table.rows))

    check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_spoilt_row_is_named_by_its_line_and_costs_itself_alone(
    tmp_path: Path, layout: str
) -> None:
    log_of_two = File("log", "csv", "utf-8", "plain", [("a", "b", 1), COMMON["log"]])

    @settings(quick, max_examples=8)
    @given(side=st.sampled_from(list(HEADS)), data=st.data())
    def check(side: str, data: st.DataObject) -> None:
        file = data.draw(files(side, layout, fewest=1))
        at = data.draw(st.integers(0, len(file.rows) - 2))
        bad, line = file.spoilt(at)
        given = [bad] if file.side == "log" else [log_of_two, bad]
        with pytest.raises(DataError, match=rf"/{file.name}:{line}: "):
            ingest_files(tmp_path, given)
        made = ingest_files(tmp_path, given, max_bad_rows=1)
        if file.side == "log":
            must_be(made, file.without(at), len(file.rows))
        else:
            texts_must_be(made, file.side, file.without(at), len(file.rows))

    check()


@settings(quick, max_examples=12)
@given(
    lists=st.dictionaries(
        st.text(PLAIN_LETTERS + "é", min_size=1, max_size=4).map(lambda text: f"x{text}"),
        st.lists(st.text("ab9é.-", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
        min_size=1,
        max_size=6,
    ),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16", "gb18030"]),
    pack=st.sampled_from(list(PACKERS)),
)
def test_lists_of_items_are_read_as_they_were_written(
    tmp_path: Path, lists: dict[str, list[str]], encoding: str, pack: str
) -> None:
    lines = [f"{user} {' '.join(items)}\n" for user, items in lists.items()]
    path = tmp_path / "train.txt"
    log = {"path": path, "format": "lightgcn", "encoding": encoding}
    path.write_bytes(PACKERS[pack]("".join(lines).encode(encoding)))
    frame = pl.read_parquet(ingest(tmp_path, log) / "interactions.parquet").sort("row")
    written = [(user, item) for user, items in lists.items() for item in items]
    assert frame.select("user", "item").rows() == written
    if encoding == "utf-8":
        path.write_bytes(PACKERS[pack]("".join(lines).encode() + b"x \xff\n"))
        with pytest.raises(DataError, match=rf"train\.txt:{len(lines) + 1}: not UTF-8 at byte 2"):
            ingest(tmp_path, log)
        made = ingest(tmp_path, log, max_bad_rows=1)
        frame = pl.read_parquet(made / "interactions.parquet").sort("row")
        assert frame.select("user", "item").rows() == written


@settings(quick, max_examples=12)
@given(
    file=files("log", "jsonl", fewest=1),
    group=st.integers(1, 5),
    kind=st.sampled_from([pl.Int64, pl.Int32, pl.Float64, pl.String, pl.Datetime("ms", "UTC")]),
    ids=st.sampled_from([pl.String, pl.Categorical]),
    memory_mb=st.sampled_from([0, 1]),
)
def test_parquet_of_any_types_is_what_was_written(
    tmp_path: Path, file: File, group: int, kind: Any, ids: Any, memory_mb: int
) -> None:
    rows, path = file.rows, tmp_path / "log.parquet"
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    if isinstance(kind, pl.Datetime):
        frame = frame.with_columns(pl.from_epoch("time").cast(kind))
    else:
        frame = frame.with_columns(pl.col("time").cast(kind))
    frame = frame.with_columns(pl.col("user", "item").cast(ids))
    frame.write_parquet(path, row_group_size=group)
    must_be(ingest(tmp_path, {"path": path}, memory_mb=memory_mb), rows, len(rows))
    if kind == pl.String:
        at = len(rows) // 2
        spoilt = pl.int_range(pl.len()) == at
        frame = frame.with_columns(time=pl.when(spoilt).then(pl.lit("x")).otherwise("time"))
        frame.write_parquet(path, row_group_size=group)
        with pytest.raises(DataError, match=rf"log\.parquet:{at + 1}: not a time: 'x'"):
            ingest(tmp_path, {"path": path}, memory_mb=memory_mb)
        made = ingest(tmp_path, {"path": path}, memory_mb=memory_mb, max_bad_rows=1)
        must_be(made, file.without(at), len(rows))


@quick
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["NA", "u1", "u2", "7", "7.0", "007"]),
            st.sampled_from(["i1", "i2", "B", "b"]),
            st.sampled_from(["2024-01-01", "2024-01-02T10:00:00+02:00", "1704067200", "", "x"]),
            st.sampled_from([None, 1.0, 4.0]),
            st.sampled_from(["view", "buy"]),
        ),
        min_size=1,
        max_size=20,
    ),
    how=st.fixed_dictionaries(
        {},
        optional={
            "keep": st.just({"event": ["buy"]}),
            "missing": st.just(["NA", ""]),
            "min_rating": st.just(2),
            "k_core": st.just(2),
            "repeats": st.just("last"),
            "user_ids": st.sampled_from(["stripped", "text"]),
        },
    ),
)
def test_blocks_read_say_and_count_as_memory_does(
    tmp_path: Path, rows: list[tuple[Any, ...]], how: dict[str, Any]
) -> None:
    names = ["user", "item", "time", "rating", "event"]
    pl.DataFrame(
        rows, schema=names, orient="row", schema_overrides={"rating": pl.Float64}
    ).write_parquet(tmp_path / "log.parquet")
    found: list[Any] = []
    for folder, memory_mb in (("memory", 0), ("blocks", 1)):
        log = {"path": tmp_path / "log.parquet"}
        try:
            made = ingest(tmp_path / folder, log, memory_mb=memory_mb, max_bad_rows=100, **how)
        except DataError as error:
            found.append(str(error))
            continue
        frame = pl.read_parquet(made / "interactions.parquet").sort("row")
        counts = read_manifest(made, "dataset", SCHEMA)["counts"]
        found.append((frame.rows(), counts, dataset_summary(made)))
    assert found[0] == found[1]
