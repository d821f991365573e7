"""Times: instants, units told apart, what is no time named by line; a log without them says so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset

NOON = 1711843200  # 2024-03-31 00:00:00 UTC


def ingest(tmp_path: Path, **settings: Any) -> Path:
    return ingest_dataset(
        DatasetSettings.model_validate({"name": "toy", **settings}), tmp_path / "cache"
    )


def csv_of(path: Path, times: list[str], name: str = "time") -> Path:
    rows = "".join(f'u,{path.stem}{k},"{time}"\n' for k, time in enumerate(times))
    path.write_text(f"user,item,{name}\n{rows}")
    return path


def times_of(made: Path) -> list[float]:
    return pl.read_parquet(made / "interactions.parquet").sort("row")["time"].to_list()


def columns_line(made: Path) -> str:
    [line] = [line for line in dataset_summary(made) if line.startswith("columns")]
    return line


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-31T01:30:00+01:00",
        "2024-03-31 00:30:00 UTC",
        "2024-03-31 00:30",
        "2024-03-31T00:30Z",
        "2024/03/31 00:30:00",
        "2024-03-30T17:30:00-07:00",
        "2024-03-31 06:00:00+0530",
        "2024-03-31 00:30:00.000000+00",
        "Sun, 31 Mar 2024 00:30:00 GMT",
        "31 Mar 2024 02:30:00 +0200",
        "Sat Mar 30 17:30:00 -0700 2024",
        "Sun Mar 31 2024 01:30:00 GMT+0100 (Central European Standard Time)",
    ],
)
def test_dates_are_instants(tmp_path: Path, text: str) -> None:
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", [text]))
    assert times_of(made) == [NOON + 1800]
    assert "seconds, 2024-03-31 00:30:00 to 2024-03-31 00:30:00" in columns_line(made)


def test_order_is_by_instant_and_fractions_are_kept(tmp_path: Path) -> None:
    texts = ["2024-03-31T01:30:00+01:00", "2024-03-31T03:15:00.5+02:00", "2024-03-31T00:45:00Z"]
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", texts))
    assert times_of(made) == [NOON + 1800, NOON + 4500.5, NOON + 2700]


@pytest.mark.parametrize(
    ("texts", "line", "reason"),
    [
        (["2024-03-31", "2024-04-01", "1711843200"], 4, "is a number among dates"),
        (["1711843200", "2024-04-01", "1711843201"], 3, "is a date among numbers"),
        (["2024-03-31", "2024-02-30"], 3, "not a time: '2024-02-30'"),
        (["2024-03-31", "2024-03-31 25:00"], 3, "not a time"),
        (["5", "soon"], 3, "not a time: 'soon'"),
        (["5", "inf"], 3, "time is not a finite number"),
        (["5", ""], 3, "no time"),
    ],
)
def test_what_is_no_time_is_named_by_its_line(
    tmp_path: Path, texts: list[str], line: int, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"log\.csv:{line}: .*{reason}"):
        ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", texts))


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("12/1/2010 8:26", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"),
        ("01-12-2010", "%m-%d-%Y", "%d-%m-%Y"),
        ("1.12.10 08:26:30", "%m.%d.%y %H:%M:%S", "%d.%m.%y %H:%M:%S"),
    ],
)
def test_a_date_of_two_readings_is_refused_with_both_and_read_by_either(
    tmp_path: Path, text: str, first: str, second: str
) -> None:
    path = csv_of(tmp_path / "log.csv", [text])
    with pytest.raises(DataError, match=f'"{first}" .month first. or "{second}" .day first.'):
        ingest(tmp_path, interactions=path)
    for form, month, day in ((first, 12, 1), (second, 1, 12)):
        if text.startswith(("01", "1.")):
            month, day = day, month
        made = ingest(tmp_path, interactions={"path": path, "time_format": form})
        moment = datetime.fromtimestamp(times_of(made)[0], UTC)
        assert (moment.year, moment.month, moment.day) == (2010, month, day)


@pytest.mark.parametrize("text", ["3 Nov at noon", "2024-W13-7", "1 Muharram 1446", "20240301T10"])
def test_a_text_in_no_known_form_names_those_and_the_way_to_give_another(
    tmp_path: Path, text: str
) -> None:
    path = csv_of(tmp_path / "log.csv", [text])
    with pytest.raises(DataError) as refused:
        ingest(tmp_path, interactions=path)
    said = str(refused.value)
    assert said.startswith(f"{path}:2: not a time: '{text}': ")
    for known in ("known are numbers, 2024-03-31,", "Sun, 31 Mar 2024 01:30:00 GMT; give another"):
        assert known in said
    assert 'dataset.interactions.time_format: "%d %b %Y"' in said


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_log_of_which_every_row_is_set_aside_says_how_many_and_why(
    tmp_path: Path, memory_mb: int
) -> None:
    path = parquet_of(tmp_path / "log.parquet", ["12/1/2010 8:26"] * 8)
    with pytest.raises(DataError) as refused:
        ingest(tmp_path, interactions=path, max_bad_rows=8, memory_mb=memory_mb)
    assert str(refused.value) == (
        f"{path}: no interaction is left of 8 rows: 8 set aside in quarantine.jsonl ({path}:1: not "
        "a time: '12/1/2010 8:26'): set dataset.interactions.time_format to \"%m/%d/%Y %H:%M\" "
        '(month first) or "%d/%m/%Y %H:%M" (day first)'
    )


def test_with_the_form_given_the_one_row_without_a_customer_is_the_one_bad_row(
    tmp_path: Path,
) -> None:
    """As a shop's export by a spreadsheet: a byte order mark, customers as floats, one without."""
    rows = ["A1,12/1/2010 8:26,17.0", "A2,1/4/2011 10:00,", "A2,2/1/2011 9:41,17.0"]
    path = tmp_path / "retail.csv"
    path.write_text("\ufeff" + "\n".join(["Stock,When,CustomerID", *rows]) + "\n")
    columns = {"user": "CustomerID", "item": "Stock", "time": "When"}
    log = {"path": path, "columns": columns, "time_format": "%m/%d/%Y %H:%M"}
    with pytest.raises(DataError, match=r"retail\.csv:3: no user: more than .*max_bad_rows = 0"):
        ingest(tmp_path, interactions=log)
    made = ingest(tmp_path, interactions=log, max_bad_rows=1)
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    assert frame.select("user", "item").rows() == [("17", "A1"), ("17", "A2")]
    assert dataset_summary(made)[0] == (
        f"log: 3 rows, 2 kept; 1 set aside in quarantine.jsonl ({path}:3: no user)"
    )


