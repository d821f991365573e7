"""Generated logs in every layout and encoding: what is read is what was written, in memory and in
blocks alike, and the counts add up; a row that was spoilt is named by its line.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable
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
Row = tuple[str, str, int]
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip in members": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
# letters that all encodings have; odd words add quotes, separators, line ends and blanks
LETTERS = "abZ09é.-_#/"
WORDS = st.text(LETTERS, min_size=1, max_size=4).map(lambda text: f"x{text}")
ODD_WORDS = st.text(LETTERS + ' ",;\t|\n', min_size=1, max_size=5).map(lambda text: f"x{text}x")
TIMES = st.integers(1_000_000_000, 2_000_000_000)


def rows_of(words: st.SearchStrategy[str]) -> st.SearchStrategy[list[Row]]:
    """Rows of distinct pairs."""
    row = st.tuples(words, words, TIMES)
    return st.lists(row, min_size=1, max_size=12, unique_by=lambda row: row[:2])


def quoted(separator: str) -> Callable[[list[Row]], str]:
    def write(rows: list[Row]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=separator, lineterminator="\n")
        writer.writerows([("user", "item", "time"), *rows])
        return out.getvalue()

    return write


def plain(separator: str, head: str) -> Callable[[list[Row]], str]:
    def write(rows: list[Row]) -> str:
        lines = [separator.join(map(str, row)) for row in rows]
        return "\n".join([head, *lines] if head else lines) + "\n"

    return write


def objects(rows: list[Row]) -> str:
    lines = [json.dumps({"user": u, "item": i, "time": t}, ensure_ascii=False) for u, i, t in rows]
    return "\n".join(lines) + "\n"


def array(rows: list[Row]) -> str:
    elements = [{"user": u, "item": i, "time": t} for u, i, t in rows]
    return json.dumps(elements, ensure_ascii=False, indent=len(rows) % 3 or None)


def dicts(rows: list[Row]) -> str:
    return "".join(f"{ {'user': u, 'item': i, 'time': t}!r}\n" for u, i, t in rows)


NUMBERED = {"has_header": False, "columns": {"user": 0, "item": 1, "time": 2}}
LAYOUTS: dict[str, tuple[str, Callable[[list[Row]], str], dict[str, Any], bool]] = {
    "csv": ("log.csv", quoted(","), {}, True),
    "semicolons": ("log.csv", quoted(";"), {"separator": ";"}, True),
    "bars": ("log.csv", quoted("|"), {"separator": "|"}, True),
    "tsv": ("log.tsv", plain("\t", "user\titem\ttime"), {}, False),
    "atomic": ("log.inter", plain("\t", "user:token\titem:token\ttime:float"), {}, False),
    "double colons": (
        "log.dat",
        plain("::", ""),
        {"format": "csv", "separator": "::", **NUMBERED},
        False,
    ),
    "no header": ("log.csv", plain(",", ""), NUMBERED, False),
    "jsonl": ("log.jsonl", objects, {}, True),
    "array": ("log.json", array, {}, True),
    "python": ("log.txt", dicts, {"format": "python"}, True),
}


def ingest(folder: Path, log: dict[str, Any], **how: Any) -> Path:
    words = {"name": "x", "interactions": log, **how}
    return ingest_dataset(DatasetSettings.model_validate(words), folder / "cache")


def must_be(made: Path, rows: list[Row], rows_in: int) -> None:
    """The rows are those, in their order, and the counts add up."""
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    assert frame.select("user", "item", "time").rows() == rows
    counts = read_manifest(made, "dataset", SCHEMA)["counts"]
    assert counts["rows_in"] == rows_in
    assert rows_in == counts["rows_kept"] + sum(counts[name] for name in REASONS)
    assert f"log: {rows_in} rows, {len(rows)} kept" in dataset_summary(made)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_is_what_was_written(tmp_path: Path, layout: str) -> None:
    name, text_of, how, takes_any = LAYOUTS[layout]

    @quick
    @given(
        rows=rows_of(ODD_WORDS if takes_any else WORDS),
        encoding=st.sampled_from(ENCODINGS),
        pack=st.sampled_from(list(PACKERS)),
    )
    def check(rows: list[Row], encoding: str, pack: str) -> None:
        path = tmp_path / name
        path.write_bytes(PACKERS[pack](text_of(rows).encode(encoding)))
        log = {"path": path, "encoding": encoding, **how}
        must_be(ingest(tmp_path, log), rows, len(rows))

    check()


@quick
@given(lists=st.dictionaries(WORDS, st.lists(WORDS, min_size=1, unique=True), min_size=1))
def test_lists_of_items_are_read_as_they_were_written(
    tmp_path: Path, lists: dict[str, list[str]]
) -> None:
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{user} {' '.join(items)}\n" for user, items in lists.items()))
    made = ingest(tmp_path, {"path": path, "format": "lightgcn"})
    frame = pl.read_parquet(made / "interactions.parquet").sort("row").select("user", "item")
    assert frame.rows() == [(user, item) for user, items in lists.items() for item in items]


@quick
@given(
    rows=rows_of(ODD_WORDS),
    group=st.integers(1, 5),
    kind=st.sampled_from([pl.Int64, pl.Int32, pl.Float64, pl.String, pl.Datetime("ms", "UTC")]),
    ids=st.sampled_from([pl.String, pl.Categorical]),
    memory_mb=st.sampled_from([0, 1]),
)
def test_parquet_of_any_types_is_what_was_written(
    tmp_path: Path, rows: list[Row], group: int, kind: Any, ids: Any, memory_mb: int
) -> None:
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    if isinstance(kind, pl.Datetime):
        frame = frame.with_columns(pl.from_epoch("time").cast(kind))
    else:
        frame = frame.with_columns(pl.col("time").cast(kind))
    frame = frame.with_columns(pl.col("user", "item").cast(ids))
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=group)
    log = {"path": tmp_path / "log.parquet"}
    must_be(ingest(tmp_path, log, memory_mb=memory_mb), rows, len(rows))


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"array"}))  # has no lines
def test_a_spoilt_row_is_named_by_its_line_and_costs_itself_alone(
    tmp_path: Path, layout: str
) -> None:
    name, text_of, how, _ = LAYOUTS[layout]

    @settings(quick, max_examples=8)
    @given(rows=rows_of(WORDS), data=st.data())
    def check(rows: list[Row], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(rows) - 1))
        lines = text_of(rows).splitlines()
        head = len(lines) - len(rows)
        lines[head + at] = lines[head + at].replace(str(rows[at][2]), "soon-ish")
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=rf"{name}:{head + at + 1}: "):
            ingest(tmp_path, {"path": path, **how})
        if len(rows) > 1:
            made = ingest(tmp_path, {"path": path, **how}, max_bad_rows=1)
            must_be(made, rows[:at] + rows[at + 1 :], len(rows))

    check()


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
