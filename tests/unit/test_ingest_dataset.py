"""`ingest_dataset`: row counts add up, filters keep the right rows, errors are one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from recmind_dist.errors import DataError, StoreError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset
from recmind_dist.ingest.dataset import SCHEMA
from recmind_dist.ingest.ids import natural_order
from recmind_dist.storage import read_manifest, verify_manifest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ingest(tmp_path: Path, **settings: Any) -> Path:
    return ingest_dataset(DatasetSettings(name="toy", **settings), tmp_path / "cache")


def counts(directory: Path) -> dict[str, int]:
    found: dict[str, int] = read_manifest(directory, "dataset", SCHEMA)["counts"]
    lost = ("rows_quarantined", "repeats_collapsed", "filtered_by_rating", "filtered_by_k_core")
    assert found["rows_in"] == found["rows_kept"] + sum(found[name] for name in lost)
    assert found["rows_kept"] == pl.read_parquet(directory / "interactions.parquet").height
    return found


def log_of(directory: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(directory / "interactions.parquet").drop("row").rows()


def test_one_percent_of_bad_rows_is_counted_and_quarantined(tmp_path: Path) -> None:
    bad_lines = set(range(7, 2000, 100))
    rows = ["user,item,time"] + [
        f"u{n % 40},i{n}," + ("" if n + 1 in bad_lines else str(n)) for n in range(1, 2000)
    ]
    path = write(tmp_path / "log.csv", "\n".join(rows) + "\n")
    directory = ingest(tmp_path, interactions=path, max_bad_rows=20)
    assert counts(directory)["rows_quarantined"] == len(bad_lines) == 20
    records = [
        json.loads(line) for line in (directory / "quarantine.jsonl").read_text().splitlines()
    ]
    assert {record["line"] for record in records} == bad_lines
    assert all(record["text"] == rows[record["line"] - 1] for record in records)
    with pytest.raises(DataError, match=r"log\.csv:7: .* dataset\.max_bad_rows = 19"):
        ingest(tmp_path, interactions=path, max_bad_rows=19)
    assert [p.name for p in (tmp_path / "cache" / "toy").iterdir()] == [directory.name], (
        "nothing half-written stays"
    )


@pytest.mark.parametrize(("rule", "time"), [("first", 3), ("last", 9)])
def test_repeats_collapse_by_time_not_by_position_in_the_file(
    tmp_path: Path, rule: str, time: int
) -> None:
    path = write(tmp_path / "log.csv", "user,item,time\na,x,5\na,x,9\na,x,3\nb,x,1\n")
    directory = ingest(tmp_path, interactions=path, repeats=rule)
    assert ("a", "x", time) in log_of(directory)
    assert counts(directory)["repeats_collapsed"] == 2


def test_k_core_is_the_largest_one_and_its_dropped_ids_do_not_come_back(tmp_path: Path) -> None:
    core = [f"u{u},i{i},{u}{i}" for u in range(3) for i in range(3)]
    # i9 has three users, but one of them goes for want of interactions, and then so does i9
    rest = ["u0,i9,1", "u1,i9,2", "u9,i9,3"]
    path = write(tmp_path / "log.csv", "\n".join(["user,item,time", *core, *rest]) + "\n")
    texts = write(
        tmp_path / "items.csv", "id,title\n" + "".join(f"i{i},t{i}\n" for i in (0, 1, 2, 9, 77))
    )
    directory = ingest(tmp_path, interactions=path, items=texts, k_core=3)
    assert len(log_of(directory)) == 9
    assert counts(directory)["filtered_by_k_core"] == 3
    assert pl.read_parquet(directory / "items.parquet")["id"].to_list() == ["i0", "i1", "i2", "i77"]


def test_k_core_agrees_with_dropping_one_row_at_a_time() -> None:
    from recmind_dist.ingest.filters import k_core

    draw = np.random.Generator(np.random.Philox(3)).integers(0, 25, size=(260, 2))
    frame = pl.DataFrame({"user": draw[:, 0], "item": draw[:, 1]}).unique(maintain_order=True)
    expected = frame.cast(pl.String)
    while True:
        few = expected.filter((pl.len().over("user") < 6) | (pl.len().over("item") < 6))
        if few.is_empty():
            break
        expected = expected.join(
            few.head(1), on=["user", "item"], how="anti", maintain_order="left"
        )
    assert 0 < expected.height < frame.height
    assert k_core(frame.cast(pl.String), 6).equals(expected)


def test_ratings_below_the_bar_are_no_interactions(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,rating\na,x,5\na,y,3.5\nb,x,1\n")
    directory = ingest(tmp_path, interactions=path, min_rating=3.5)
    assert [row[:2] for row in log_of(directory)] == [("a", "x"), ("a", "y")]
    assert counts(directory)["filtered_by_rating"] == 1
    with pytest.raises(DataError, match="min_rating = 6 leaves no interaction"):
        ingest(tmp_path, interactions=path, min_rating=6)


def test_numbers_in_one_file_and_text_in_another_are_one_id(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1.0, 2.0], "item": [10, 20]}).write_parquet(tmp_path / "log.parquet")
    texts = write(
        tmp_path / "items.jsonl", '{"id": "10", "title": "ten"}\n{"id": 20, "title": "twenty"}\n'
    )
    directory = ingest(tmp_path, interactions=tmp_path / "log.parquet", items=texts)
    assert counts(directory)["items_without_text"] == 0


def test_no_id_in_common_shows_one_of_each(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\n1,10\n")
    texts = write(tmp_path / "items.csv", "id,title\nB00X,ten\n")
    with pytest.raises(DataError, match=r"'B00X' here, '10' there: check dataset\.items\.id"):
        ingest(tmp_path, interactions=log, items=texts)


def test_items_without_a_line_in_their_file_are_counted(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\n1,10\n1,11\n")
    texts = write(tmp_path / "items.csv", "id,title\n10,ten\n12,twelve\n")
    found = counts(ingest(tmp_path, interactions=log, items=texts))
    assert (found["items_without_text"], found["items_unseen"]) == (1, 1)


def test_a_given_split_keeps_a_pair_where_it_was_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", "1 a b\n2 a\n")
    test = write(tmp_path / "test.txt", "1 b c\n3 z\n")
    directory = ingest(tmp_path, interactions=train, test=test)
    found = (
        pl.read_parquet(directory / "interactions.parquet").select("user", "item", "split").rows()
    )
    assert found == [
        ("1", "a", "train"),
        ("1", "b", "train"),
        ("2", "a", "train"),
        ("1", "c", "test"),
        ("3", "z", "test"),
    ]
    assert counts(directory)["repeats_collapsed"] == 1


def test_several_log_files_are_one_log(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", "user,item,time\n1,x,1\n1,y,2\n")
    two = write(tmp_path / "b.csv", "user,item,time\n2,x,0.5\n")
    directory = ingest(tmp_path, interactions=[one, two])
    assert log_of(directory) == [("1", "x", 1.0), ("1", "y", 2.0), ("2", "x", 0.5)]


def test_a_second_run_touches_nothing_and_a_changed_byte_makes_another(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item\n1,x\n")
    first = ingest(tmp_path, interactions=path)
    before = (first / "manifest.json").stat().st_mtime_ns
    assert ingest(tmp_path, interactions=path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == before
    write(path, "user,item\n1,y\n")
    assert ingest(tmp_path, interactions=path) != first


def test_a_truncated_cache_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item\n1,x\n")
    directory = ingest(tmp_path, interactions=path)
    (directory / "items.parquet").write_bytes(b"")
    assert ingest(tmp_path, interactions=path) == directory
    verify_manifest(directory, read_manifest(directory, "dataset", SCHEMA))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "log.csv", "user,item\n1,x\n")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"):
        ingest(tmp_path, interactions=path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty"),
        ("user,item\n", "the log has no interaction"),
        ("\n\n", "nothing but blank lines"),
    ],
)
def test_an_empty_log_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        ingest(tmp_path, interactions=write(tmp_path / "log.csv", content))


def test_a_missing_file_names_its_key(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item\n1,x\n")
    with pytest.raises(
        DataError, match=r"no such file: give the path of a file in dataset\.items\.path"
    ):
        ingest(tmp_path, interactions=log, items=tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file.*dataset\.interactions\.path"):
        ingest(tmp_path, interactions=tmp_path / "empty")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "../up"}, "name"),
        ({"valid": "v.txt"}, "dataset.valid is given without dataset.test"),
        ({"test": "t.txt", "k_core": 5}, "a k-core would change the given split"),
        ({"interactions": []}, "no file named"),
        ({"items": {"path": "x", "fields": ["a", "a"]}}, "a field stands twice"),
        ({"max_bad_rows": -1}, "max_bad_rows"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        DatasetSettings.model_validate({"name": "toy", "interactions": "log.csv", **settings})


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize("side", ["item", "user"])
def test_rows_with_empty_fields_alone_count_as_without_a_text(
    tmp_path: Path, side: str, memory_mb: int
) -> None:
    pl.DataFrame({"user": list("abcd"), "item": list("abcd")}).write_parquet(
        tmp_path / "log.parquet"
    )
    table = write(tmp_path / "texts.csv", "id,title,note\na,T,\nb, ,\nc,NA,\ne,,\n")
    made = ingest(
        tmp_path,
        interactions=tmp_path / "log.parquet",
        missing=["NA"],
        memory_mb=memory_mb,
        **{f"{side}s": table},
    )
    found = counts(made)
    names = ("in_log", "without_text", "with_empty_text", "unseen")
    assert [found[f"{side}s_{name}"] for name in names] == [4, 3, 2, 1]
    line = (
        f"{side}s: 4 in the log, 1 of them not in texts.csv (by id), 2 there without a text (all "
        "fields are empty); 1 only in texts.csv"
    )
    assert line in dataset_summary(made)


def test_natural_order_is_by_number_then_by_text() -> None:
    ids = pl.Series(["b", "10", "9", "a", "-1", "007", "7", "9"])
    assert natural_order(ids).to_list() == ["-1", "007", "7", "9", "10", "a", "b"]
    assert natural_order(ids.reverse()).to_list() == natural_order(ids).to_list()


@pytest.mark.parametrize(
    ("name", "kept", "users", "items", "bad"),
    [
        ("yelp", 304_524, 30_431, 20_033, 0),
        ("amazon-beauty", 198_502, 22_363, 12_101, 0),
        # line 522 of that log ends in a web address instead of its time
        ("ml-latest-small", 100_835, 610, 9_724, 1),
    ],
)
def test_real_logs_have_the_counts_that_are_known(
    tmp_path: Path, name: str, kept: int, users: int, items: int, bad: int
) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(
            f"../shared/data/{name} is not here: the real logs are not part of the repository"
        )
    directory = ingest(
        tmp_path,
        interactions=folder / "interactions.tsv",
        items=folder / "items.jsonl",
        max_bad_rows=bad,
    )
    found = counts(directory)
    assert (found["rows_kept"], found["users_in_log"], found["items_in_log"]) == (
        kept,
        users,
        items,
    )
    assert (found["rows_quarantined"], found["items_without_text"]) == (bad, 0)
