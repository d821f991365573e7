"""Readers: every layout gives the same log, bad rows are quarantined by line, no traceback."""

import json
import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recmind_dist.errors import DataError, RecmindError
from recmind_dist.ingest.log import Log, read_log
from recmind_dist.ingest.rows import Quarantine
from recmind_dist.ingest.settings import LogColumns, LogSettings, TableSettings
from recmind_dist.ingest.tables import read_rows, read_table, without_repeats

PAIRS = [("1", "a"), ("1", "b"), ("2", "a")]


def read(path: Path, limit: int = 0, rating: bool = False, **how: object) -> tuple[Log, Quarantine]:
    quarantine = Quarantine(limit)
    log_settings = LogSettings.model_validate({"path": path, **how})
    return read_log([path], log_settings, rating, quarantine), quarantine


def pairs(log: Log) -> list[tuple[str, str]]:
    return list(log.frame.select("user", "item").iter_rows())


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", "user,item,time\n1,a,5\n1,b,6\n2,a,7\n"),
        ("log.csv", '"user","item","time"\n"1","a","5"\n"1","b","6"\n"2","a","7"\n'),
        ("log.tsv", "item\tnoise\tuser\ttimestamp\na\tx\t1\t5\nb\ty\t1\t6\na\tz\t2\t7\n"),
        ("log.tsv", "\ufeffuser\titem\ttime\r\n1\ta\t5\r\n1\tb\t6\r\n\r\n2\ta\t7\r\n"),
        (
            "log.inter",
            "user_id:token\titem_id:token\ttimestamp:float\n1\ta\t5.0\n1\tb\t6.0\n2\ta\t7.0\n",
        ),
        (
            "log.jsonl",
            '{"user": 1, "item": "a", "time": 5}\n{"user": "1", "item": "b", "time": 6}\n'
            '{"item": "a", "user": 2.0, "time": 7}\n',
        ),
    ],
)
def test_every_text_layout_reads_the_same_log(tmp_path: Path, name: str, content: str) -> None:
    log, quarantine = read(write(tmp_path / name, content))
    assert pairs(log) == PAIRS
    assert log.frame["time"].to_list() == [5, 6, 7]
    assert (log.rows_in, quarantine.rows) == (3, [])


def test_a_key_that_the_first_object_lacks_is_a_column_all_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl", '{"user": 1, "item": 2}\n{"user": 1, "item": 3, "time": 9}\n'
    )
    log, quarantine = read(path, limit=1)
    assert (pairs(log), log.has_time) == ([("1", "3")], True)
    assert [(row.line, row.reason) for row in quarantine.rows] == [(1, "no time")]


def test_parquet_reads_the_same_log_and_float_ids_lose_their_point(tmp_path: Path) -> None:
    frame = pl.DataFrame({"u": [1.0, 1.0, 2.0], "i": ["a", "b", "a"], "when": pl.Series([5, 6, 7])})
    frame.write_parquet(tmp_path / "log.parquet")
    log, _ = read(tmp_path / "log.parquet", columns={"user": "u", "item": "i", "time": "when"})
    assert pairs(log) == PAIRS


def test_lightgcn_lines_become_pairs_in_file_order(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path / "train.txt", "1 a b\n9\n2 a\n"))
    assert pairs(log) == PAIRS
    assert not log.has_time
    assert log.frame["time"].to_list() == log.frame["row"].to_list() == [1, 2, 3]


def test_columns_by_number_in_a_file_without_header(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "x;5;1;a\ny;6;1;b\nz;7;2;a\n")
    columns = LogColumns(user=2, item=3, time=1)
    log, _ = read(path, columns=columns, separator=";", has_header=False)
    assert pairs(log) == PAIRS
    assert log.frame["time"].to_list() == [5, 6, 7]


def test_dates_become_seconds(tmp_path: Path) -> None:
    log, _ = read(
        write(
            tmp_path / "log.csv",
            "user,item,time\n1,a,1970-01-01 00:00:05\n1,b,1970-01-02T00:00:00Z\n",
        )
    )
    assert log.frame["time"].to_list() == [5, 86400]


