"""Columns of folders' names, dates with and without an offset, and weights are not silent."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.errors import DataError
from tests.ingested import ingest, warnings


def written(path: Path, rows: dict[str, list[Any]]) -> None:
    """A file of the layout that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows)
    write = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    write[path.suffix[1:]](path)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize(
    ("folder", "values"),
    [("day=1", [1, 2]), ("user=u7", ["u7", "u8"]), ("time=2020", ["2020", "20201"])],
)
def test_a_column_whose_folder_says_otherwise_is_refused(
    tmp_path: Path, suffix: str, folder: str, values: list[Any]
) -> None:
    name, _, _ = folder.partition("=")
    rows = {"user": ["u1", "u2"], "item": ["i1", "i2"], name: values}
    written(tmp_path / "log" / folder / f"p.{suffix}", rows)
    keep = {"day": [1.0]} if name == "day" else {}
    line = 3 if suffix == "csv" else 2
    said = rf"p\.{suffix}:{line}: {name} is '{values[1]}', while the folder is called {folder}:"
    with pytest.raises(DataError, match=said):
        ingest(tmp_path, {}, interactions="log", keep=keep)


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize(
    ("folder", "values", "refused"),
    [
        ("time=2020-01-01", ["2020-01-01 10:00", "2020-01-01T11:00"], False),
        ("time=0005", ["5", "5.0"], False),
        ("year=2020", ["1999", "1998"], False),  # nothing reads it
        ("time=2020-01-01", ["2020-01-01 10:00", "2020-01-02 11:00"], True),
        ("user=__HIVE_DEFAULT_PARTITION__", ["u1", "u2"], True),
    ],
)
def test_a_column_whose_folder_says_the_same_is_read(
    tmp_path: Path, folder: str, values: list[str], refused: bool, memory_mb: int
) -> None:
    rows = {"user": ["u1", "u2"], "item": ["i1", "i2"], folder.partition("=")[0]: values}
    written(tmp_path / "log" / folder / "p.parquet", rows)
    if refused:
        with pytest.raises(DataError, match="while the folder is called"):
            ingest(tmp_path, {}, interactions="log", memory_mb=memory_mb)
        return
    made = ingest(tmp_path, {}, interactions="log", memory_mb=memory_mb)
    assert pl.read_parquet(made / "interactions.parquet").height == 2


@pytest.mark.parametrize(
    ("times", "is_said"),
    [
        (["2024-01-01T10:00:00+02:00", "2024-01-01 11:00:00"], True),
        (["2024-01-01 11:00", "2024-01-02T10:00Z", "2024-01-03 11:00"], True),
        (["Fri, 25 Aug 2017 13:55:02 -0700", "Fri, 25 Aug 2017 13:55:02"], True),
        (["Fri Aug 25 13:55:02 2017", "Fri Aug 25 13:55:02 UTC 2017"], True),
        (["2024-01-01 10:00:00.250 UTC", "2024-01-01"], True),
        (["2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00.5Z"], False),
        (["2024-01-01", "2024-01-02 11:00"], False),
        (["2024-01-01", "2024-01-02"], False),
    ],
)
def test_dates_with_an_offset_among_others_are_said(
    tmp_path: Path, times: list[str], is_said: bool
) -> None:
    lines = [f'u1,i{k},"{time}"' for k, time in enumerate(times)]
    made = ingest(tmp_path, {"log.csv": "\n".join(["user,item,time", *lines])})
    assert ("which are read as UTC: if these are local times" in warnings(made)) is is_said
    assert not is_said or re.search(
        r"log\.csv:[23]\) and without \(.*log\.csv:[23]\)", warnings(made)
    )


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_files_of_which_one_has_offsets_are_said(tmp_path: Path, memory_mb: int) -> None:
    times = pl.Series("time", [1_700_000_000]).cast(pl.Int64) * 1000
    for name, kind in (("a", pl.Datetime("ms")), ("b", pl.Datetime("ms", "Europe/Paris"))):
        frame = pl.DataFrame({"user": ["u"], "item": [name], "time": times.cast(kind)})
        frame.write_parquet(tmp_path / f"{name}.parquet")
    made = ingest(tmp_path, {}, interactions="*.parquet", memory_mb=memory_mb)
    assert re.search(r"offset \(.*b\.parquet:1\) and without \(.*a\.parquet:1\)", warnings(made))


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        (["2", "2", "2"], "number", "weighs 2, so that they change nothing"),
        (["7.5", "7.5", "7.5"], "log", "weighs 2.14007, so"),
        (["view", "buy", "view"], {"view": 3, "buy": 3}, "weighs 3, so"),
        (["1", "1", "2"], "number", None),
    ],
)
def test_weights_that_change_nothing_are_said(
    tmp_path: Path, column: list[str], values: Any, said: str | None
) -> None:
    text = "user,item,w\n" + "".join(f"u{k},i{k},{w}\n" for k, w in enumerate(column))
    weights = {"column": "w", "values": values}
    lines = warnings(ingest(tmp_path, {"log.csv": text}, weights=weights))
    assert said in lines if said else "dataset.weights" not in lines


@pytest.mark.parametrize("column", [["0", "0", "0"], ["", "", ""], ["-1", "nan", "1e308"]])
@pytest.mark.parametrize("max_bad_rows", [0, 9])
def test_weights_that_are_all_none_are_refused(
    tmp_path: Path, column: list[str], max_bad_rows: int
) -> None:
    text = "user,item,w\n" + "".join(f"u{k},i{k},{w}\n" for k, w in enumerate(column))
    settings = {"weights": {"column": "w"}, "max_bad_rows": max_bad_rows}
    with pytest.raises(DataError, match=r"log\.csv:2: no number above 0"):
        ingest(tmp_path, {"log.csv": text}, **settings)
