"""The log, the items and the users are read by the same settings, and a given split by several
files.
"""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset

HEAD = ("key", "word")
ROWS = [("é1", 'say "hi"; twice'), ("b2", "a, b"), ("007", "plain")]
"""Two columns: user and item of a log, id and text of a table."""


def ingest(tmp_path: Path, **settings: Any) -> Path:
    made = DatasetSettings.model_validate({"name": "toy", **settings})
    return ingest_dataset(made, tmp_path / "cache")


def written(rows: list[tuple[str, ...]], **form: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", **form).writerows(rows)
    return out.getvalue()


def file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def no_header(to: Path) -> dict[str, Any]:
    return {"path": file(to / "in.csv", written(ROWS)), "has_header": False}


def semicolons(to: Path) -> dict[str, Any]:
    text = written([HEAD, *ROWS], delimiter=";")
    return {"path": file(to / "in.csv", text), "separator": ";"}


def two_colons(to: Path) -> dict[str, Any]:
    text = "".join("::".join(row) + "\n" for row in (HEAD, *ROWS))
    return {"path": file(to / "in.dat", text), "format": "csv", "separator": "::"}


def latin(to: Path) -> dict[str, Any]:
    data = written([HEAD, *ROWS]).encode("latin-1")
    return {"path": file(to / "in.csv", data), "encoding": "latin-1"}


def escaped(to: Path) -> dict[str, Any]:
    form = {"doublequote": False, "escapechar": "\\", "quoting": csv.QUOTE_ALL}
    return {"path": file(to / "in.csv", written([HEAD, *ROWS], **form)), "escape": "\\"}


def gzipped(to: Path) -> dict[str, Any]:
    return {"path": file(to / "in.csv.gz", gzip.compress(written([HEAD, *ROWS]).encode()))}


def zstd(to: Path) -> dict[str, Any]:
    data = written([HEAD, *ROWS]).encode()
    return {"path": file(to / "in.tsv.zst", pa.compress(data, "zstd", asbytes=True))} | {
        "format": "csv"
    }


def folder(to: Path) -> dict[str, Any]:
    file(to / "in" / "part-0.csv", written([HEAD, *ROWS[:2]]))
    file(to / "in" / "part-1.csv", written([HEAD, *ROWS[2:]]))
    file(to / "in" / "_SUCCESS", "")
    return {"path": to / "in"}


def pattern(to: Path) -> dict[str, Any]:
    return {"path": folder(to)["path"] / "part-*.csv"}


def dicts(to: Path) -> dict[str, Any]:
    lines = "".join(f"{dict(zip(HEAD, row, strict=True))!r}\n" for row in ROWS)
    return {"path": file(to / "in.json", lines), "format": "python"}


FORMS: list[Callable[[Path], dict[str, Any]]] = [
    *(no_header, semicolons, two_colons, latin, escaped),
    *(gzipped, zstd, folder, pattern, dicts),
]
SIDES = ("interactions", "items", "users")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_log_the_items_and_the_users_are_read_alike(
    tmp_path: Path, side: str, form: Callable[[Path], dict[str, Any]]
) -> None:
    settings = form(tmp_path / "given")
    one, other = (0, 1) if settings.get("has_header") is False else HEAD
    if side == "interactions":
        settings["columns"] = {"user": one, "item": other}
        made = ingest(tmp_path, interactions=settings)
        frame = pl.read_parquet(made / "interactions.parquet").sort("row").select("user", "item")
    else:
        log = file(tmp_path / "log.csv", written([("user", "item"), *((k, k) for k, _ in ROWS)]))
        table = {**settings, "id": one, "fields": [other]}
        made = ingest(tmp_path, interactions=log, **{side: table})
        frame = pl.read_parquet(made / f"{side}.parquet")
    assert frame.rows() == ROWS


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("form", "setting"),
    [(latin, "encoding"), (escaped, r'escape: "\\\\"'), (semicolons, 'separator: ";"')],
    ids=["latin", "escaped", "semicolons"],
)
def test_what_a_file_needs_is_named_by_the_key_of_its_side(
    tmp_path: Path, side: str, form: Callable[[Path], dict[str, Any]], setting: str
) -> None:
    path = form(tmp_path / "given")["path"]
    log = file(tmp_path / "log.csv", "user,item\nb2,b2\n")
    named = {"interactions": log} | {side: path}
    if side == "interactions":
        named[side] = {"path": path, "columns": dict(zip(("user", "item"), HEAD, strict=True))}
    else:
        named[side] = {"path": path, "id": "key"}
    with pytest.raises(DataError, match=rf"in\.csv:\d: .*set (dataset\.{side}\.)?{setting}"):
        ingest(tmp_path, **named)


