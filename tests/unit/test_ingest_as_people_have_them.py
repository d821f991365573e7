"""Files as people have them: what is read is what was written, or one sentence says why not."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset
from recmind_dist.ingest.dataset import SCHEMA
from recmind_dist.ingest.summary import REASONS
from recmind_dist.storage import read_manifest

PAIRS = [("u1", "i1"), ("u1", "i2"), ("u2", "i1")]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ingest(tmp_path: Path, **settings: Any) -> Path:
    made = ingest_dataset(
        DatasetSettings.model_validate({"name": "toy", **settings}), tmp_path / "cache"
    )
    counts = counts_of(made)
    assert counts["rows_in"] == counts["rows_kept"] + sum(counts[name] for name in REASONS)
    return made


def counts_of(made: Path) -> dict[str, int]:
    counts: dict[str, int] = read_manifest(made, "dataset", SCHEMA)["counts"]
    return counts


def rows(made: Path, *columns: str) -> list[tuple[Any, ...]]:
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    return frame.select(columns or ("user", "item")).rows()


def texts(made: Path) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in pl.read_parquet(made / "items.parquet").rows()}


# --- layouts


@pytest.mark.parametrize(
    "content",
    [
        "u1 i1 3\nu1 i2 4\nu2 i1 5\n",
        "7 1 1.0 88\n7 2 0.5 99\n8 1 1.0 77\n",
        "a\tx\t1\nb\tx\t1\na\ty\t1\n",
    ],
)
def test_triples_in_a_file_of_lightgcns_name_are_refused_with_both_readings(
    tmp_path: Path, content: str
) -> None:
    path = write(tmp_path / "train.txt", content)
    with pytest.raises(DataError, match=r"train\.txt:[23]: .*format: csv.*format: lightgcn"):
        ingest(tmp_path, interactions=path)
    kept = counts_of(ingest(tmp_path, interactions={"path": path, "format": "lightgcn"}))
    assert kept["rows_in"] == sum(len(line.split()) - 1 for line in content.splitlines())


@pytest.mark.parametrize("content", ["1:2 3\n", "u1,i1\nu2,i2\n", "u1 i1:5 i2:4\n"])
def test_words_that_hold_several_values_are_no_lightgcn_ids(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"train\.txt:1: .* is no id of LightGCN's layout"):
        ingest(tmp_path, interactions=write(tmp_path / "train.txt", content))


def test_a_real_lightgcn_file_and_triples_by_columns_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "u1 i1 i2\nu2 i1 i3\n")
    assert len(rows(ingest(tmp_path, interactions=path))) == 4
    triples = write(tmp_path / "b" / "train.txt", "u1 i1 3\nu1 i2 4\nu2 i1 5\n")
    how = {"format": "csv", "separator": " ", "has_header": False}
    columns = {"user": 0, "item": 1, "rating": 2}
    made = ingest(tmp_path, interactions={"path": triples, **how, "columns": columns}, min_rating=4)
    assert rows(made) == PAIRS[1:]


@pytest.mark.parametrize(
    ("content", "mark"),
    [("user\titem\nu1\ti1\n", r"\\t"), ("user;item\nu1;i1\n", ";"), ("user::item\nu1::i1\n", "::")],
)
def test_a_csv_with_another_separator_names_it(tmp_path: Path, content: str, mark: str) -> None:
    with pytest.raises(DataError, match=rf'log\.csv:1: .*separator: "{mark}"'):
        ingest(tmp_path, interactions=write(tmp_path / "log.csv", content))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{'user': 'u1', 'item': 'i1'}\n", r"json:1: a Python dict, not JSON.*format: python"),
        ("{u'user': 1, u'item': None}\n", r"json:1: a Python dict"),
        ('["user", "item"]\n[1, 2]\n', r"json:1: a list, not an object"),
        ('{\n  "user": 1\n}\n', r"json:1: JSON over several lines"),
    ],
)
def test_json_of_another_kind_is_refused_by_its_kind(
    tmp_path: Path, content: str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        ingest(tmp_path, interactions=write(tmp_path / "log.json", content))


def test_python_dicts_are_read_where_the_format_says_so(tmp_path: Path) -> None:
    lines = [repr({"user": user, "item": item, "ok": True, "n": None}) for user, item in PAIRS]
    path = write(tmp_path / "log.json", "\n".join([*lines, "__import__('os').getcwd()"]) + "\n")
    made = ingest(tmp_path, interactions={"path": path, "format": "python"}, max_bad_rows=1)
    assert rows(made) == PAIRS


@pytest.mark.parametrize(
    "again", ["user,item,time", "user,item,time\r", "User,Item,Time", "\ufeffuser,item,time"]
)
def test_a_header_in_the_middle_is_no_row(tmp_path: Path, again: str) -> None:
    text = f"user,item,time\nu1,i1,1\n{again}\nu1,i2,2\n"
    path = write(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=r"log\.csv:3: the header again"):
        ingest(tmp_path, interactions=path)
    assert counts_of(ingest(tmp_path, interactions=path, max_bad_rows=1))["rows_kept"] == 2


@pytest.mark.parametrize("head", ["user,item", "user,item,time", "item,user"])
def test_a_header_in_another_order_is_refused_whatever_may_be_set_aside(
    tmp_path: Path, head: str
) -> None:
    names = head.split(",")
    body = ",".join(f"{name[0]}1" if name != "time" else "5" for name in names)
    path = write(tmp_path / "log.csv", f"{head}\n{body}\n{','.join(reversed(names))}\n{body}\n")
    with pytest.raises(DataError, match=r"log\.csv:3: the header again, in another order"):
        ingest(tmp_path, interactions=path, max_bad_rows=9)


def test_a_byte_order_mark_within_a_file_is_no_part_of_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item\nu1,i1\n\ufeffu1,i2\n")
    with pytest.raises(DataError, match=r"log\.csv:3: begins with a byte order mark"):
        ingest(tmp_path, interactions=path)


@pytest.mark.parametrize("names", ["id,title", "id", "title,id"])
def test_a_header_in_the_middle_of_an_item_file_is_no_item(tmp_path: Path, names: str) -> None:
    row = {"id": "i1", "title": "Lamp"}
    rows = [",".join(row[name] for name in names.split(",")).replace("1", n) for n in "12"]
    table = write(tmp_path / "items.csv", "\n".join([names, rows[0], names, rows[1]]))
    log = write(tmp_path / "log.csv", "user,item\nu1,i1\nu1,i2\n")
    with pytest.raises(DataError, match=r"items\.csv:3: the header again"):
        ingest(tmp_path, interactions=log, items=table)
    made = ingest(tmp_path, interactions=log, items=table, max_bad_rows=1)
    assert texts(made).keys() == {"i1", "i2"}
    aside = "1 rows there set aside in quarantine.jsonl (" + f"{table}:3: the header again)"
    assert aside in dataset_summary(made)[3]


def test_a_first_row_taken_for_a_header_and_a_header_taken_for_a_row_are_found(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "log.csv", "u1,i1\nu1,i2\n")
    by_number = {"path": path, "columns": {"user": 0, "item": 1}}
    with pytest.raises(
        DataError, match=r"log\.csv:1: 'u1' stands in the header, and looks like a value"
    ):
        ingest(tmp_path, interactions=by_number)
    path = write(tmp_path / "head.csv", "user_id,item_id\nu1,i2\n")
    with pytest.raises(DataError, match=r"head\.csv:1: looks like a header"):
        ingest(tmp_path, interactions={**by_number, "path": path, "has_header": False})


# --- encodings, separators, quotes, packed files


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "shift_jis", "utf-8-sig"])
def test_text_of_any_encoding_is_what_was_written(tmp_path: Path, encoding: str) -> None:
    title = "テスト" if encoding == "shift_jis" else "Café Zoë; ¿Qué?"
    table = write(tmp_path / "items.csv", f'id,title\ni1,"{title}"\n'.encode(encoding))
    log = write(tmp_path / "log.csv", f"user,item\n{title[:3]},i1\n".encode(encoding))
    made = ingest(
        tmp_path,
        interactions={"path": log, "encoding": encoding},
        items={"path": table, "encoding": encoding},
    )
    assert rows(made) == [(title[:3], "i1")]
    assert texts(made) == {"i1": (title,)}


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "train.txt"])
def test_bytes_of_another_encoding_name_line_and_remedy(tmp_path: Path, name: str) -> None:
    mark = {"log.csv": ",", "log.tsv": "\t", "train.txt": " "}[name]
    head = [] if name == "train.txt" else [mark.join(["user", "item"])]
    lines = [*head, mark.join(["u1", "i1"]), mark.join(["Zoë", "i1"])]
    path = write(tmp_path / name, "\n".join(lines).encode("latin-1"))
    with pytest.raises(DataError, match=rf":{len(lines)}: not UTF-8 at byte 2.*set encoding"):
        ingest(tmp_path, interactions=path)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("<!DOCTYPE html>\n<html>", "a web page"),
        ("<html lang='en'>", "a web page"),
    ],
)
def test_what_stands_in_place_of_a_file_is_named(tmp_path: Path, start: str, what: str) -> None:
    path = write(tmp_path / "log.csv", start + "\nx\n")
    with pytest.raises(DataError, match=f"is {what}"):
        ingest(tmp_path, interactions=path)


def test_a_utf_16_file_and_other_kinds_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item\nu1,i1\n".encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16, not UTF-8: set encoding: utf-16"):
        ingest(tmp_path, interactions=path)
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "parquet.csv")
    with pytest.raises(DataError, match=r"parquet\.csv: is Parquet, not text"):
        ingest(tmp_path, interactions=tmp_path / "parquet.csv")
    zipped = write(tmp_path / "zip.csv", b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match="is a zip archive"):
        ingest(tmp_path, interactions=zipped)


PACKERS: dict[str, Any] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_of_every_layout_are_read(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    log = "user,item,time\n" + "".join(f"{u},{i},{k}\n" for k, (u, i) in enumerate(PAIRS))
    items = "".join(json.dumps({"id": f"i{n}", "title": f"T{n}"}) + "\n" for n in (1, 2))
    made = ingest(
        tmp_path,
        interactions=write(tmp_path / f"log.csv{suffix}", pack(log.encode())),
        items=write(tmp_path / f"items.jsonl{suffix}", pack(items.encode())),
    )
    assert rows(made) == PAIRS
    assert texts(made)["i2"] == ("T2",)


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_that_is_damaged_or_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    lines = "".join(f"u{n},i{n * n}\n" for n in range(20_000))
    whole = PACKERS[suffix](b"user,item\n" + lines.encode())
    half = len(whole) // 2
    spoilt = [whole[:half], whole[:half] + b"\xff" * 64 + whole[half + 64 :]]
    for data in spoilt[: 1 if suffix == ".zst" else 2]:  # these zstd frames have no checksum
        path = write(tmp_path / f"log.csv{suffix}", data)
        with pytest.raises(DataError, match="damaged or cut off"):
            ingest(tmp_path, interactions=path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmind_dist.ingest.sources.FREE_GROWTH", 1 << 20)
    path = write(tmp_path / "log.csv.bz2", bz2.compress(b"user,item\n" + b"u,i\n" * (4 << 20)))
    with pytest.raises(DataError, match="grows to more than 400 times"):
        ingest(tmp_path, interactions=path)


@pytest.mark.parametrize("separator", ["::", "|", " ", ";;", " | "])
def test_separators_of_several_characters(tmp_path: Path, separator: str) -> None:
    lines = [separator.join([*pair, "3"]) for pair in PAIRS]
    how = {"format": "csv", "separator": separator, "has_header": False}
    path = write(tmp_path / "ratings.dat", "\n".join(lines))
    table = write(tmp_path / "m.dat", separator.join(["i1", '"A"_(1995)', "x"]) + "\n")
    made = ingest(
        tmp_path,
        interactions={"path": path, **how, "columns": {"user": 0, "item": 1, "time": 2}},
        items={"path": table, **how, "format": "tsv", "id": 0, "fields": [1]},
    )
    assert rows(made) == PAIRS
    assert texts(made) == {"i1": ('"A"_(1995)',)}


def test_an_escaped_quote_names_the_setting_that_reads_it(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu1,i1\n")
    table = write(tmp_path / "items.csv", 'id,title\ni1,"A \\"red\\" lamp"\n')
    with pytest.raises(DataError, match=r"items\.csv:2: .* set dataset\.items\.escape"):
        ingest(tmp_path, interactions=log, items=table)


def test_quotes_escaped_by_a_backslash_and_entities(tmp_path: Path) -> None:
    table = write(
        tmp_path / "items.csv",
        'id;title\n"i1";"A \\"B\\" &amp; C; D"\n"i2";"&quot;x&#39;"\n"i3";"AT&T; ok"\n',
    )
    log = write(tmp_path / "log.csv", "user,item\nu,i1\nu,i2\n")
    items = {"path": table, "separator": ";", "escape": "\\"}
    found = texts(ingest(tmp_path, interactions=log, items=items))
    assert found == {"i1": ('A "B" & C; D',), "i2": ("\"x'",), "i3": ("AT&T; ok",)}


@pytest.mark.parametrize(
    "text", ["a\nu9,i9,5,poor", "line\n\nu9,i9,5,x\n", 'say ""hi""\nu9,i9,1,z', "a\r\nu9,i9,1,b"]
)
def test_the_text_of_a_field_is_no_row(tmp_path: Path, text: str) -> None:
    content = f'user,item,time,text\nu1,i1,1,ok\nu1,i2,2,"{text}"\nu2,i1,3,"end"\n'
    made = ingest(tmp_path, interactions=write(tmp_path / "log.csv", content), max_bad_rows=5)
    assert rows(made) == PAIRS
    assert counts_of(made)["rows_in"] == 3


@pytest.mark.parametrize("more", ["", "\nu3,i3,7,\r"])  # the slow reader takes the latter
def test_a_name_in_the_header_and_a_first_row_may_hold_line_breaks(
    tmp_path: Path, more: str
) -> None:
    rows_ = f'u1,i1,3,"a\nu8,i8,4,b"\nu1,i2,5,c\nu2,i1,6,d{more}'
    named = write(tmp_path / "log.csv", f'user,item,time,"what\nthey said"\n{rows_}\n')
    extra = [("u3", "i3")] if more else []
    assert rows(ingest(tmp_path, interactions=named)) == [*PAIRS, *extra]
    bare = write(tmp_path / "bare.csv", f'u9,"i\n9",1,x\n{rows_}\n')
    how = {"path": bare, "has_header": False, "columns": {"user": 0, "item": 1, "time": 2}}
    assert rows(ingest(tmp_path, interactions=how)) == [("u9", "i\n9"), *PAIRS, *extra]
    write(named, f'user,item,time,"what\n{rows_}\n')
    with pytest.raises(DataError, match=r"log\.csv:1: the header cannot be read"):
        ingest(tmp_path, interactions=named)


# --- folders, patterns, lists


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_folder_and_a_pattern_are_files_in_order(tmp_path: Path, memory_mb: int) -> None:
    for k, year in enumerate((2020, 2021)):
        folder = tmp_path / "log.parquet" / f"year={year}"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"user": ["u1", "u2"], "item": [f"i{k}", f"j{k}"]})
        frame.write_parquet(folder / "part-0.snappy.parquet")
        write(folder / ".part-0.crc", "x")
    write(tmp_path / "log.parquet" / "_SUCCESS", "")
    folder = tmp_path / "log.parquet"
    expected = [("u1", "i0"), ("u2", "j0"), ("u1", "i1"), ("u2", "j1")]
    for path in (
        folder,
        folder / "*" / "part-*.parquet",
        [folder / "year=2020", folder / "year=2021"],
    ):
        made = ingest(tmp_path, interactions={"path": path}, memory_mb=memory_mb)
        assert rows(made) == expected
    made = ingest(
        tmp_path,
        interactions={"path": folder, "columns": {"time": "year"}},
        keep={"year": [2021]},
        memory_mb=memory_mb,
    )
    assert rows(made, "user", "item", "time") == [("u1", "i1", 2021), ("u2", "j1", 2021)]
    with pytest.raises(DataError, match=r"no file matches the pattern"):
        ingest(tmp_path, interactions={"path": folder / "*.csv"})


def test_items_may_be_several_files_of_a_folder(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu,a\nu,b\n")
    write(tmp_path / "items" / "1.csv", "id,title\na,A\n")
    write(tmp_path / "items" / "2.csv.gz", gzip.compress(b"id,title,more\nb,B,m\n"))
    found = texts(ingest(tmp_path, interactions=log, items=tmp_path / "items"))
    assert found == {"a": ("A", None), "b": ("B", "m")}


@pytest.mark.parametrize("fields", ["all", ["title", "category"]])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_folder_names_are_columns_of_items(tmp_path: Path, suffix: str, fields: Any) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu,a\nu,b\n")
    for name, item in (("Kids", "a"), ("Home%20decor", "b")):
        row = f'{{"id": "{item}", "title": "T {item}"}}' if suffix == ".jsonl" else ""
        row = row or f"id,title\n{item},T {item}"
        write(tmp_path / "items" / f"category={name}" / f"part{suffix}", row + "\n")
    items = {"path": tmp_path / "items", "fields": fields}
    found = texts(ingest(tmp_path, interactions=log, items=items))
    assert found == {"a": ("T a", "Kids"), "b": ("T b", "Home decor")}


def test_a_folder_name_that_contradicts_an_object_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu,a\n")
    file = tmp_path / "items" / "category=Kids" / "part.jsonl"
    write(file, '{"id": "a", "title": "T", "category": "Kids"}\n')
    assert texts(ingest(tmp_path, interactions=log, items=file)) == {"a": ("T", "Kids")}
    write(file, '{"id": "a", "title": "T", "category": "Music"}\n')
    with pytest.raises(DataError, match=r"part.jsonl:1: category is 'Music', while the folder"):
        ingest(tmp_path, interactions=log, items=file)
    write(file, '{"id": "a", "title": "T", "category": ["Kids", "Music"]}\n')
    assert texts(ingest(tmp_path, interactions=log, items=file)) == {"a": ("T", "Kids, Music")}


def test_a_folder_name_with_a_sign_and_a_bad_row_of_objects(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu,a\nu,b\n")
    file = tmp_path / "items" / "kind=Tom%20%26%20J" / "part.jsonl"
    write(file, '{"id": "a", "kind": "Tom &amp; J"}\n{"id": "b", "title": "B"}\n')
    made = ingest(tmp_path, interactions=log, items=file)
    assert texts(made) == {"a": ("Tom & J", None), "b": (None, "B")}
    write(file, '{"id": "a", "title": "A"}\n{"title": "B", "kind": "Tom & J"}\n')
    with pytest.raises(DataError, match=r"part.jsonl:2: no item id"):
        ingest(tmp_path, interactions=log, items=file)


def test_structs_and_lists_of_parquet_are_texts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a"],
            "tags": [["x", "y"]],
            "brand": [{"name": "N", "year": 1999, "more": {"k": None}}],
            "offers": [[{"price": 2}, {"price": 3}]],
        }
    )
    arrow_parquet.write_table(table, tmp_path / "items.parquet")
    log = write(tmp_path / "log.csv", "user,item\nu,a\n")
    found = texts(ingest(tmp_path, interactions=log, items=tmp_path / "items.parquet"))
    assert found == {"a": ("x, y", "name: N, year: 1999", "price: 2, price: 3")}


# --- rows that count, repeats


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({"event": ["buy"]}, 2),
        ({"event": ["buy", "cart"]}, 3),
        ({"ok": [True]}, 3),
        ({"n": [1]}, 2),
        ({"event": ["buy"], "ok": [False]}, 1),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "log.parquet streamed"])
def test_keep_chooses_rows_by_value(
    tmp_path: Path, keep: dict[str, list[Any]], kept: int, name: str
) -> None:
    frame = pl.DataFrame(
        {
            "user": ["a", "a", "b", "b"],
            "item": ["1", "2", "1", "2"],
            "event": ["view", "buy", "cart", "buy"],
            "ok": [True, True, True, False],
            "n": [1.0, 2.0, 1.0, 3.0],
        }
    )
    path = tmp_path / name.split()[0]
    writer = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    writer[path.suffix[1:]](path)
    made = ingest(tmp_path, interactions=path, keep=keep, memory_mb=int("streamed" in name))
    counts = counts_of(made)
    assert (counts["rows_kept"], counts["filtered_by_keep"]) == (kept, 4 - kept)


@pytest.mark.parametrize("name", ["event", "actionType", "order_status", "clicked", "quantity"])
def test_a_column_that_says_what_a_row_is_and_is_not_used_is_said(
    tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "log.csv", f"user,item,event_time,transaction_id,{name}\nu,i,1,2,x\n")
    line = dataset_summary(ingest(tmp_path, interactions=path))[1]
    assert f"{name} is there and not used: every row counts (dataset.keep)" in line
    kept = ingest(tmp_path, interactions=path, keep={name: ["x"]})
    assert "there and not used" not in dataset_summary(kept)[1]


def test_values_that_nobody_has_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,event\nu,i,view\n")
    with pytest.raises(DataError, match=r"1 by dataset\.keep \(.*log\.csv:2: event is 'view'\)"):
        ingest(tmp_path, interactions=path, keep={"event": ["buy"]})
    with pytest.raises(DataError, match=r"set dataset\.keep to one of the columns"):
        ingest(tmp_path, interactions=path, keep={"evnt": ["buy"]})


@pytest.mark.parametrize("words", [("true", "false"), ("True", "False"), ("1", "0")])
def test_booleans_are_ratings(tmp_path: Path, words: tuple[str, str]) -> None:
    text = f"user,item,rating\nu1,i1,{words[0]}\nu1,i2,{words[1]}\n"
    made = ingest(tmp_path, interactions=write(tmp_path / "log.csv", text), min_rating=1)
    assert rows(made) == PAIRS[:1]


def test_copies_of_an_item_row_are_one_and_others_need_a_rule(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu,a\nu,b\nu,c\n")
    table = write(tmp_path / "items.csv", "id,t\na,1\nb,2\na,1\nb,3\nc,4\nc,5\n")
    with pytest.raises(
        DataError, match=r"items\.csv:3 and .*items\.csv:5: item id 'b'.* 1 other ids.*repeats"
    ):
        ingest(tmp_path, interactions=log, items=table)
    for rule, kept in (("first", "2"), ("last", "3")):
        made = ingest(tmp_path, interactions=log, items={"path": table, "repeats": rule})
        assert texts(made)["b"] == (kept,)
        assert any("1 rows there are copies" in line for line in dataset_summary(made))
