"""Files that could be misread without a word: they are read right, refused by file and line, or
said in a warning.
"""

import gzip
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset
from tests.ingested import LOG, ingest, rows, warnings

# --- headers


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.txt", "user_id item_id\nu1 i1 i2\nu2 i1\n"),
        ("train.txt", "uid iid rating\nu1 i1 i2\nu2 i1 i3\n"),
        ("org.txt", "org_id remap_id\nu1 i1\n"),
    ],
)
def test_a_header_of_lightgcns_layout_is_no_user(tmp_path: Path, name: str, text: str) -> None:
    log = {"path": name, "format": "lightgcn"}
    with pytest.raises(DataError, match=rf"{name}:1: looks like a header"):
        ingest(tmp_path, {name: text}, interactions=log)
    made = ingest(tmp_path, {name: text}, interactions=log, max_bad_rows=1)
    assert rows(made)[0] == ("u1", "i1")


@pytest.mark.parametrize(
    ("head", "again"),
    [
        ("user,item", "user_id,item"),
        ("user,item", "user,song"),
        ("user,item", "customer,item"),
        ("user,item", "userId,movieId"),
        ("user,item,time", "uid,asin,timestamp"),
    ],
)
def test_a_second_header_under_other_names_is_no_row(tmp_path: Path, head: str, again: str) -> None:
    time = ",5" if "time" in head else ""
    text = f"{head}\nu1,i1{time}\n{again}\nu1,i2{time}\n"
    with pytest.raises(DataError, match=r"log\.csv:3: .*the header again"):
        ingest(tmp_path, {"log.csv": text})
    assert len(rows(ingest(tmp_path, {"log.csv": text}, max_bad_rows=1))) == 2


def test_an_id_called_as_its_column_is_one_where_its_row_says_so(tmp_path: Path) -> None:
    text = "user,item\nuser,i1\nu1,i1\nuser,i2\nu2,i2\n"
    assert len(rows(ingest(tmp_path, {"log.csv": text}))) == 4
    timed = "user,item,time\nuser,i1,1\nu1,i2,2\n"
    assert len(rows(ingest(tmp_path, {"log.csv": timed}))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,title\ni1,Lamp\nid,name\ni2,Chair\n", "items.csv:3: item id is 'id', as its column"),
        ("id,title\ni1,Lamp\nid,title\ni2,Chair\n", "items.csv:3: the header again"),
    ],
)
def test_a_second_header_of_an_item_file_is_no_item(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ingest(tmp_path, {"log.csv": LOG, "items.csv": text}, items="items.csv")


def test_a_first_row_is_no_header_and_a_header_no_row(tmp_path: Path) -> None:
    log = {"path": "log.csv", "columns": {"user": 0, "item": 1}}
    bare = {"log.csv": "A1,B1,5.0,1400000000\nA2,B2,4.0,1400000009\n"}
    with pytest.raises(DataError, match=r"log\.csv:1: '5\.0' stands in the header"):
        ingest(tmp_path, bare, interactions=log)
    numbered = ingest(tmp_path, {"log.csv": "0,1\nA1,B1\nA2,B2\n"}, interactions=log)
    assert len(rows(numbered)) == 2
    items = {"path": "items.csv", "id": 0}
    files = {"log.csv": LOG, "items.csv": "i1,Lamp\ni2,Chair\n"}
    with pytest.raises(DataError, match=r"items\.csv:1: 'i1' stands in the header and is one of"):
        ingest(tmp_path, files, items=items)
    files["items.csv"] = "item_id,title\ni1,Lamp\n"
    with pytest.raises(DataError, match=r"items\.csv:1: looks like a header"):
        ingest(tmp_path, files, items={**items, "has_header": False})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sep=;\nuser;item\nu1;i1\n", r":1: Excel's line on the separator"),
        ("# exported\nuser;item\nu1;i1\n", r":1: '# exported' looks like a comment"),
        ("% bip 3\nuser;item\nu1;i1\n", r":1: '% bip 3' looks like a comment"),
        ("user;item\ru1;i1\r", r":1: lines end with a carriage return alone"),
    ],
)
def test_a_first_line_of_another_kind_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ingest(tmp_path, {"log.csv": text}, interactions={"path": "log.csv", "separator": ";"})


