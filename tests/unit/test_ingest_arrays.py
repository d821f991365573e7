"""Files that are one JSON array, keys of objects in rows, and what MongoDB wraps."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, arrays, ingest_dataset

LOG = [{"user": f"u{n % 7}", "item": f"i{n % 5}", "time": n + 1} for n in range(30)]
PAIRS = sorted({(str(row["user"]), str(row["item"])) for row in LOG})


def ingested(folder: Path, text: str, encoding: str = "utf-8", **changes: Any) -> Path:
    path = folder / "log.json"
    path.write_text(text, encoding=encoding)
    log = {
        "path": path,
        "encoding": encoding.removesuffix("-sig"),
        "columns": changes.pop("columns", {}),
    }
    values = {"name": "x", "interactions": log, **changes}
    return ingest_dataset(DatasetSettings.model_validate(values), folder / "cache")


def pairs(dataset: Path) -> list[tuple[str, str]]:
    return sorted(pl.read_parquet(dataset / "interactions.parquet").select("user", "item").rows())


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_element_by_element(
    tmp_path: Path, indent: int | None, encoding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BLOCK", block)
    rows = [row | {"note": 'ü "]},[{'} for row in LOG]
    text = "\n " + json.dumps(rows, indent=indent, ensure_ascii=False) + " \n\n"
    assert pairs(ingested(tmp_path, text, encoding)) == PAIRS


def test_items_in_an_array_have_their_texts(tmp_path: Path) -> None:
    items = tmp_path / "items.json"
    items.write_text(
        json.dumps([{"id": f"i{n}", "title": f"Lamp {n}"} for n in range(5)], indent=1)
    )
    made = ingested(tmp_path, json.dumps(LOG), items=items)
    assert pl.read_parquet(made / "items.parquet")["title"].to_list() == [
        f"Lamp {n}" for n in range(5)
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"user": "a", "item": "b"}, {"user": ', "broken after element 1"),
        ('[{"user": "a", "item": "b"}', "broken after element 1"),
        ('[{"user": "a", "item": "b"} {"user": "c"}]', "broken after element 1"),
        ('[{"user": "a", "item": "b"},, {"user": "c"}]', "broken after element 1"),
        ('[{"user": "a", "item": "b"},]', "broken after element 1"),
        ("[{'user': 'a'}]", "broken at its first element"),
        ('[{"user": "a", "item": "b"}]\n[{"user": "c", "item": "b"}]', "a list, not an object"),
        ('[{"user": "a", "item": "b"}\n]\n{"user": "c"}', "something follows the array"),
        ('[{"user": "a", "item": "b"}, {"user": "c"}]', "log.json:2: no item"),
        ('[{"user": "a", "item": "b"}, 7]', "log.json:2: not a JSON object"),
        ('[{"user": "a", "item": "b"}, ' + "[" * 100_000 + "]", "broken after element 1"),
    ],
)
def test_an_array_that_is_not_sound_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ingested(tmp_path, text)


def test_a_bad_element_is_set_aside_with_its_text(tmp_path: Path) -> None:
    made = ingested(tmp_path, json.dumps([*LOG, {"user": "only", "time": 3}]), max_bad_rows=1)
    (line,) = (made / "quarantine.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["line"], record["reason"]) == (31, "no item")
    assert "only" in record["text"]
    assert pairs(made) == PAIRS


@pytest.mark.parametrize("array", [False, True])
def test_keys_of_objects_and_values_that_mongodb_wraps_are_read(
    tmp_path: Path, array: bool
) -> None:
    rows = [
        {
            "user": {"id": {"$oid": row["user"]}, "plan": "free"},
            "thing": {"$oid": row["item"]},
            "at": {"$date": {"$numberLong": str(1_700_000_000_000 + 1000 * int(str(row["time"])))}},
        }
        for row in LOG
    ]
    text = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    columns = {"user": "user.id", "item": "thing", "time": "at"}
    made = ingested(tmp_path, text, columns=columns)
    assert pairs(made) == PAIRS
    read = json.loads((made / "manifest.json").read_text())["read"]
    assert read["time"]["unit"] == "milliseconds"
    with pytest.raises(DataError, match=r"columns\.user.*user\.id, user\.plan"):
        ingested(tmp_path, text, columns=columns | {"user": "user.name"})