@pytest.mark.parametrize(
    ("name", "head", "bad", "reason"),
    [
        ("log.csv", "user,item,time\n1,a,1\n", b"2,b", "2 fields where the file has 3"),
        ("log.csv", "user,item,time\n1,a,1\n", b"2,b,3,4", "4 fields where the file has 3"),
        ("log.csv", "user,item,time\n1,a,1\n", b",b,3", "no user"),
        ("log.csv", "user,item,time\n1,a,1\n", b"2, ,3", "no item"),
        ("log.csv", "user,item,time\n1,a,1\n", b"2,b,soon", "not a time: 'soon'"),
        ("log.csv", "user,item,time\n1,a,1\n", b"2,b,NaN", "time is not a finite number"),
        ("log.csv", "user,item,time\n1,a,1\n", b'2,"b,3', "a quote is opened and not closed"),
        (
            "log.tsv",
            "user\titem\ttime\n1\ta\t1\n",
            b"2\t\xff\t3",
            "not UTF-8 at byte 2 of the line",
        ),
        ("log.jsonl", '{"user": 1, "item": "a", "time": 1}\n', b"[1, 2]", "a list, not an object"),
        ("log.jsonl", '{"user": 1, "item": "a", "time": 1}\n', b'{"user": 1', "not JSON"),
        (
            "log.jsonl",
            '{"user": 1, "item": "a", "time": 1}\n',
            b'{"user": 1, "item": [2], "time": 1}',
            "item is list",
        ),
        (
            "log.jsonl",
            '{"user": 1, "item": "a", "time": 1}\n',
            b'{"user": 1, "item": 2, "time": NaN}',
            "time is not",
        ),
        ("log.jsonl", '{"user": 1, "item": "a", "time": 1}\n', b"[" * 100_000, "nested too deep"),
        (
            "log.jsonl",
            '{"user": 1, "item": "a", "time": 1}\n',
            b'{"user": "\\ud800", "item": 2}',
            "surrogate",
        ),
    ],
)
def test_a_bad_row_is_set_aside_with_line_reason_and_text(
    tmp_path: Path, name: str, head: str, bad: bytes, reason: str
) -> None:
    good = {"csv": b"9,z,9", "tsv": b"9\tz\t9", "jsonl": b'{"user": 9, "item": "z", "time": 9}'}[
        name.split(".")[1]
    ]
    path = write(tmp_path / name, head.encode() + bad + b"\n" + good + b"\n")
    line = head.count("\n") + 1
    log, quarantine = read(path, limit=1)
    assert pairs(log) == [("1", "a"), ("9", "z")]
    assert log.frame["row"].to_list() == [1, 3], "the bad row keeps its number"
    quarantine.write(tmp_path / "quarantine.jsonl")
    record = json.loads((tmp_path / "quarantine.jsonl").read_text())
    assert (record["file"], record["line"]) == (str(path), line)
    assert reason in record["reason"]
    assert record["text"][:3] == bad.decode(errors="replace")[:3]
    assert len(record["text"]) <= 200
    with pytest.raises(DataError, match=rf":{line}: .*dataset\.max_bad_rows = 0"):
        read(path)


def test_the_first_bad_row_is_named_whatever_kind_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,time\n1,a,1\n1,b,never\n1,c\n1,d,4\n")
    with pytest.raises(DataError, match=r"log\.csv:3: not a time"):
        read(path)


def test_a_null_or_nan_in_parquet_is_a_bad_row(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"user": [1, None, 3, 4], "item": [1, 2, 3, 4], "time": [1.5, 2.5, math.nan, 4.5]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    log, quarantine = read(tmp_path / "log.parquet", limit=2)
    assert pairs(log) == [("1", "1"), ("4", "4")]
    assert [(row.line, row.reason) for row in quarantine.rows] == [
        (2, "no user"),
        (3, "time is not a finite number"),
    ]
    assert "'item': 2" in quarantine.rows[0].text


def test_missing_columns_and_unknown_layouts_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "who,what\n1,a\n")
    with pytest.raises(
        DataError, match=r"columns\.user to one of the columns there are: who, what"
    ):
        read(path)
    with pytest.raises(DataError, match="no column 'which'"):
        read(path, columns={"user": "who", "item": "which"})
    with pytest.raises(DataError, match=r"rating"):
        read(path, rating=True, columns={"user": "who", "item": "what"})
    with pytest.raises(
        DataError, match=r"'\.dat' does not say the layout: set dataset\.interactions\.format"
    ):
        read(write(tmp_path / "log.dat", "1 2\n"))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(write(tmp_path / "log.parquet", "no parquet"))
    with pytest.raises(DataError, match="column 'user' stands twice"):
        read(write(tmp_path / "twice.csv", "user,user,item\n1,2,3\n"))


def table(path: Path, limit: int = 0, **how: object) -> pl.DataFrame:
    return read_table(
        TableSettings.model_validate({"path": path, **how}), "item", Quarantine(limit)
    )


def test_texts_of_every_layout(tmp_path: Path) -> None:
    objects = '{"id": 1, "title": "T", "tags": ["x", "y"], "more": {"k": 2}}\n'
    objects += '{"id": "2", "title": "", "year": 1999}\n'
    frame = table(write(tmp_path / "items.jsonl", objects))
    assert frame.rows(named=True) == [
        {"id": "1", "title": "T", "tags": "x, y", "more": "k: 2", "year": None},
        {"id": "2", "title": None, "tags": None, "more": None, "year": "1999"},
    ]
    frame = table(write(tmp_path / "items.csv", 'item_id,title\n1,"a, ""b""\nsecond line"\n2,\n'))
    assert frame.rows() == [("1", 'a, "b"\nsecond line'), ("2", None)]
    frame = table(
        write(tmp_path / "m.item", 'item_id:token\ttitle:token_seq\n1\tsay "hi\n2\tb\n'),
        fields=["title"],
    )
    assert frame.rows() == [("1", 'say "hi'), ("2", "b")]
    pl.DataFrame({"asin": ["x"], "price": [1.5], "tags": [["a", "b"]]}).write_parquet(
        tmp_path / "i.parquet"
    )
    assert table(tmp_path / "i.parquet", id="asin").rows() == [("x", "1.5", "a, b")]