# --- what a file is


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(gzip.compress(LOG.encode(), mtime=0), mtime=0), "packed twice"),
        (gzip.compress(LOG.encode("utf-16"), mtime=0), "UTF-16"),
        (LOG.encode("utf-16-le"), "zero bytes"),
        (LOG.encode("utf-32"), "UTF-32"),
        (b"SQLite format 3\0 and more", "an SQLite database"),
        (b"7z\xbc\xaf\x27\x1c and more", "a 7z archive"),
        (b"ARROW1\0\0 and more", "Arrow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_of_its_encoding_is_named(
    tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        ingest(tmp_path, {"log.csv": content})


@pytest.mark.parametrize("name", ["log.tar.gz", "log.csv.gz"])
def test_a_tar_archive_is_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner.csv").write_text(LOG)
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.add(tmp_path / "inner.csv", "log.csv")
    with pytest.raises(DataError, match=rf"{name}: holds zero bytes: it is no text \(an archive"):
        ingest(tmp_path, {}, interactions=name)


def test_empty_parts_of_a_folder_are_left_out_and_a_null_folder_is_no_user(tmp_path: Path) -> None:
    files = {"log/user=7/p.csv": "item\ni1\ni2\n", "log/user=8/p.csv": ""}
    assert rows(ingest(tmp_path, dict(files), interactions="log")) == [("7", "i1"), ("7", "i2")]
    files["log/user=__HIVE_DEFAULT_PARTITION__/p.csv"] = "item\ni1\n"
    with pytest.raises(DataError, match=r"PARTITION__/p\.csv:2: no user"):
        ingest(tmp_path, dict(files), interactions="log")


@pytest.mark.parametrize("name", ["_delta_log", ".hoodie"])
def test_a_table_of_several_versions_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"a table of several versions .{name}"):
        ingest(tmp_path, {"log/p.csv": LOG, f"log/{name}/0.json": "{}"}, interactions="log")


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    settings = DatasetSettings.model_validate({"name": "x", "interactions": [path, tmp_path]})
    with pytest.raises(DataError, match=r"log\.csv: named twice in dataset\.interactions\.path"):
        ingest_dataset(settings, tmp_path / "cache")


# --- fields and objects


@pytest.mark.parametrize(
    "text",
    ['user\titem\n"u1"\ti1\n', 'user\titem\tt\nu1\ti1\t"a\nu9\ti9\tb"\n', 'user\titem\nu1\t"i1"\n'],
)
@pytest.mark.parametrize("end", ["", "u2\r\ti1\n"])  # the slow reader takes the latter
def test_a_quote_that_is_read_as_text_is_said(tmp_path: Path, text: str, end: str) -> None:
    more = end if text.count("\t") < 5 else ""
    made = ingest(tmp_path, {"log.tsv": text + more}, interactions="log.tsv")
    assert "log.tsv:2: a field begins with a quote" in warnings(made)
    assert 'format: csv with separator: "\\t"' in warnings(made)


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    text = "user,item,liked,vote,rating\nu1,i1,1,2,3\n"
    line = dataset_summary(ingest(tmp_path, {"log.csv": text}))[1]
    assert line.endswith("rating is there and not used (dataset.min_rating); not used: liked, vote")


def test_a_key_that_stands_twice_in_an_object_is_refused(tmp_path: Path) -> None:
    row = '{"user": "u1", "item": "i1", "user": "u2"}'
    with pytest.raises(DataError, match=r"log\.jsonl:1: not JSON .key 'user' stands twice"):
        ingest(tmp_path, {"log.jsonl": row + "\n"}, interactions="log.jsonl")
    with pytest.raises(DataError, match=r"broken at its first element .key 'user' stands twice"):
        ingest(tmp_path, {"log.json": f"[{row}]"}, interactions="log.json")


def test_ids_and_texts_within_objects_are_read_by_their_names(tmp_path: Path) -> None:
    log = '{"user": {"id": "u1"}, "item": "i1"}\n'
    with pytest.raises(DataError, match=r"user is an object \(its keys: user\.id\)"):
        ingest(tmp_path, {"log.jsonl": log}, interactions="log.jsonl")
    items = (
        '{"of": {"id": "i1", "title": "Lamp"}, "note": "x"}\n{"of": {"id": "i2"}, "note": "y"}\n'
    )
    table = {"path": "items.jsonl", "id": "of.id", "fields": ["of.title", "note"]}
    made = ingest(tmp_path, {"log.csv": LOG, "items.jsonl": items}, items=table)
    texts = pl.read_parquet(made / "items.parquet").rows()
    assert texts == [("i1", "Lamp", "x"), ("i2", None, "y")]
    assert "items.jsonl (by of.id)" in dataset_summary(made)[3]


