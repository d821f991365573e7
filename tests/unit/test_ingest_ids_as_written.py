"""Ids are as written: none is merged, renamed or dropped unasked, and what looks wrong is said."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def ingest(tmp_path: Path, **settings: Any) -> Path:
    return ingest_dataset(
        DatasetSettings.model_validate({"name": "toy", **settings}), tmp_path / "cache"
    )


def users(made: Path) -> list[str]:
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    return frame["user"].to_list()


def said(made: Path, *words: str) -> bool:
    lines = [line for line in dataset_summary(made) if line.startswith("warning")]
    return any(all(word in line for word in words) for line in lines)


def log_of(tmp_path: Path, ids: list[str], name: str = "log.csv") -> Path:
    """Each id as a user, with an item of its own."""
    lines = "".join(f'"{user}",i{k}\n' for k, user in enumerate(ids))
    return write(tmp_path / name, "user,item\n" + lines)


@pytest.mark.parametrize(
    "ids",
    [
        ["007", "7", "07"],
        ["12.0", "12"],
        ["12.0", "x"],
        ["1.50", "1.5"],
        ["a", " a", "a "],
        ["AbC", "abc"],
        ["null", "None", "nan", "NA"],
        ["9007199254740993", "9007199254740992"],
        ["-0", "0"],
        ["é", "e\u0301"],
        ["1e3", "1000"],
    ],
)
def test_ids_of_a_csv_are_as_written(tmp_path: Path, ids: list[str]) -> None:
    assert users(ingest(tmp_path, interactions=log_of(tmp_path, ids))) == ids


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_ids_with_a_point_zero_are_judged_over_all_files_of_a_side(
    tmp_path: Path, memory_mb: int
) -> None:
    def parquet(name: str, ids: list[Any]) -> Path:
        items = [f"i{k}" for k in range(len(ids))]
        pl.DataFrame({"user": ids, "item": items}).write_parquet(tmp_path / name)
        return tmp_path / name

    floats, whole = parquet("a.parquet", ["12.0", "3.0"]), parquet("b.parquet", [12, 4])
    made = ingest(tmp_path, interactions=[floats, whole], memory_mb=memory_mb)
    assert sorted(users(made)) == ["12", "3", "4"]  # 12 with i0 stands twice
    assert said(made, "12.0 are read as 12")
    names = parquet("c.parquet", ["x", "5.0"])
    made = ingest(tmp_path, interactions=[floats, names], memory_mb=memory_mb)
    assert sorted(users(made)) == ["12.0", "3.0", "5.0", "x"]
    both = parquet("d.parquet", ["12", "12.0"])
    made = ingest(tmp_path, interactions=both, memory_mb=memory_mb)
    assert sorted(users(made)) == ["12", "12.0"]
    assert said(made, "'12' and '12.0'", "kept apart")
    made = ingest(tmp_path, interactions=floats, user_ids="text", memory_mb=memory_mb)
    assert sorted(users(made)) == ["12.0", "3.0"]


@pytest.mark.parametrize(
    ("written", "read"),
    [("1000000000000001.0", True), ("8999999999999999.0", True), ("9007199254740993.0", False)],
)
def test_a_point_is_taken_off_where_floats_are_exact(
    tmp_path: Path, written: str, read: bool
) -> None:
    pl.DataFrame({"user": [written, "3.0"], "item": ["a", "b"]}).write_parquet(
        tmp_path / "l.parquet"
    )
    made = ingest(tmp_path, interactions=tmp_path / "l.parquet")
    assert (written.removesuffix(".0") in users(made)) == read
    assert said(made, "spreadsheet has rounded") != read


SPELLINGS = [
    ["1.0", "1.00"],
    ["1.0", "01.0"],
    ["0.0", "-0.0"],
    ["7.00", "8.00"],
    ["5.0", "1234567890123456768.0"],
    ["3.0", "٣.0"],
]
"""Whole numbers with zeros behind the point, but not all as pandas writes them."""


@pytest.mark.parametrize("ids", SPELLINGS)
@pytest.mark.parametrize("memory_mb", [0, 1])
def test_spellings_of_a_number_are_kept_apart_in_the_log_and_in_both_files(
    tmp_path: Path, ids: list[str], memory_mb: int
) -> None:
    pl.DataFrame({"user": ids, "item": ids}).write_parquet(tmp_path / "log.parquet")
    table = write(tmp_path / "texts.csv", "id,title\n" + "".join(f"{id_},T{id_}\n" for id_ in ids))
    made = ingest(
        tmp_path,
        interactions=tmp_path / "log.parquet",
        items=table,
        users=table,
        memory_mb=memory_mb,
    )
    log = pl.read_parquet(made / "interactions.parquet").sort("row")
    assert log.select("user", "item").rows() == [(id_, id_) for id_ in ids]
    for side in ("items", "users"):
        texts = pl.read_parquet(made / f"{side}.parquet")
        assert texts.rows() == [(id_, f"T{id_}") for id_ in ids]
    assert not said(made, "are read as")


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize("side", ["user", "item"])
def test_ids_that_lose_their_point_are_shown_and_those_that_become_one_are_counted(
    tmp_path: Path, side: str, memory_mb: int
) -> None:
    for name, ids in (("a", ["12.0", "12.0", "3.0", "7.0"]), ("b", ["12", "3", "4"])):
        other = {"user": "item", "item": "user"}[side]
        frame = {side: ids, other: [f"{name}{k}" for k in range(len(ids))]}
        pl.DataFrame(frame).write_parquet(tmp_path / f"{name}.parquet")
    log = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    table = write(tmp_path / "texts.csv", "id,title\n3.0,T\n")
    made = ingest(tmp_path, interactions=log, memory_mb=memory_mb, **{f"{side}s": table})
    assert said(made, f"{side} ids written as 12.0 are read as 12, 3.0 as 3: all of a file")
    assert said(made, f"2 {side} ids stand with .0 in one file of the log and without in another")
    assert pl.read_parquet(made / f"{side}s.parquet").rows() == [("3", "T")]
    write(table, "id,title\n3.0,T\n3.00,U\n")
    made = ingest(tmp_path, interactions=log[:1], memory_mb=memory_mb, **{f"{side}s": table})
    assert pl.read_parquet(made / f"{side}s.parquet").rows() == [("3.0", "T"), ("3.00", "U")]
    assert not said(made, "are read as")


@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32])
def test_floats_too_large_to_be_exact_are_refused(tmp_path: Path, kind: Any) -> None:
    large = 2.0**53 if kind == pl.Float64 else 2.0**24
    frame = pl.DataFrame({"user": pl.Series([1.0, large], dtype=kind), "item": [1, 2]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet:2: user is a float so large"):
        ingest(tmp_path, interactions=tmp_path / "log.parquet")
    path = write(tmp_path / "log.jsonl", '{"user": 1e16, "item": 1}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:1: user is a float so large"):
        ingest(tmp_path, interactions=path)


@pytest.mark.parametrize(
    ("logged", "filed"),
    [("0100", "100"), ("b00x", "B00X"), (" 7", "7"), ("55.0", "55"), ("0099", "99.0")],
)
def test_a_log_and_an_item_file_that_differ_by_spelling_alone_are_told(
    tmp_path: Path, logged: str, filed: str
) -> None:
    log = write(tmp_path / "log.csv", f'user,item\nu1,x\nu1,"{logged}"\nu2,"{logged}"\n')
    table = write(tmp_path / "items.csv", f"id,title\nx,X\n{filed},T\n")
    made = ingest(tmp_path, interactions=log, items=table)
    assert said(made, "1 item ids", f"{logged!r} and {filed!r}")
    if ".0" in logged + filed:
        return  # alone in their files they would be pandas' way to write integers
    write(tmp_path / "items.csv", f"id,title\n{filed},T\n")
    with pytest.raises(DataError, match=f"no item id in common.*{logged!r} and {filed!r}"):
        ingest(tmp_path, interactions=write(log, f'user,item\nu1,"{logged}"\n'), items=table)


def test_ids_in_common_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\nu1,7\nu1,B\n")
    table = write(tmp_path / "items.csv", "id,title\n7,X\nB,T\n8,Y\n")
    lines = dataset_summary(ingest(tmp_path, interactions=log, items=table))
    assert not [line for line in lines if line.startswith("warning")]


@pytest.mark.parametrize(
    ("how", "ids", "read"),
    [
        ("integer", ["007", "7", "7.0", " +8"], ["7", "7", "7", "8"]),
        ("stripped", [" a", "a ", "A"], ["a", "a", "A"]),
        ("text", ["7.0", "8.0", "9.0"], ["7.0", "8.0", "9.0"]),
    ],
)
def test_ids_are_joined_where_it_is_asked_for(
    tmp_path: Path, how: str, ids: list[str], read: list[str]
) -> None:
    assert users(ingest(tmp_path, interactions=log_of(tmp_path, ids), user_ids=how)) == read


@pytest.mark.parametrize("wrong", ["x7", "7.5", "1e3"])
def test_what_is_no_integer_is_a_bad_row(tmp_path: Path, wrong: str) -> None:
    path = log_of(tmp_path, ["7", wrong])
    with pytest.raises(DataError, match=rf"log\.csv:3: user is no integer: '{wrong}'"):
        ingest(tmp_path, interactions=path, user_ids="integer")


@pytest.mark.parametrize("none", ["NA", "nan", "NULL", "\\N", "-", "(not set)", "guest"])
@pytest.mark.parametrize("memory_mb", [0, 1])
def test_an_id_that_looks_like_none_and_leads_is_told_and_dropped_only_if_asked(
    tmp_path: Path, none: str, memory_mb: int
) -> None:
    ids = [none, none, none, "u1", "u2", "u2"]
    frame = pl.DataFrame({"user": ids, "item": [f"i{k}" for k in range(6)]})
    frame.write_parquet(tmp_path / "log.parquet")
    log = tmp_path / "log.parquet"
    made = ingest(tmp_path, interactions=log, memory_mb=memory_mb)
    assert len(users(made)) == 6
    assert said(made, repr(none), "3 rows", "dataset.missing")
    made = ingest(tmp_path, interactions=log, missing=[none, ""], memory_mb=memory_mb)
    assert users(made) == ["u1", "u2", "u2"]
    assert not said(made, repr(none))
    assert any("3 by dataset.missing" in line for line in dataset_summary(made))


def test_a_user_of_that_name_who_does_not_lead_is_left_alone(tmp_path: Path) -> None:
    made = ingest(tmp_path, interactions=log_of(tmp_path, ["null", "u1", "u1"]))
    assert users(made) == ["null", "u1", "u1"]
    assert not said(made, "null")


@pytest.mark.parametrize("name", ["1.23457E+11", "9E+15", "4.5e+20", "1234567890123456768.0"])
def test_ids_that_a_spreadsheet_has_rounded_are_told(tmp_path: Path, name: str) -> None:
    made = ingest(tmp_path, interactions=log_of(tmp_path, [name, name, "u2"]))
    assert users(made) == [name, name, "u2"]
    assert said(made, "1 user ids", "spreadsheet has rounded", repr(name))
