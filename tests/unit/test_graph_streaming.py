"""A log prepared block by block is the graph that it is in memory."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.errors import DataError
from recmind_dist.graph import GraphSettings, prepare_graph
from recmind_dist.ingest import DatasetSettings, id_codes, ingest_dataset
from recmind_dist.ingest import spill as spill_module
from recmind_dist.ingest.id_codes import IdCodes
from tests.processes import Program


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte would hold these logs whole: rows are said to take more than they do, so that
    there are many blocks.
    """
    monkeypatch.setattr(spill_module, "BYTES_A_ROW", 20_000)


def log_of(rows: int, seed: int = 0) -> pl.DataFrame:
    """A log with repeats, ties in time, users of one row, ids that are numbers and ids that are
    not.
    """
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 60, rows)
    return pl.DataFrame(
        {
            "user": [f"u{u}" if u % 3 else str(u) for u in users] + ["lonely"],
            "item": [f"i{i}" for i in rng.zipf(1.4, rows) % 40] + ["i0"],
            "time": [*rng.integers(0, 50, rows).tolist(), 7],
            "rating": [*rng.integers(1, 6, rows).astype(float).tolist(), 5.0],
        }
    )


def prepared(
    home: Path, frame: pl.DataFrame, memory_mb: int, graph: dict[str, Any], **dataset: Any
) -> tuple[Path, Path]:
    home.mkdir(parents=True)
    frame.write_parquet(home / "log.parquet", row_group_size=97)
    (home / "items.jsonl").write_text(
        "\n".join(json.dumps({"id": f"i{i}", "title": f"t {i}"}) for i in range(45))
    )
    settings = DatasetSettings.model_validate(
        {
            "name": "s",
            "interactions": home / "log.parquet",
            "items": home / "items.jsonl",
            "memory_mb": memory_mb,
            **dataset,
        }
    )
    data = ingest_dataset(settings, home / "cache")
    return data, prepare_graph(data, GraphSettings.model_validate(graph), home / "cache", memory_mb)


@pytest.mark.parametrize("repeats", ["first", "last"])
@pytest.mark.parametrize(
    "graph",
    [
        {"split": "leave-one-out"},
        {"split": "ratio", "test_share": 0.2, "valid_share": 0.1, "partition": "range"},
    ],
)
def test_blocks_give_the_same_files(tmp_path: Path, repeats: str, graph: dict[str, Any]) -> None:
    frame = log_of(3000)
    more: dict[str, Any] = {"repeats": repeats, "k_core": 4, "min_rating": 2.0}
    at_once, streamed = (prepared(tmp_path / str(mb), frame, mb, graph, **more) for mb in (0, 1))
    manifests = [
        json.loads((data / "manifest.json").read_text()) for data, _ in (at_once, streamed)
    ]
    assert manifests[0]["counts"] == manifests[1]["counts"]
    assert manifests[0]["key"] == manifests[1]["key"]
    assert manifests[0]["counts"]["filtered_by_k_core"] > 0
    rows = [
        pl.read_parquet(data / "interactions.parquet").sort("row")
        for data, _ in (at_once, streamed)
    ]
    assert rows[0].equals(rows[1])
    names = sorted(path.name for path in at_once[1].iterdir())
    assert names == sorted(path.name for path in streamed[1].iterdir())
    for name in names:
        first, second = (folder / name for folder in (at_once[1], streamed[1]))
        if name.endswith(".npy"):
            np.testing.assert_array_equal(np.load(first), np.load(second), err_msg=name)
        elif name.endswith(".parquet"):
            assert pl.read_parquet(first).equals(pl.read_parquet(second)), name
    graphs = [
        json.loads((folder / "manifest.json").read_text()) for _, folder in (at_once, streamed)
    ]
    for manifest in graphs:
        del manifest["files"], manifest["manifest_sha256"]
    assert graphs[0] == graphs[1]
    leftovers = [
        path.name
        for path in (tmp_path / "1" / "cache").rglob("*")
        if "partial" in path.name or path.name[0] == "."
    ]
    assert leftovers == []


def test_bad_rows_are_quarantined_by_their_row(tmp_path: Path) -> None:
    frame = log_of(400).with_columns(
        user=pl.when(pl.int_range(pl.len()) == 250).then(None).otherwise("user")
    )
    found = [prepared(tmp_path / str(mb), frame, mb, {}, max_bad_rows=1)[0] for mb in (0, 1)]
    lines = [json.loads((data / "quarantine.jsonl").read_text())["line"] for data in found]
    assert lines == [251, 251]
    with pytest.raises(DataError, match=r"log\.parquet:251: no user"):
        prepared(tmp_path / "strict", frame, 1, {})


def test_without_times_the_split_is_drawn_and_float_ids_are_numbers(tmp_path: Path) -> None:
    frame = (
        log_of(500)
        .drop("time")
        .with_columns(user=pl.Series(np.arange(501) % 50).cast(pl.Float64).cast(pl.String))
    )
    found = [prepared(tmp_path / str(mb), frame, mb, {}) for mb in (0, 1)]
    for name in ("indices.npy", "time_rank.npy", "test_indices.npy"):
        np.testing.assert_array_equal(*(np.load(graph / name) for _, graph in found))
    in_file_order = frame.with_columns(time=pl.int_range(pl.len()))
    _, timed = prepared(tmp_path / "timed", in_file_order, 0, {})
    tested = [np.load(graph / "test_indices.npy") for graph in (timed, found[0][1])]
    assert not np.array_equal(*tested)
    users = [pl.read_parquet(graph / "users.parquet")["id"].to_list() for _, graph in found]
    assert users[0] == users[1] == [str(k) for k in range(50)]