@pytest.mark.parametrize(
    "ids", [["['a', 'b']", "['b']"], ["a|b|c", "b|a", "c|b"], ["[1 2]", "[2 1]"]]
)
def test_lists_of_items_in_one_field_are_said(tmp_path: Path, ids: list[str]) -> None:
    text = "user,item\n" + "".join(f'u{k},"{name}"\n' for k, name in enumerate(ids))
    assert "look like lists" in warnings(ingest(tmp_path, {"log.csv": text}))
    titles = "user,item\nu1,(500) Days (2009)\nu1,[REC]\nu2,a|b\nu2,c\n"
    assert "lists" not in warnings(ingest(tmp_path, {"log.csv": titles}))


# --- ids


@pytest.mark.parametrize(
    "id_", ['="007"', "'007", "“007”", "\u200b007", "007\u00a0", "\uff10\uff107"]
)
def test_ids_that_a_program_has_dressed_up_are_told(tmp_path: Path, id_: str) -> None:
    text = f'user,item\nu1,"{id_.replace(chr(34), chr(34) * 2)}"\nu1,i2\n'
    files = {"log.csv": text, "items.csv": "id,title\n007,Lamp\ni2,Chair\n"}
    made = ingest(tmp_path, dict(files), items="items.csv")
    assert rows(made)[0] == ("u1", id_)
    assert "1 item ids of the log are in the item file but for" in warnings(made)


def test_half_floats_too_large_to_be_exact_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    users = pa.array(np.array([1.0, 2050.0], np.float16))
    table = pa.table({"user": users, "item": ["a", "b"]})
    arrow_parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"log\.parquet:2: user is a float so large"):
        ingest(tmp_path, {}, interactions="log.parquet")


@pytest.mark.parametrize("nones", [("NA", "null"), ("?",), ("-999", "NaN"), ("[deleted]",)])
def test_ids_that_look_like_none_are_each_told(tmp_path: Path, nones: tuple[str, ...]) -> None:
    lines = [f"{user},i{k}" for user in nones for k in range(3)]
    made = ingest(tmp_path, {"log.csv": "\n".join(["user,item", *lines, "u1,i1", "u1,i2"])})
    for user in nones:
        assert f"user {user!r} stands on 3 rows, more than any other: if it means none" in (
            warnings(made)
        )
    assert len(rows(made)) == len(lines) + 2


def test_nan_of_a_float_column_is_none_where_empty_fields_are(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1.0, None, float("nan")], "item": ["a", "b", "c"]})
    frame.write_parquet(tmp_path / "log.parquet")
    made = ingest(tmp_path, {}, interactions="log.parquet", missing=[""])
    assert rows(made) == [("1", "a")]


def test_two_columns_that_may_be_the_id_are_asked_for(tmp_path: Path) -> None:
    files = {"log.csv": LOG, "items.csv": "id,item_id,title\n1,i1,Lamp\n2,i2,Chair\n"}
    with pytest.raises(DataError, match=r"both 'id' and 'item_id' may be .* dataset\.items\.id"):
        ingest(tmp_path, dict(files), items="items.csv")
    table = {"path": "items.csv", "id": "item_id", "fields": ["title"]}
    made = ingest(tmp_path, dict(files), items=table)
    assert "0 of them not in items.csv (by item_id)" in dataset_summary(made)[3]


@pytest.mark.parametrize("text", ["id,__file,t\ni1,x,y\n", "id,__line,t\ni1,x,y\n"])
def test_a_column_with_a_name_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="that name is reserved"):
        ingest(tmp_path, {"log.csv": LOG, "items.csv": text}, items="items.csv")


def test_texts_and_ids_of_an_item_file_that_look_wrong_are_said(tmp_path: Path) -> None:
    items = ",id,title\n0,i1,nan\n1,I1,Lamp\n2,i2,NULL\n"
    made = ingest(tmp_path, {"log.csv": LOG, "items.csv": items}, items="items.csv")
    assert "2 texts of the item file look like none, as title 'nan'" in warnings(made)
    assert "1 item ids of the item file differ from another by" in warnings(made)
    assert pl.read_parquet(made / "items.parquet").columns == ["id", "title"]  # no index


