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


@pytest.mark.parametrize("name", ["1.23457E+11", "9E+15", "4.5e+20"])
def test_ids_that_a_spreadsheet_has_rounded_are_told(tmp_path: Path, name: str) -> None:
    made = ingest(tmp_path, interactions=log_of(tmp_path, [name, name, "u2"]))
    assert users(made) == [name, name, "u2"]
    assert said(made, "1 user ids", "spreadsheet has rounded", repr(name))