@pytest.mark.parametrize(
    ("graph", "dataset", "word"),
    [
        ({"split": "global-time", "test_share": 0.1}, {}, "global-time is not streamed"),
        ({"partition": "metis"}, {}, "metis holds the whole graph"),
        ({"withhold_items": 0.1}, {}, "withhold_items is not streamed"),
        ({}, {"k_core": 5000}, "leaves no interaction"),
    ],
)
def test_what_is_not_streamed_is_refused_with_what_to_do(
    tmp_path: Path, graph: dict[str, Any], dataset: dict[str, Any], word: str
) -> None:
    with pytest.raises(DataError, match=word):
        prepared(tmp_path / "x", log_of(300), 1, graph, **dataset)
    assert not list((tmp_path / "x" / "cache").rglob("graph-*"))


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    settings = DatasetSettings.model_validate(
        {"name": "s", "interactions": tmp_path / "log.csv", "memory_mb": 1}
    )
    with pytest.raises(DataError, match="streams only Parquet logs"):
        ingest_dataset(settings, tmp_path / "cache")


@settings(max_examples=50, deadline=None)
@given(batches=st.lists(st.lists(st.text(max_size=20)), max_size=6))
def test_codes_count_distinct_ids_in_order_of_first_sight(batches: list[list[str]]) -> None:
    codes, seen = IdCodes(), dict[str, int]()
    for batch in batches:
        expected = [seen.setdefault(text, len(seen)) for text in batch]
        assert codes.of(pl.Series(batch, dtype=pl.String)).tolist() == expected
    assert codes.names().to_list() == list(seen)
    assert codes.count == len(seen)


def test_the_table_of_codes_grows() -> None:
    ids = pl.Series([f"user-number-{k}" for k in range(200_000)])
    codes = IdCodes()
    codes.of(ids)
    assert (codes.of(ids.reverse()) == np.arange(200_000)[::-1]).all()


def test_ids_whose_hashes_collide_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of two bits, so that nearly all ids collide: also those of one batch, and those met
    after the table grew.
    """
    whole = id_codes._hashes
    monkeypatch.setattr(id_codes, "_hashes", lambda *texts: whole(*texts) & np.uint64(3))
    monkeypatch.setattr(id_codes, "_INITIAL_SLOTS", 8)
    names = [*(f"user-{k}" for k in range(300)), "", "é", "user-1 ", "\0", "\0\0", "user-1" * 40]
    codes = IdCodes()
    codes.of(pl.Series(names[:100]))
    for start in range(0, len(names), 60):
        batch = names[start : start + 90]
        assert all(
            names[code] == name
            for code, name in zip(codes.of(pl.Series(batch * 2)), batch * 2, strict=True)
        )
    assert codes.count == len(names)
    assert codes.names().to_list() == names


def test_nobody_can_tell_which_ids_collide() -> None:
    """Tables hash under keys of their own, by SipHash: its authors' test vector."""
    text = pl.Series([bytes(range(15)).decode()])
    key = np.frombuffer(bytes(range(16)), np.uint64)
    assert id_codes._hashes(*id_codes._bytes_of(text), key)[0] == 0xA129CA6149BE45E5
    assert (IdCodes()._key != IdCodes()._key).any()


def prepare_with_few_files(home: Path, limit: int) -> None:
    """Rows are said to take so much that four of them, those of one user, fill a block."""
    spill_module.BYTES_A_ROW = 1 << 18
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    log = {"name": "s", "interactions": home / "log.parquet", "memory_mb": 1}
    data = ingest_dataset(DatasetSettings.model_validate(log), home / "1")
    print(prepare_graph(data, GraphSettings(), home / "1", 1))


@pytest.mark.parametrize(("limit", "num_users"), [(96, 90), (1024, 1020)])
def test_more_blocks_than_files_may_be_open_are_dealt_all_the_same(
    tmp_path: Path, limit: int, num_users: int
) -> None:
    """The second case is the usual `ulimit -n`, with as many blocks as it once died at."""
    rows = np.random.default_rng(0).permutation(4 * num_users)
    columns = {"user": rows // 4, "item": rows % 37, "time": rows % 11}
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    program = Program(prepare_with_few_files, tmp_path, limit)
    assert program.wait() == 0, program.stderr[-2000:]
    log = {"name": "s", "interactions": tmp_path / "log.parquet"}
    data = ingest_dataset(DatasetSettings.model_validate(log), tmp_path / "0")
    at_once = prepare_graph(data, GraphSettings(), tmp_path / "0")
    graphs = [Path(program.stdout.splitlines()[-1]), at_once]
    for name in ("indptr.npy", "indices.npy", "time_rank.npy", "test_indices.npy"):
        np.testing.assert_array_equal(*(np.load(graph / name) for graph in graphs), err_msg=name)