@pytest.mark.parametrize(
    ("logged", "filed"),
    [("0100", "100"), ("Ann", "ann"), (" 7", "7"), ("x\u200b", "x"), ("5", "5.00")],
)
def test_users_that_differ_by_spelling_alone_are_told(
    tmp_path: Path, logged: str, filed: str
) -> None:
    log = file(tmp_path / "log.csv", written([("user", "item"), ("a", "i"), (logged, "i")]))
    table = file(tmp_path / "users.csv", written([("id", "trade"), ("a", "cook"), (filed, "king")]))
    lines = dataset_summary(ingest(tmp_path, interactions=log, users=table))
    [told] = [line for line in lines if "user ids of the log are in the user file but for" in line]
    assert told.startswith("warning: 1 user ids")
    assert f"{logged!r} and {filed!r}" in told
    assert "dataset.user_ids: stripped" in told
    file(table, written([("id", "trade"), (filed, "king")]))
    log = file(log, written([("user", "item"), (logged, "i")]))
    with pytest.raises(DataError, match=r"no user id in common with the log.*write them alike"):
        ingest(tmp_path, interactions=log, users=table)


def split_files(tmp_path: Path) -> dict[str, Any]:
    """A log, two files of validation in a folder, and two of tests, of which one is packed."""

    def rows(*pairs: str) -> str:
        return "user,item\n" + "".join(f"{pair[0]},{pair[1]}\n" for pair in pairs)

    file(tmp_path / "valid" / "1.csv", rows("ad"))
    file(tmp_path / "valid" / "2.csv", rows("bd"))
    return {
        "interactions": file(tmp_path / "train.csv", rows("ax", "ay", "bx")),
        "valid": tmp_path / "valid",
        "test": [
            file(tmp_path / "t1.csv", rows("az")),
            file(tmp_path / "t2.csv.gz", gzip.compress(rows("bz", "by").encode())),
        ],
    }


def test_a_given_split_may_be_of_several_files(tmp_path: Path) -> None:
    made = ingest(tmp_path, **split_files(tmp_path))
    frame = pl.read_parquet(made / "interactions.parquet").sort("row")
    found = [(user + item, split) for user, item, split in frame["user", "item", "split"].rows()]
    assert found == [
        *(("ax", "train"), ("ay", "train"), ("bx", "train")),
        *(("ad", "valid"), ("bd", "valid")),
        *(("az", "test"), ("bz", "test"), ("by", "test")),
    ]


def test_a_file_of_two_parts_of_a_given_split_is_refused(tmp_path: Path) -> None:
    given = split_files(tmp_path)
    both = [*given["test"], given["interactions"]]
    with pytest.raises(DataError, match=r"train\.csv: named in dataset\.interactions\.path and in"):
        ingest(tmp_path, **given | {"test": both})
    with pytest.raises(DataError, match=r"1\.csv: named in dataset\.valid and in dataset\.test"):
        ingest(tmp_path, **given | {"test": [tmp_path / "valid" / "1.csv"]})
    with pytest.raises(DataError, match=r"t1\.csv: named twice in dataset\.test"):
        ingest(tmp_path, **given | {"test": [given["test"][0]] * 2})
    with pytest.raises(ValidationError, match="no file named: give at least one path, or leave"):
        ingest(tmp_path, **given | {"test": []})
