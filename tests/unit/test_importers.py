"""`recmind import`: publishers' files become tables, counted row by row, or nothing is written."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.cli import main
from recmind_dist.errors import DataError
from recmind_dist.ingest import ingest_dataset
from recmind_dist.ingest.importers import IMPORTERS, import_files
from recmind_dist.ingest.importers import sources as sources_module
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.json_lines import JsonLines, python_dict
from recmind_dist.ingest.importers.sources import Block, Source
from recmind_dist.run_config.load import load_run_config
from tests.publishers import (
    EACH,
    ITEMS,
    PUBLISHERS,
    ROWS,
    START,
    USERS,
    amazon2023,
    goodreads_csv,
    hm,
    meetings,
    mind,
    movielens,
    steam,
    write_lines,
)

WITHOUT_TIME = {"steam-australia", "goodreads-csv", "lastfm", "lastfm-2k"}
WITHOUT_TEXTS = {"steam-australia", "retailrocket"}
WITH_USERS = {"yelp", "movielens", "movielens-100k", "lastfm", "lastfm-1k", "hm"}
DAYS_ONLY = {"steam", "hm"}


def imported(
    name: str, files: list[Path], to: Path, max_bad_rows: int = 1000
) -> tuple[Path, list[str]]:
    """The config, and what was said."""
    said: list[str] = []
    config = import_files(IMPORTERS[name], files, to, max_bad_rows, said.append, io.StringIO())
    return config, said


def counts(to: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((to / "import.json").read_text())
    return found


@pytest.mark.parametrize("name", PUBLISHERS)
def test_every_publishers_files_become_tables_and_a_config_that_prepares(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    importer, write = PUBLISHERS[name]
    config, said = imported(importer, write(tmp_path), Path("out/data"))
    log = pl.read_parquet("out/data/interactions.parquet")
    assert log.height == ROWS
    pairs = log.group_by("user").len()["len"].to_list()
    assert pairs == [EACH] * USERS
    assert log["item"].n_unique() == ITEMS
    assert ("time" in log.columns) is (name not in WITHOUT_TIME)
    if "time" in log.columns and name not in DAYS_ONLY:
        times = log["time"].sort().to_list()
        scale = 1000 if times[0] > 10 * START else 1
        wanted = [START + 3600 * k for k in range(ROWS)]
        if name == "mind":  # histories are placed before the first impression
            assert set(wanted[2::5]) <= set(times)
        else:
            assert [time // scale for time in times] == wanted
    assert Path("out/data/items.parquet").exists() is (name not in WITHOUT_TEXTS)
    if name not in WITHOUT_TEXTS:
        items = pl.read_parquet("out/data/items.parquet")
        assert set(items["id"]) == set(log["item"])
    assert Path("out/data/users.parquet").exists() is (name in WITH_USERS)
    for file in counts(Path("out/data"))["files"]:
        aside = sum(reason["rows"] for reason in file["set_aside"].values())
        assert file["rows_in"] == file["rows_kept"] + aside
        assert file["rows_in"] >= ITEMS
    assert any("rows in = " in line for line in said)
    assert len(config.read_text().splitlines()) <= 15
    found = ingest_dataset(load_run_config(config).dataset, Path("cache"))
    assert pl.read_parquet(found / "interactions.parquet").height == ROWS


def test_texts_are_those_of_the_files(tmp_path: Path) -> None:
    cases = (
        ("amazon2023", "title", ["Blue Kettle & Cup"], "Élan Chair"),
        ("movielens", "title", ["Blue Kettle & Cup (1995)"], "Élan Chair (1995)"),
        ("steam", "title", ["Blue Kettle & Cup"], "Élan Chair"),
        ("hm", "prod_name", ["Blue Kettle & Cup"], "Élan Chair"),
    )
    for name, column, second, fifth in cases:
        home = tmp_path / name
        home.mkdir()
        imported(PUBLISHERS[name][0], PUBLISHERS[name][1](home), home / "out")
        titles = pl.read_parquet(home / "out" / "items.parquet").sort("id")[column].to_list()
        assert titles[1:2] == second
        assert titles[4] == fifth


def test_amazons_variants_are_one_item(tmp_path: Path) -> None:
    imported("amazon2023", amazon2023(tmp_path), tmp_path / "out")
    log = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert set(log["item"]) == {f"B000{item}" for item in range(ITEMS)}


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    imported("hm", hm(tmp_path), tmp_path / "out")
    log = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert set(log["item"]) == {f"066371300{item}" for item in range(ITEMS)}


def test_minds_histories_precede_the_first_impression_in_their_order(tmp_path: Path) -> None:
    _, said = imported("mind", mind(tmp_path), tmp_path / "out")
    log = pl.read_parquet(tmp_path / "out" / "interactions.parquet").filter(user="U3").sort("time")
    assert log["item"].to_list() == [f"N{item}" for user, item, _ in meetings() if user == 3]
    first = START + 3600 * (EACH * 3 + 2)
    assert log["time"].to_list()[:3] == [first - 2, first - 1, first]
    (behaviors,) = [f for f in counts(tmp_path / "out")["files"] if f["kind"] == "behaviors"]
    assert behaviors["set_aside"]["no click in the impression"]["first_line"] == 37
    assert any(line.startswith("24 of the interactions are items of users'") for line in said)


def test_goodreads_numbers_go_through_their_map(tmp_path: Path) -> None:
    files = goodreads_csv(tmp_path)
    imported("goodreads", files, tmp_path / "out")
    log = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert set(log["item"]) == {str(130580 + item) for item in range(ITEMS)}
    with pytest.raises(DataError, match="no text would meet its item: give book_id_map too"):
        imported("goodreads", [files[0], files[2]], tmp_path / "again")


BAD_REVIEWS = {
    "not json": ("{'a': 1", "not JSON"),
    "cut off": ('{"user_id": "A", "parent', "not JSON"),
    "no user": ('{"parent_asin": "B0001", "timestamp": 1}', "no user"),
    "blank item": ('{"user_id": "A", "parent_asin": " ", "timestamp": 1}', "no item"),
    "list as id": ('{"user_id": ["A"], "parent_asin": "B1", "timestamp": 1}', "user_id is list"),
    "true as id": ('{"user_id": true, "parent_asin": "B1", "timestamp": 1}', "user_id is bool"),
    "half a pair": ('{"user_id": "\\ud800", "parent_asin": "B1", "timestamp": 1}', "surrogate"),
    "no time": ('{"user_id": "A", "parent_asin": "B1"}', "no time"),
    "date": ('{"user_id": "A", "parent_asin": "B1", "timestamp": "May"}', "not a whole number"),
    "list": ("[1, 2]", "not a JSON object"),
    "nested": ('{"user_id": ' + "[" * 5000 + "]" * 5000 + "}", "nested"),
    "rating": (
        '{"user_id": "A", "parent_asin": "B1", "timestamp": 1, "rating": "good"}',
        "rating is not a finite number",
    ),
}


@pytest.mark.parametrize("name", BAD_REVIEWS)
def test_a_malformed_review_is_set_aside_and_named_by_its_line(name: str, tmp_path: Path) -> None:
    text, reason = BAD_REVIEWS[name]
    reviews, meta = amazon2023(tmp_path)
    lines = gzip.decompress(reviews.read_bytes()).decode().splitlines()
    write_lines(reviews, [*lines[:20], text, *lines[20:]])
    imported("amazon2023", [reviews, meta], tmp_path / "out")
    (file,) = [f for f in counts(tmp_path / "out")["files"] if f["kind"] == "reviews"]
    assert (file["rows_in"], file["rows_kept"]) == (ROWS + 1, ROWS)
    [(words, found)] = file["set_aside"].items()
    assert reason in words
    assert found["first_line"] == 21
    [record] = (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(record)["line"] == 21
    assert json.loads(record)["text"] == text[:200]
    with pytest.raises(DataError, match=r"All_Beauty\.jsonl\.gz:21: .*more than --max-bad-rows 0"):
        imported("amazon2023", [reviews, meta], tmp_path / "again", max_bad_rows=0)
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_the_fast_and_the_slow_reading_of_json_agree() -> None:
    layout = JsonLines(keys=(), ids=("u", "i"), plain=("t", "r"))
    sound = [
        '{"u": "007", "i": 12, "t": 1500000000123, "r": 4.5, "x": {"y": [1]}}',
        '{"i": "é \\u00e9 \\ud83d\\ude00", "u": " a b ", "r": null}',
        '  {"u": 9007199254740993, "i": "NA", "t": "12", "r": 0.1}',
    ]
    fast = layout.parse(Block(5, "\n".join(sound).encode())).frame
    slow = layout.parse(Block(5, "\n".join([*sound, "broken"]).encode()))
    assert [line for line, _, _ in slow.bad] == [8]
    assert fast.equals(slow.frame)
    assert fast["u"].to_list() == ["007", " a b ", "9007199254740993"]  # as written
    assert fast["__line"].to_list() == [5, 6, 7]


def test_item_rows_that_stand_twice_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    reviews, meta = amazon2023(tmp_path)
    lines = gzip.decompress(meta.read_bytes()).decode().splitlines()
    write_lines(meta, [*lines, lines[2], lines[3].replace("Dark Roast", "Light Roast")])
    imported("amazon2023", [reviews, meta], tmp_path / "out", max_bad_rows=0)
    (file,) = [f for f in counts(tmp_path / "out")["files"] if f["kind"] == "item metadata"]
    first = {words: reason["first_line"] for words, reason in file["set_aside"].items()}
    assert first == {
        "its id stands on an earlier row, which is equal": 9,
        "its id stands on an earlier row, which differs and is kept": 10,
    }
    assert "Dark Roast" in pl.read_parquet(tmp_path / "out" / "items.parquet")["title"]


def test_items_and_log_are_set_against_each_other(tmp_path: Path) -> None:
    reviews, meta = amazon2023(tmp_path)
    lines = gzip.decompress(meta.read_bytes()).decode().splitlines()
    write_lines(meta, [*lines[2:], lines[0].replace("B0000", "B0UNSOLD")])
    _, said = imported("amazon2023", [reviews, meta], tmp_path / "out")
    assert "items.parquet: 7 rows; of 8 items of the log 2 have none, 1 are only here" in said


@pytest.mark.parametrize("keep", [0.5, -4])
def test_a_cut_download_is_refused_and_nothing_is_left(keep: float, tmp_path: Path) -> None:
    reviews, meta = amazon2023(tmp_path)
    data = reviews.read_bytes()
    reviews.write_bytes(data[: int(keep * len(data)) if keep > 0 else int(keep)])
    with pytest.raises(DataError, match=r"All_Beauty\.jsonl\.gz: damaged or cut off"):
        imported("amazon2023", [reviews, meta], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([reviews.name, meta.name])


def test_a_directory_with_files_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists and is not empty"):
        imported("movielens", movielens(tmp_path), tmp_path)
    assert (tmp_path / "ratings.dat").exists()


def test_files_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    files = movielens(tmp_path)
    with pytest.raises(DataError, match=r"ratings\.dat: not a file of Steam \(known are: steam"):
        imported("steam", files, tmp_path / "out")
    with pytest.raises(DataError, match=r"no file with interactions: give ratings\.csv or"):
        imported("movielens", files[1:], tmp_path / "out")
    with pytest.raises(DataError, match="named twice"):
        imported("movielens", [files[0], files[0]], tmp_path / "out")
    other = write_lines(tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp", "1,2,3,4"])
    with pytest.raises(DataError, match=r"ratings\.csv and ratings\.dat both give interactions"):
        imported("movielens", [other, *files], tmp_path / "out")
    with pytest.raises(DataError, match="a tar archive: unpack it"):
        imported("lastfm", [write_lines(tmp_path / "lastfm-360K.tar.gz", ["x"])], tmp_path / "out")


def test_a_folder_is_searched_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    home = tmp_path / "ml-1m"
    home.mkdir()
    movielens(home)
    write_lines(home / "README", ["SUMMARY", "======="])
    _, said = imported("movielens", [home], tmp_path / "out")
    assert f"{home}/README: not read: not a file of MovieLens" in said
    assert pl.read_parquet(tmp_path / "out" / "interactions.parquet").height == ROWS


def test_blocks_are_whole_lines_with_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nlonger than a block\nlast")
    blocks = list(Source(path).blocks(block_bytes=7))
    lines = [(block.first + k, line) for block in blocks for k, line in enumerate(block.lines)]
    wanted = [b"one", b"two", b"", b"longer than a block", b"last"]
    assert lines == list(enumerate(wanted, 1))
    monkeypatch.setattr(sources_module, "MAX_LINE", 10)
    with pytest.raises(DataError, match=r"a\.txt:4: longer than 10 bytes"):
        list(Source(path).blocks(block_bytes=7))


def test_a_quoted_record_may_span_blocks_and_gives_no_further_row() -> None:
    reader = Delimited(",", ("user", "item", "text"), quoted=True).reader()
    one = reader.parse(Block(1, b'user,item,text\nu1,i1,"a\n'))
    two = reader.parse(Block(3, b'u9,i9,fake\n\nend ""x"""\nu2,i2,b\n'))
    three = reader.parse(Block(7, b'u3,i3,"open\nu4,i4,c\n'))
    end = reader.finish()
    assert (one.frame.height, one.bad) == (0, [])
    assert two.frame.rows() == [
        ("u1", "i1", 'a\nu9,i9,fake\n\nend "x"', 2),
        ("u2", "i2", "b", 6),
    ]
    assert (three.frame.height, three.bad) == (0, [])
    assert end.frame.rows() == [("u4", "i4", "c", 8)]  # an open quote costs only its own line
    assert end.bad == [(7, "a quote is opened and not closed", 'u3,i3,"open')]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "{'a': open('x')}",
        "{" * 5000 + "}" * 5000,
        "-" * 100_000 + "1",
        "{1: 2}",
        "[1]",
        "{'a': " + "9" * 5000 + "}",
    ],
)
def test_a_python_line_is_a_literal_or_refused(text: str) -> None:
    assert isinstance(python_dict(text), str)
    assert python_dict("{u'a': [1, u'b'], 'c': None}") == {"a": [1, "b"], "c": None}