def test_a_text_of_a_hundred_thousand_letters_is_kept_whole(tmp_path: Path) -> None:
    long = "word " * 20_000
    assert (
        table(write(tmp_path / "i.jsonl", json.dumps({"id": 1, "title": long}) + "\n"))["title"][0]
        == long.strip()
    )
    sound = table(write(tmp_path / "i.csv", f'id,title\n1,"{long}"\n2,"b\nc"\n'))
    assert sound["title"].to_list() == [long.strip(), "b\nc"]


def test_an_unclosed_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", 'id,title\n1,"open\n2,b\n3,c\n')
    assert table(path, limit=1).rows() == [("2", "b"), ("3", "c")]


def test_double_ids_name_both_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "items.jsonl",
        '{"id": 7, "t": "a"}\n{"id": 8, "t": "b"}\n{"id": "7", "t": "c"}\n',
    )
    with pytest.raises(DataError, match=r"items\.jsonl:1 and .*items\.jsonl:3: item id '7'"):
        table(path)


def test_absent_fields_and_ids_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "sku,title\n1,a\n")
    with pytest.raises(
        DataError, match=r"dataset\.items\.id to one of the columns there are: sku, title"
    ):
        table(path)
    with pytest.raises(DataError, match=r"no column 'name'"):
        table(path, id="sku", fields=["name"])
    with pytest.raises(DataError, match=r"dataset\.items\.id"):
        table(write(tmp_path / "items.jsonl", '{"sku": 1}\n'), limit=5)


SEPARATORS = {"csv": b",", "tsv": b"\t", "jsonl": b",", "inter": b"\t", "txt": b" "}
PIECES = st.sampled_from(
    [
        b"1",
        b"22",
        b"a b",
        b"",
        b"\t",
        b",",
        b'"',
        b"\xff",
        b"NaN",
        b"1e999",
        b"-3.5",
        b"{",
        b'{"user": 1, "item": 2}',
        b'{"user": null}',
        b"[[[",
        b"\r",
        b"\x00",
        "é\u2028".encode(),
        b"\\ud800",
        b"99999999999999999999",
    ]
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(SEPARATORS)),
    body=st.lists(st.lists(PIECES, min_size=1, max_size=4), min_size=1, max_size=6),
    header=st.booleans(),
)
def test_any_bytes_give_rows_that_add_up_or_one_sentence(
    tmp_path: Path, kind: str, body: list[list[bytes]], header: bool
) -> None:
    separator = SEPARATORS[kind]
    lines = [separator.join(pieces) for pieces in body]
    if header:
        lines.insert(0, separator.join([b"user", b"item", b"time"]))
    path = write(tmp_path / f"log.{kind}", b"\n".join(lines))
    how = {"format": {"inter": "atomic", "txt": "lightgcn"}.get(kind, kind)}
    sentence = ""
    try:
        log, quarantine = read(path, limit=1000, **how)
    except RecmindError as error:
        sentence = str(error)
    if sentence:
        assert str(path) in sentence
        return
    assert log.rows_in == log.frame.height + len(quarantine.rows)
    assert log.frame.null_count().row(0) == (0,) * log.frame.width
    assert log.frame["row"].is_unique().all()
    if kind == "jsonl":
        assert log.rows_in == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    quarantine.write(tmp_path / "quarantine.jsonl")
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == len(quarantine.rows)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.lists(st.lists(PIECES, min_size=1, max_size=4), min_size=1, max_size=6),
    kind=st.sampled_from(["csv", "jsonl"]),
)
def test_any_bytes_give_texts_or_one_sentence(
    tmp_path: Path, body: list[list[bytes]], kind: str
) -> None:
    lines = [b",".join(pieces) for pieces in body]
    path = write(
        tmp_path / f"items.{kind}",
        b"\n".join([b"id,title" if kind == "csv" else b'{"id": 0}', *lines]),
    )
    sentence = ""
    try:
        frame = table(path, limit=1000)
    except RecmindError as error:
        sentence = str(error)
    if sentence:
        assert str(path) in sentence
        return
    assert frame["id"].is_unique().all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"id": json_values, "title": json_values}, optional={"x": json_values}
        )
    )
)
@example(rows=[{"id": 0, "title": None}] * 2)
def test_any_json_objects_are_texts_or_quarantined(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    path = write(
        tmp_path / "items.jsonl",
        '{"id": "sentinel"}\n' + "".join(json.dumps(row) + "\n" for row in rows),
    )
    quarantine = Quarantine(1000)
    sentence = ""
    try:
        asked = TableSettings(path=path)
        table = without_repeats(read_rows(asked, "item", quarantine), asked, "item")
    except DataError as error:
        sentence = str(error)
    if sentence:
        assert "stands on both lines" in sentence
        return
    assert table.frame["id"].is_unique().all()
    alike = table.counts["rows_alike"] + table.counts["repeats_collapsed"]
    assert table.frame.height + alike + len(quarantine.rows) == len(rows) + 1
