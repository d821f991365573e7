"""`recmind init`: says what files are, writes a config that prepares, or asks the one question."""

import json
import zipfile
from pathlib import Path

import polars as pl
import pytest
import typer

from recmind_dist.cli import init as init_command
from recmind_dist.cli import main
from recmind_dist.errors import DataError
from recmind_dist.ingest import ingest_dataset
from recmind_dist.ingest.guess import Answers, Unclear, init_config
from recmind_dist.ingest.guess.facts import facts
from recmind_dist.run_config.load import load_run_config
from tests.layouts import LAYOUTS, atomic, bare, events, shop, untimed
from tests.publishers import EACH, ITEMS, PUBLISHERS, ROWS, START, USERS, meetings, write_lines

WITH_ITEMS = {"shop", "library", "bare", "warehouse", "atomic"}
WITH_TIME = LAYOUTS.keys() - {"untimed"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ingested(config: Path) -> Path:
    return ingest_dataset(load_run_config(config).dataset, Path("cache"))


def init(files: list[Path], to: str = "out", **answers: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    return init_config(files, Path(to), Answers(**answers), 0, said.append), said


@pytest.mark.parametrize("name", PUBLISHERS)
def test_a_publishers_files_are_known(name: str, tmp_path: Path) -> None:
    importer, write = PUBLISHERS[name]
    _, said = init(write(tmp_path))
    assert f"as by `recmind import {importer}`" in said[0]
    assert pl.read_parquet("out/interactions.parquet").height == ROWS


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_config_of_any_layout_runs_unedited(name: str) -> None:
    config, _ = init(LAYOUTS[name](Path()))
    text = config.read_text()
    assert len(text.splitlines()) <= 15
    assert "#" in text
    found = ingested(config)
    log = pl.read_parquet(found / "interactions.parquet")
    assert log.height == ROWS
    assert log.group_by("user").len()["len"].to_list() == [EACH] * USERS  # not user for item
    assert json.loads((found / "manifest.json").read_text())["has_time"] is (name in WITH_TIME)
    if name in WITH_TIME:
        order = {user: [i for u, i, _ in meetings() if u == user] for user in range(USERS)}
        first = log.sort("time").group_by("user", maintain_order=True).agg("item")
        digits = [[int("".join(filter(str.isdigit, i)) or 0) for i in row] for row in first["item"]]
        ranks = [[sorted(set(row)).index(i) for i in row] for row in digits]
        wanted = [[sorted(set(row)).index(i) for i in row] for row in order.values()]
        assert ranks == wanted
    items = pl.read_parquet(found / "items.parquet")
    assert items.height == (ITEMS if name in WITH_ITEMS else 0)
    assert items.is_empty() or "Amber Lamp" in items.row(0) or items.width > 1


@pytest.mark.parametrize("form", ["{k},u{u},i{i},{t}", '"{k}"\t"u{u}"\t"i{i}"\t"{t}"'])
def test_the_index_of_pandas_and_the_quotes_of_r_are_no_part_of_a_table(form: str) -> None:
    mark = "\t" if "\t" in form else ","
    rows = [form.format(k=k, u=u, i=i, t=t) for k, (u, i, t) in enumerate(meetings())]
    head = (
        mark.join(["", "user_id", "item_id", "ts"])
        if mark == ","
        else ('"row"\t"user_id"\t"item_id"\t"ts"')
    )
    config, _ = init([write_lines(Path("log.tsv"), [head, *rows])])
    log = pl.read_parquet(ingested(config) / "interactions.parquet")
    assert log.height == ROWS
    assert log["user"].str.contains(r"^u\d+$").all()


def test_files_that_readers_take_stay_where_they_are() -> None:
    config, said = init(shop(Path()))
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.yaml"]
    dataset = load_run_config(config).dataset
    assert dataset.interactions.path == Path("orders.csv")
    columns = dataset.interactions.columns
    assert (columns.user, columns.item, columns.time) == ("buyer_ref", "sku", "bought_at")
    assert dataset.items is not None
    assert dataset.items.id == "code"
    assert load_run_config(config).text.item_template == "{label}. {size}"
    assert said[0] == (
        "orders.csv: the log (csv): time is bought_at, user is buyer_ref, item is sku "
        "(dates as %Y-%m-%dT%H:%M:%S%.f)"
    )


def test_what_they_do_not_take_is_converted_and_counted() -> None:
    files = events(Path())
    with zipfile.ZipFile("events.zip", "w") as archive:
        for file in files:
            archive.write(file)
    _, said = init([Path("events.zip")])
    assert any("log): 30 rows in = 30 kept + 0 set aside" in line for line in said)
    log = pl.read_parquet("out/interactions.parquet")
    assert log.height == ROWS
    assert log["time"].min() == START * 1000


def test_no_column_of_times_is_said() -> None:
    config, said = init(untimed(Path()))
    assert "tasting.csv: no column of times: what is held out of users is drawn" in said
    assert "# no column of times" in config.read_text()


def numbers(header: str, columns: tuple[int, ...]) -> Path:
    """A log of (user, item, seconds, seconds a day later) in the columns given."""
    rows = [(100 + u, 200 + i, s, s + 86400) for u, i, s in meetings()]
    lines = [",".join(str(row[k]) for k in columns) for row in rows]
    return write_lines(Path("numbers.csv"), [header, *lines] if header else lines)


def test_two_columns_that_may_be_the_user_are_the_question() -> None:
    path = numbers("", (0, 1, 2))
    with pytest.raises(Unclear) as unclear:
        init([path])
    assert str(unclear.value) == (
        "Which column of numbers.csv is the user (different values: 0 has 12, 1 has 8)? "
        "Say --user 0 or 1"
    )
    assert not Path("out").exists()
    config, _ = init([path], user="0")
    assert "columns: {user: 0, item: 1, time: 2}" in config.read_text()
    assert pl.read_parquet(ingested(config) / "interactions.parquet")["user"].n_unique() == USERS


def test_two_times_are_the_question_unless_one_is_of_something_else() -> None:
    path = numbers("user_id,item_id,start_time,pay_time", (0, 1, 2, 3))
    with pytest.raises(
        Unclear, match=r"the time of the inter.*--time start_time, pay_time or none"
    ):
        init([path])
    config, _ = init([path], time="pay_time")
    assert "time: pay_time}" in config.read_text()
    path = numbers("user_id,item_id,created_at,updated_at", (0, 1, 2, 3))
    assert "time: created_at}" in init([path], "second")[0].read_text()


def dated(form: str, days: range) -> Path:
    rows = [f"u{k % 7},i{k % 5},{form.format(day=day)}" for k, day in enumerate(days)]
    return write_lines(Path("log.csv"), ["user,item,date", *rows])


def test_days_and_months_that_may_change_places_are_the_question() -> None:
    path = dated("{day:02d}/03/2021", range(1, 13))
    with pytest.raises(Unclear, match="Is '01/03/2021' in column date day, month, year, or month"):
        init([path])
    config, _ = init([path], time_format="%d/%m/%Y")
    times = pl.read_parquet(ingested(config) / "interactions.parquet")["time"]
    assert pl.from_epoch(times).dt.month().unique().to_list() == [3]


def test_one_day_above_twelve_decides() -> None:
    config, _ = init([dated("{day:02d}/03/2021", range(1, 20))])
    times = pl.read_parquet(ingested(config) / "interactions.parquet")["time"]
    assert pl.from_epoch(times).dt.month().unique().to_list() == [3]


def test_dates_of_no_one_format_are_the_question() -> None:
    rows = ["u1,i1,2021-03-01", "u2,i2,yesterday", "u1,i2,2021-03-05", "u2,i1,2021-03-06"]
    path = write_lines(Path("log.csv"), ["user,item,date", *rows])
    with pytest.raises(
        Unclear, match=r"In what format are the dates of column date \('2021-03-01'"
    ):
        init([path])
    assert "no column of times" in init([path], time="none")[0].read_text()


def test_part_of_a_log_with_other_columns_is_not_a_table_of_items() -> None:
    one = write_lines(Path("a.csv"), ["user,item,time", "u1,i1,1700000000", "u2,i2,1700000001"])
    two = write_lines(Path("b.csv"), ["user,item,when", "u1,i2,1700000000", "u2,i1,1700000001"])
    with pytest.raises(DataError, match="is it a part of the log"):
        init([one, two], log="a")
    two.write_text("u1,i2,1700000000\nu2,i1,1700000001\n")
    with pytest.raises(DataError, match=r"b\.csv has as many columns as a\.csv and no header"):
        init([one, two], log="a")


def test_items_without_an_id_of_the_log_are_refused() -> None:
    files = bare(Path())
    write_lines(files[1], ["id\tname", "x1\tAmber Lamp", "x2\tBlue Kettle"])
    with pytest.raises(DataError, match="none of its columns has the ids of the log"):
        init(files, user="1", item="0")


def test_what_is_no_table_is_refused_in_a_sentence() -> None:
    for text, reason in (
        ("[1, 2]\n[3, 4]", "neither JSON objects nor Python dicts"),
        ("# Notes\nSome words, more words; others\nend", "no separator in common"),
        ("\n\n", "nothing but blank lines"),
        ("{broken\n{broken", "neither JSON objects nor Python dicts"),
        ("user,user,time\n1,2,3\n4,5,6", "column 'user' stands twice"),
    ):
        path = Path("log.data")
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            init([path])


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (["1500000000", "1600000000"], "seconds"),
        (["1500000000.25", "1600000000.5"], "seconds"),
        (["1500000000123", "1600000000123"], "milliseconds"),
        (["1500000000123456"], "microseconds"),
        (["1500000000123456789"], "nanoseconds"),
        (["1500000000", "12"], None),
        (["1500000000", "1600000000123"], None),  # of two units: no instant
        (["4000", "70000"], None),
    ],
)
def test_the_unit_of_times_is_told_by_all_values(values: list[str], unit: str | None) -> None:
    assert facts(pl.Series("t", values)).unit == unit


def test_a_config_that_is_there_is_kept() -> None:
    files = atomic(Path())
    config, _ = init(files)
    with pytest.raises(DataError, match="exists and is not empty"):
        init(files)
    assert config.exists()


def test_without_a_terminal_the_command_stops_with_the_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(numbers("", (0, 1, 2)))
    with pytest.raises(SystemExit) as stopped:
        main(["init", path])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: Which column of numbers.csv is the user")
    # at a terminal it asks, and goes on with the answer
    monkeypatch.setattr(init_command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "prompt", lambda _: "1")
    main(["init", path, "--to", "asked"])
    assert "columns: {user: 1, item: 0, time: 2}" in Path("asked/config.yaml").read_text()