def parquet_of(path: Path, times: Any) -> Path:
    items = [f"{path.stem}{k}" for k in range(len(times))]
    pl.DataFrame({"user": ["u"] * len(times), "item": items, "time": times}).write_parquet(path)
    return path


UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize(("one", "other"), [("s", "ms"), ("us", "s"), ("ns", "ms"), ("ns", "s")])
def test_units_are_told_apart_between_files_and_within(
    tmp_path: Path, one: str, other: str, memory_mb: int
) -> None:
    fine = max(one, other, key=UNITS.__getitem__)
    a = parquet_of(tmp_path / "a.parquet", [NOON * UNITS[one], (NOON + 2) * UNITS[one]])
    b = parquet_of(tmp_path / "b.parquet", [(NOON + 1) * UNITS[other]])
    expected = [(NOON + k) * UNITS[fine] for k in (0, 2, 1)]
    made = ingest(tmp_path, interactions=[a, b], memory_mb=memory_mb)
    assert times_of(made) == expected
    assert "told apart by size, 2024-03-31 00:00:00 to 2024-03-31 00:00:02" in columns_line(made)
    times = [NOON * UNITS[one], (NOON + 2) * UNITS[one], (NOON + 1) * UNITS[other]]
    mixed = parquet_of(tmp_path / "c.parquet", times)
    assert times_of(ingest(tmp_path, interactions=mixed, memory_mb=memory_mb)) == expected


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_dates_and_numbers_of_two_files_are_one_unit(tmp_path: Path, memory_mb: int) -> None:
    start = datetime(2024, 3, 31, tzinfo=UTC)
    dates = parquet_of(tmp_path / "a.parquet", [start, start + timedelta(seconds=2)])
    words = parquet_of(tmp_path / "b.parquet", ["2024-03-31T01:00:01+01:00"])
    numbers = parquet_of(tmp_path / "c.parquet", [1000 * NOON + 1500])
    made = ingest(tmp_path, interactions=[dates, words, numbers], memory_mb=memory_mb)
    assert times_of(made) == [1000 * NOON + k for k in (0, 2000, 1000, 1500)]