# --- times and events


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["1700000000", "0", "1700000009"], "times reach from 1970-01-01 00:00:00 to 2023"),
        (["1700000000", "-1", "1700000009"], r'set dataset.missing: \["0"\]'),
        (["2024-01-01", "1900-01-01", "2024-01-02"], "times reach from 1900-01-01"),
        (["1700000000"] * 3, "all rows have the same time, 2023-11-14 22:13:20"),
        (["1.7E+09", "1.70001E+09", "1.7E+09"], "times are rounded"),
        (["20240101", "20240102", "20240103"], 'read as plain numbers, .*time_format: "%Y%m%d"'),
        (["202401010900", "202401020900", "202401031000"], "read as milliseconds"),
    ],
)
def test_times_that_look_wrong_are_said(tmp_path: Path, times: list[str], said: str) -> None:
    lines = [f"u1,i{k},{time}" for k, time in enumerate(times)]
    made = ingest(tmp_path, {"log.csv": "\n".join(["user,item,time", *lines])})
    assert len(rows(made)) == 3
    assert re.search(said, warnings(made))


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_times_of_short_floats_are_said(tmp_path: Path, memory_mb: int) -> None:
    frame = pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": [1.7e9, 1.8e9]})
    frame.with_columns(pl.col("time").cast(pl.Float32)).write_parquet(tmp_path / "log.parquet")
    made = ingest(tmp_path, {}, interactions="log.parquet", memory_mb=memory_mb)
    assert "times are rounded" in warnings(made)


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_values_of_keep_that_no_row_has_are_said(tmp_path: Path, memory_mb: int) -> None:
    events = ["buy", "Buy", "view"]
    frame = pl.DataFrame({"user": ["u"] * 3, "item": ["a", "b", "c"], "event": events})
    frame.write_parquet(tmp_path / "log.parquet")
    keep = {"event": ["buy", "purchse"]}
    made = ingest(tmp_path, {}, interactions="log.parquet", keep=keep, memory_mb=memory_mb)
    assert "no row has 'purchse' as event: there are 'Buy', 'buy', 'view'" in warnings(made)
    assert "rows with 'Buy' as event are left out" in warnings(made)


def test_a_kept_value_among_thousands_of_others_is_not_called_absent(tmp_path: Path) -> None:
    rows = "".join(f"u{k % 9},i{k % 7},event{k}\n" for k in range(3000))
    made = ingest(
        tmp_path,
        {"log.csv": "user,item,event\n" + rows + "u0,i0,buy\nu1,i1,buy\n"},
        keep={"event": ["buy"]},
    )
    assert "dataset.keep" not in warnings(made)


def test_a_log_without_oddities_has_no_warning(tmp_path: Path) -> None:
    log = "user,item,time\nu1,i1,1700000000\nu1,i2,1700000100\nu2,i1,1700000200\n"
    items = "id,title\ni1,Lamp\ni2,Chair\n"
    made = ingest(tmp_path, {"log.csv": log, "items.csv": items}, items="items.csv")
    assert warnings(made) == ""


# --- several files


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.csv", "user,item,date\nu1,i9,2024-01-01\n"),
        ("a.jsonl", '{"user": "u1", "item": "i9", "when": 1700000000}\n'),
        ("a.tsv", "user\titem\nu1\ti9\n"),
    ],
)
def test_a_file_without_time_among_several_is_refused_in_any_layout(
    tmp_path: Path, one: str, other: str
) -> None:
    (tmp_path / one).write_text(other)
    (tmp_path / "log.csv").write_text("user,item,time\nu1,i1,1700000000\n")
    paths = [tmp_path / "log.csv", tmp_path / one]
    settings = DatasetSettings.model_validate({"name": "x", "interactions": paths})
    with pytest.raises(DataError, match=rf"{one}: no column of times, which the log's other files"):
        ingest_dataset(settings, tmp_path / "cache")


@pytest.mark.parametrize(
    ("texts", "fields", "said"),
    [
        (["id,t\ni1,a\n", "id,t\ni1,b\n"], "all", r"0\.csv:2 and .*1\.csv:2: item id 'i1' stands"),
        (["id,t\ni1,a\n", "id,s\ni1,b\n"], "all", r"0\.csv:2 and .*1\.csv:2: item id 'i1' stands"),
        (["id,t,size\ni1,a,S\ni1,a,M\n"], "all", r"0\.csv:2 and .*0\.csv:3: item id 'i1' stands"),
        (["id,t,size\ni1,a,S\ni1,a,M\n"], ["t"], None),
        (["id,t\ni1,a\n", "id,t\ni1,a\n"], "all", None),
    ],
)
def test_an_item_on_several_rows_is_one_where_its_texts_are_alike(
    tmp_path: Path, texts: list[str], fields: Any, said: str | None
) -> None:
    paths = [tmp_path / f"{k}.csv" for k in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    (tmp_path / "log.csv").write_text(LOG)
    made = {"interactions": tmp_path / "log.csv", "items": {"path": paths, "fields": fields}}
    settings = DatasetSettings.model_validate({"name": "x", **made})
    if said is None:
        summary = dataset_summary(ingest_dataset(settings, tmp_path / "cache"))
        assert "1 rows there are copies of another" in summary[3]
        return
    with pytest.raises(DataError, match=said):
        ingest_dataset(settings, tmp_path / "cache")