def test_a_nested_list_counts_its_rows(tmp_path: Path) -> None:
    files = steam(tmp_path)
    lists = [
        "{'user_id': 'a', 'items': [{'item_id': '1', 'playtime_forever': 3}, {'x': 1}]}",
        "{'user_id': 'b', 'items': []}",
        "{'user_id': 'c', 'items': 7}",
        "{'user_id': 'd', 'items': [{'item_id': '2', 'playtime_forever': 0}]}",
    ]
    path = write_lines(tmp_path / "australian_users_items.json.gz", lists)
    imported("steam", [path, files[1]], tmp_path / "out")
    (file,) = [f for f in counts(tmp_path / "out")["files"] if f["kind"] != "steam_games"]
    assert (file["rows_in"], file["rows_kept"]) == (5, 2)
    assert {k: (v["rows"], v["first_line"]) for k, v in file["set_aside"].items()} == {
        "items is no list of objects": (1, 3),
        "no item": (2, 1),
    }


def test_the_command_says_counts_exits_and_loads_no_torch(tmp_path: Path) -> None:
    movielens(tmp_path)
    script = (
        "import sys\n"
        "from recmind_dist.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
    )
    words = [sys.executable, "-c", script, "import", "movielens", "ratings.dat"]
    done = subprocess.run(
        [*words, "--to", "ml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ratings.dat (ratings.dat): 60 rows in = 60 kept + 0 set aside" in done.stdout
    assert "ml/config.yaml: written; next: recmind run ml/config.yaml" in done.stdout
    assert "import  ratings.dat" in done.stderr  # progress


def test_an_error_is_one_sentence_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    movielens(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["import", "movielens", "ratings.dat", "--to", "."])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: .: exists and is not empty: name another directory, or remove it\n"