@pytest.mark.parametrize("plain", [[1, 2], [3.5], [7]])
@pytest.mark.parametrize("memory_mb", [0, 1])
def test_plain_numbers_beside_times_are_refused(
    tmp_path: Path, plain: list[float], memory_mb: int
) -> None:
    a = parquet_of(tmp_path / "a.parquet", [NOON])
    b = parquet_of(tmp_path / "b.parquet", plain)
    with pytest.raises(DataError, match=r"b\.parquet:1: a plain number .*a\.parquet:1 has sec"):
        ingest(tmp_path, interactions=[a, b], memory_mb=memory_mb)
    made = ingest(tmp_path, interactions={"path": [a, b], "time_format": "s"}, memory_mb=memory_mb)
    assert times_of(made) == [NOON, *plain]


def test_an_order_that_is_no_time_stays_as_it_is(tmp_path: Path) -> None:
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", ["3", "1", "2"], "order"))
    assert times_of(made) == [3, 1, 2]
    assert "plain numbers, 1 to 3" in columns_line(made)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unixReviewTime", ["1400000000", "1390000000"]),
        ("t_dat", ["2018-09-20", "2018-09-21"]),
        ("when", ["12/1/2010 8:26", "12/2/2010 9:00"]),
        ("ms", ["1400000000123", "1390000000456"]),
    ],
)
def test_a_column_that_looks_like_time_is_named_where_none_was_found(
    tmp_path: Path, name: str, values: list[str]
) -> None:
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", values, name))
    line = columns_line(made)
    assert f"no time found among user, item, {name} ({name} may be one: set" in line
    assert times_of(made) == [1, 2]


@pytest.mark.parametrize("values", [["0100000011", "0200000022"], ["5", "4"], ["x", "y"]])
def test_a_column_that_does_not_is_not(tmp_path: Path, values: list[str]) -> None:
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", values, "isbn"))
    assert "may be one" not in columns_line(made)


@pytest.mark.parametrize("name", ["Score", "overall", "Book-Rating", "rating"])
def test_a_rating_that_is_not_used_is_said(tmp_path: Path, name: str) -> None:
    made = ingest(tmp_path, interactions=csv_of(tmp_path / "log.csv", ["5", "4"], name))
    assert f"{name} is there and not used" in columns_line(made)


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize("first", [True, False])
def test_one_of_several_files_without_time_is_refused(
    tmp_path: Path, memory_mb: int, first: bool
) -> None:
    a = parquet_of(tmp_path / "a.parquet", [NOON])
    frame = pl.DataFrame({"user": ["u"], "item": ["b"], "event_time": [NOON]})
    frame.write_parquet(tmp_path / "b.parquet")
    paths = [tmp_path / "b.parquet", a] if first else [a, tmp_path / "b.parquet"]
    with pytest.raises(DataError, match=r"b\.parquet: no column of times.*user, item, event_time"):
        ingest(tmp_path, interactions=paths, memory_mb=memory_mb)


def test_the_held_out_file_of_a_given_split_needs_no_times(tmp_path: Path) -> None:
    train = csv_of(tmp_path / "a.csv", [str(NOON), str(NOON + 5)])
    (tmp_path / "test.csv").write_text("user,item\nu,z\n")
    made = ingest(tmp_path, interactions=train, test=tmp_path / "test.csv")
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    assert frame.select("item", "time", "split").rows()[-1] == ("z", NOON + 5, "test")
    assert "seconds" in columns_line(made)
