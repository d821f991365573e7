"""Bundles whose manifest is in order and whose files lie: a sentence that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.random_bundle import RandomBundle
from recmind_dist.errors import StoreError
from recmind_dist.recommend.batch import write_recommendations
from recmind_dist.recommend.bundle import KIND, SCHEMA, vector_column
from recmind_dist.recommend.recommender import load
from recmind_dist.storage import read_manifest, write_manifest

Change = Callable[[pa.Table], pa.Table]
ROWS = 20


def set_column(name: str, values: Any) -> Change:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


def history_of(item: int) -> Any:
    return pa.array([[item]] * ROWS, pa.list_(pa.int32()))


def with_missing_numbers() -> Any:
    flat = pa.array([None, *[1.0] * (9 * ROWS - 1)], pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, 9)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return RandomBundle(ROWS, ROWS, dim=4, history=5).write(tmp_path / "bundle")


def rewrite(bundle: Path, name: str, change: Change, **content: Any) -> None:
    """Changes a Parquet file and writes a manifest that is right about it."""
    manifest = read_manifest(bundle, KIND, SCHEMA)
    pq.write_table(change(pq.read_table(bundle / name)), bundle / name)
    kept = {key: value for key, value in manifest.items() if key not in ("kind", "schema", "files")}
    write_manifest(bundle, KIND, SCHEMA, {**kept, **content})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items.parquet", set_column("vector", pa.array(["x"] * ROWS))),
        ("items.parquet", set_column("vector", vector_column(np.ones((ROWS, 5), np.float32)))),
        ("items.parquet", set_column("vector", with_missing_numbers())),
        ("items.parquet", set_column("id", pa.array(range(ROWS)))),
        ("items.parquet", set_column("title", pa.array([1.5] * ROWS))),
        ("items.parquet", lambda table: table.slice(1)),
        ("items.parquet", lambda table: table.drop_columns("title")),
        ("items.parquet", lambda table: table.append_column("id", table["id"])),
        ("users.parquet", set_column("vector", vector_column(np.ones((ROWS, 8), np.float32)))),
        ("users.parquet", set_column("history", history_of(ROWS))),
        ("users.parquet", set_column("history", history_of(-1))),
        ("users.parquet", set_column("history", pa.array(["x"] * ROWS))),
        ("users.parquet", lambda table: pa.concat_tables([table, table])),
        ("users.parquet", lambda table: table.drop_columns("vector")),
    ],
)
def test_files_that_are_not_a_bundles(bundle: Path, name: str, change: Change) -> None:
    rewrite(bundle, name, change)
    for call in (
        lambda: load(bundle).recommend("u3"),
        lambda: load(bundle).recommend(users=["u3"]).to_arrow(),
        lambda: write_recommendations(load(bundle), bundle.parent / "out.parquet"),
    ):
        with pytest.raises(StoreError, match="bundle again") as error:
            call()
        assert "\n" not in str(error.value)
    assert not list(bundle.parent.glob("*out.parquet"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("degree", None), ("degree", (ROWS - 1,)), ("base", (ROWS, 3)), ("newest.1", (ROWS, 4, 1))],
)
def test_states_of_another_shape(bundle: Path, name: str, shape: tuple[int, ...] | None) -> None:
    states = load_file(bundle / "states.safetensors")
    del states[name]
    if shape is not None:
        states[name] = np.ones(shape, np.float32)
    save_file(states, bundle / "states.safetensors")
    rewrite(bundle, "items.parquet", lambda table: table)
    with pytest.raises(StoreError, match=rf"states\.safetensors: {name} is .* bundle again$"):
        load(bundle).recommend(history=["i1"])


@pytest.mark.parametrize(
    "content", [{"views": [["graph"]]}, {"views": 3}, {"num_items": "many"}, {"num_users": None}]
)
def test_a_manifest_that_says_something_else(bundle: Path, content: dict[str, Any]) -> None:
    rewrite(bundle, "items.parquet", lambda table: table, **content)
    with pytest.raises(StoreError, match="manifest"):
        load(bundle)


def test_a_user_without_a_vector_is_left_out(bundle: Path, tmp_path: Path) -> None:
    """So is one of whom neither items nor a text are known."""
    vectors = np.ones((ROWS, 9), np.float32)
    vectors[3] = np.nan
    rewrite(bundle, "users.parquet", set_column("vector", vector_column(vectors)))
    rankings = load(bundle).recommend(users=["u2", "u3"])
    assert (rankings.user_ids, rankings.left_out) == (
        ["u2"],
        {"u3": "no interaction and no text"},
    )
    written = write_recommendations(load(bundle), tmp_path / "out.parquet", users=["u2", "u3", "x"])
    assert written.num_users == 1
    assert written.left_out == {"u3": "no interaction and no text", "x": "not in random"}
