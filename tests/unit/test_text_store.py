"""The store believes its ledger and nothing else; whitening is exact, deterministic and calm with
few rows.
"""

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from recmind_dist.errors import LockedError, StoreError, TextError
from recmind_dist.storage import directory_lock
from recmind_dist.text import (
    TextEncoder,
    Texts,
    TextSettings,
    TextStore,
    Whitening,
    embed_texts,
    plan_shards,
    store_path,
)
from recmind_dist.text import make_store as make_text_store
from recmind_dist.text.embed_actor import embed_shard
from recmind_dist.text.store import SIDES, default_layout
from tests.tiny_language_model import WIDTH, make_bert

DIM = 8


def make_store(
    path: Path, items: int = 20, users: int = 9
) -> tuple[TextStore, dict[str, np.ndarray]]:
    """Shards of 8 rows in chunks of 4; every third item has no text."""
    store = TextStore.create(
        path, {}, DIM, {"items": items, "users": users}, shard_rows=8, chunk_rows=4
    )
    rng = np.random.default_rng(0)
    vectors = {
        side: rng.normal(size=(n, DIM)).astype(np.float16)
        for side, n in (("items", items), ("users", users))
    }
    vectors["items"][::3] = np.nan
    for side, rows in vectors.items():
        for shard in range(store.num_shards(side)):
            start, stop = store.shard_range(side, shard)
            store.write_shard(side, shard, rows[start:stop], f"key-{shard}")
    return store, vectors


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    _, vectors = make_store(tmp_path)
    store = TextStore.open(tmp_path)
    store.verify()
    for side, rows in vectors.items():
        np.testing.assert_array_equal(store.read_all(side), rows)
        np.testing.assert_array_equal(store.read(side, 3, 9), rows[3:9])
    picked = np.array([19, 0, 8, 7, 19])
    np.testing.assert_array_equal(store.gather("items", picked), vectors["items"][picked])
    np.testing.assert_array_equal(np.concatenate(list(store.shards("users"))), vectors["users"])
    assert (store.dim, store.num_rows("items"), store.num_shards("items")) == (DIM, 20, 3)


def test_empty_side_is_an_empty_array(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path, users=0)
    assert TextStore.open(tmp_path).read_all("users").shape == (0, DIM)
    store.verify()


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("position", [0, 40, -3])
def test_a_flipped_bit_names_its_shard(tmp_path: Path, position: int) -> None:
    store, vectors = make_store(tmp_path)
    flip(store.shard_file("items", 1), position)
    damaged = TextStore.open(tmp_path)
    np.testing.assert_array_equal(damaged.read("items", 0, 8), vectors["items"][:8])
    with pytest.raises(StoreError, match=r"shard 1 of items .*recmind embed"):
        damaged.read("items", 8, 9)
    with pytest.raises(StoreError, match="shard 1 of items"):
        damaged.verify()


def test_missing_shard_and_missing_entry_are_errors_not_fill_values(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    store.shard_file("users", 0).unlink()
    with pytest.raises(StoreError, match="shard 0 of users is missing"):
        TextStore.open(tmp_path).read_all("users")
    (tmp_path / "ledger" / "items-00002.json").unlink()
    with pytest.raises(StoreError, match="shard 2 of items has no entry"):
        TextStore.open(tmp_path).read("items", 16, 20)
    (tmp_path / "ledger" / "items-00001.json").write_text('{"rows": 8')
    with pytest.raises(StoreError, match=r"items-00001\.json: not JSON"):
        TextStore.open(tmp_path).read("items", 8, 9)


def test_a_shard_of_another_time_is_not_taken_for_this_one(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    store.shard_file("items", 1).write_bytes(store.shard_file("items", 0).read_bytes())
    with pytest.raises(StoreError, match="shard 1 of items differs from its ledger entry"):
        TextStore.open(tmp_path).read_all("items")


def test_vectors_that_cannot_be_used_are_not_written(tmp_path: Path) -> None:
    store, vectors = make_store(tmp_path)
    narrow = np.zeros((8, DIM - 1), dtype=np.float16)
    with pytest.raises(TextError, match=r"float16 \(8, 7\), not float16 \(8, 8\)"):
        store.write_shard("items", 0, narrow, "k")
    half_nan = vectors["items"][:8].copy()
    half_nan[4, 2] = np.nan
    with pytest.raises(TextError, match="row 4 is not finite"):
        store.write_shard("items", 0, half_nan, "k")
    np.testing.assert_array_equal(TextStore.open(tmp_path).read_all("items"), vectors["items"])


def test_a_store_of_other_numbers_of_rows_is_refused_and_unchanged(tmp_path: Path) -> None:
    _, vectors = make_store(tmp_path)
    with pytest.raises(
        StoreError, match=r"says width and rows .* delete .* and run `recmind embed`"
    ):
        TextStore.create(tmp_path, {}, DIM, {"items": 30, "users": 9}, shard_rows=8, chunk_rows=4)
    np.testing.assert_array_equal(TextStore.open(tmp_path).read_all("items"), vectors["items"])


def test_a_store_keeps_the_layout_that_it_was_made_with(tmp_path: Path) -> None:
    make_store(tmp_path)
    again = TextStore.create(
        tmp_path, {}, DIM, {"items": 20, "users": 9}, shard_rows=999, chunk_rows=999
    )
    assert again.shard_rows("items") == 8
    again.verify()


@pytest.mark.parametrize(
    ("num_rows", "shard_rows", "num_shards"),
    [(0, 64, 0), (100, 64, 2), (1682, 128, 14), (9999, 1024, 10), (1 << 21, 131072, 16)],
)
def test_small_sides_have_shards_for_several_workers_and_large_ones_large_shards(
    num_rows: int, shard_rows: int, num_shards: int
) -> None:
    shard, chunk = default_layout(num_rows)
    assert (shard, -(-num_rows // shard)) == (shard_rows, num_shards)
    assert shard % chunk == 0
    assert chunk == min(shard_rows, 8192)


def test_each_side_has_a_layout_of_its_own(tmp_path: Path) -> None:
    TextStore.create(tmp_path, {}, DIM, {"items": 1000, "users": 9})
    store = TextStore.open(tmp_path)
    assert store.layout("items") == ((1000, DIM), (64, DIM), (64, DIM))
    assert (store.num_shards("items"), store.num_shards("users")) == (16, 1)
    big = TextStore.create(tmp_path / "big", {}, DIM, {"items": 40_000, "users": 200_000})
    assert [big.shard_rows(side) for side in SIDES] == [4096, 16384]
    assert big.layout("users")[2] == (8192, DIM)


def test_a_store_of_schema_1_is_read(tmp_path: Path) -> None:
    """It has one layout for both sides."""
    _, vectors = make_store(tmp_path)
    meta = json.loads((tmp_path / "store.json").read_text())
    meta |= {"schema": 1, "shard_rows": 8, "chunk_rows": 4}
    (tmp_path / "store.json").write_text(json.dumps(meta))
    store = TextStore.open(tmp_path)
    store.verify()
    np.testing.assert_array_equal(store.read_all("items"), vectors["items"])
    for wrong in (None, "8", 0, {"items": 8}):
        (tmp_path / "store.json").write_text(json.dumps({**meta, "shard_rows": wrong}))
        with pytest.raises(StoreError, match="describes no layout of ours"):
            TextStore.open(tmp_path)


def test_full_disk_is_one_sentence_and_leaves_no_entry(tmp_path: Path) -> None:
    store, vectors = make_store(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # the kernel refuses the write, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        with pytest.raises(
            StoreError,
            match=rf"items/c/1/0: cannot be written \({os.strerror(errno.EFBIG)}\): free space",
        ):
            store.write_shard("items", 1, vectors["items"][8:16], "key-1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.entry("items", 1) is None
    np.testing.assert_array_equal(store.read("items", 0, 8), vectors["items"][:8])
    store.clean()
    assert not list(tmp_path.rglob("*.partial*"))
    store.write_shard("items", 1, vectors["items"][8:16], "key-1")
    TextStore.open(tmp_path).verify()


def test_foreign_or_newer_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store\.json"):
        TextStore.open(tmp_path)
    make_store(tmp_path)
    meta = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**meta, "schema": 99}))
    with pytest.raises(StoreError, match="schema version 99"):
        TextStore.open(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({**meta, "kind": "graph"}))
    with pytest.raises(StoreError, match="not that of a text store"):
        TextStore.open(tmp_path)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Texts, TextSettings, Path]:
    """A store filled in this process by a real tiny model, as an actor would."""
    monkeypatch.setattr("recmind_dist.text.store.MIN_SHARD_ROWS", 8)
    settings = TextSettings(model=str(make_bert(tmp_path / "bert")), dtype="fp32")
    texts = Texts(
        [f"space {i}" if i % 5 else None for i in range(20)], [f"war {i}" for i in range(6)]
    )
    fill(texts, settings, tmp_path)
    return texts, settings, tmp_path


def fill(texts: Texts, settings: TextSettings, cache: Path) -> list[tuple[str, int]]:
    path = store_path(texts, settings, cache)
    make_text_store(texts, settings, path)
    jobs, _ = plan_shards(texts, settings, path)
    encoder = TextEncoder.load(settings)
    for job in jobs:
        embed_shard(encoder, TextStore.open(path), job)
    return [(job.side, job.shard) for job in jobs]


def rows_of(texts: Texts, settings: TextSettings, cache: Path) -> np.ndarray:
    return TextStore.open(store_path(texts, settings, cache)).read_all("items")


def test_second_run_needs_neither_ray_nor_the_model_in_memory(
    embedded: tuple[Texts, TextSettings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, settings, cache = embedded
    monkeypatch.setattr(TextEncoder, "load", None)
    # Ray is not initialised here: an actor could not start
    report = embed_texts(texts, settings, cache)
    assert (report.embedded, report.total, report.skipped_shards) == (0, 22, 4)
    assert np.isnan(TextStore.open(report.path).read_all("items")[::5]).all()


def test_only_what_changed_is_embedded_and_the_old_texts_keep_their_store(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    texts, settings, cache = embedded
    before = rows_of(texts, settings, cache)
    changed = Texts([*texts.items[:10], "love story", *texts.items[11:]], texts.users)
    assert fill(changed, settings, cache) == [("items", 1)]
    after = rows_of(changed, settings, cache)
    moved = [row for row in range(20) if before[row].tobytes() != after[row].tobytes()]
    assert moved == [10]
    grown = Texts([*changed.items, "night"], texts.users)
    assert fill(grown, settings, cache) == [("items", 2)]
    for old in (grown, changed, texts):
        assert fill(old, settings, cache) == []
    np.testing.assert_array_equal(rows_of(texts, settings, cache), before)


def test_damage_is_not_copied_from_another_store(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    texts, settings, cache = embedded
    store = TextStore.open(store_path(texts, settings, cache))
    flip(store.shard_file("items", 0), 33)
    (store.path / "ledger" / "items-00001.json").write_text("torn")
    grown = Texts(texts.items, [*texts.users, "night"])
    assert fill(grown, settings, cache) == [("items", 0), ("items", 1), ("users", 0)]
    TextStore.open(store_path(grown, settings, cache)).verify()


def test_the_store_that_an_older_program_made_gives_its_shards(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    """Its name was the key of the encoder, without that of the texts."""
    texts, settings, cache = embedded
    path = store_path(texts, settings, cache)
    path.rename(path.with_name(path.name.partition("-")[0]))
    assert fill(texts, settings, cache) == []
    TextStore.open(path).verify()


def test_planning_changes_nothing(embedded: tuple[Texts, TextSettings, Path]) -> None:
    """Whoever plans may not hold the lock: another run may be extracting into the store."""
    texts, settings, cache = embedded
    path = store_path(texts, settings, cache)
    changed = Texts(texts.items[:9], texts.users)
    stamps = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert [(job.side, job.shard) for job in plan_shards(changed, settings, path)[0]] == [
        ("items", 1),
        ("items", 2),
    ]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == stamps


def test_damage_is_mended_by_embedding_only_that_shard(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    texts, settings, cache = embedded
    store = TextStore.open(store_path(texts, settings, cache))
    before = store.read_all("items")
    flip(store.shard_file("items", 0), 33)
    store.shard_file("users", 0).unlink()
    (store.path / "items" / "c" / "1" / "0.1234.partial").write_bytes(b"torn")
    assert fill(texts, settings, cache) == [("items", 0), ("users", 0)]
    again = TextStore.open(store.path)
    again.verify()
    np.testing.assert_array_equal(again.read_all("items"), before)
    assert not list(store.path.rglob("*.partial"))


def test_two_extractions_into_one_store_are_refused(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    texts, settings, cache = embedded
    more = Texts([*texts.items, "one more"], texts.users)
    with directory_lock(store_path(more, settings, cache)), pytest.raises(LockedError):
        embed_texts(more, settings, cache)


def test_a_run_with_nothing_to_embed_needs_no_lock(
    embedded: tuple[Texts, TextSettings, Path],
) -> None:
    """Runs of one study start together on one store."""
    texts, settings, cache = embedded
    with directory_lock(store_path(texts, settings, cache)):
        assert embed_texts(texts, settings, cache).embedded == 0


def test_equal_texts_are_encoded_once(
    embedded: tuple[Texts, TextSettings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings, cache = embedded
    texts = Texts(["king"] * 4 + [None] + ["queen"] * 3, [])
    encoder = TextEncoder.load(settings)
    seen: list[str] = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts, n: seen.extend(texts) or encode(texts, n))
    path = store_path(texts, settings, cache / "other")
    make_text_store(texts, settings, path)
    jobs, _ = plan_shards(texts, settings, path)
    for job in jobs:
        embed_shard(encoder, TextStore.open(path), job)
    assert seen == ["king", "queen"]
    rows = TextStore.open(path).read_all("items")
    assert rows.shape == (8, WIDTH)
    assert (rows[0] == rows[3]).all()
    assert not (rows[0] == rows[5]).all()
    assert np.isnan(rows[4]).all()


def whitening_store(path: Path, rows: int, dim: int = 16) -> TextStore:
    rng = np.random.default_rng(1)
    scale = np.linspace(3, 0.2, dim)
    store = TextStore.create(path, {}, dim, {"items": rows + 5, "users": 3}, 64, 32)
    items = (
        rng.normal(size=(rows + 5, dim)) * scale @ np.linalg.qr(rng.normal(size=(dim, dim)))[0] + 2
    ).astype("f2")
    items[:5] = np.nan
    for shard in range(store.num_shards("items")):
        start, stop = store.shard_range("items", shard)
        store.write_shard("items", shard, items[start:stop], "k")
    store.write_shard("users", 0, np.full((3, dim), np.nan, dtype=np.float16), "k")
    return store


def test_whitened_rows_are_centred_uncorrelated_and_of_unit_mean_square(tmp_path: Path) -> None:
    store = whitening_store(tmp_path, 2000)
    rows = store.read_all("items")
    map_ = Whitening.fit(store, eps_rel=0.0)
    white = map_.apply("items", rows)
    assert white.dtype == np.float32
    assert (white[:5] == 0).all()
    np.testing.assert_allclose(white[5:].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(white[5:].T @ white[5:] / 2000, np.eye(16) / 16, atol=1e-4)
    reduced = Whitening.fit(store, 4).apply("items", rows)
    assert reduced.shape == (2005, 4)
    assert (map_.apply("users", store.read_all("users")) == 0).all()
    for components in (None, 0, 4):
        out = Whitening.fit(store, components).apply("items", rows)[5:]
        assert np.isclose((out**2).sum(1).mean(), 1.0, atol=1e-3), components
    scaled = Whitening.fit(store, None).apply("items", rows)[5:]
    raw = rows[5:].astype(np.float32)
    np.testing.assert_allclose(scaled, raw / np.sqrt((raw**2).sum(1).mean()), atol=1e-4)
    with pytest.raises(TextError, match="text_components: 17: the text vectors have 16"):
        Whitening.fit(store, 17)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_few_rows_are_regularised(tmp_path: Path, rows: int) -> None:
    store = whitening_store(tmp_path, rows)
    map_ = Whitening.fit(store)
    assert np.isfinite(map_.matrix["items"]).all()
    # an unseen row must not be blown up by directions in which the few rows do not differ
    unseen = np.random.default_rng(3).normal(size=(50, 16)).astype(np.float32) * 2 + 2
    assert np.abs(map_.apply("items", unseen)).max() < 20


def test_whitening_is_deterministic_and_survives_disk(tmp_path: Path) -> None:
    store = whitening_store(tmp_path / "store", 300)
    map_, again = (
        Whitening.fit(store, 8),
        Whitening.fit(TextStore.open(tmp_path / "store"), 8),
    )
    np.testing.assert_array_equal(map_.matrix["items"], again.matrix["items"])
    map_.save(tmp_path / "whitening.safetensors")
    loaded = Whitening.load(tmp_path / "whitening.safetensors")
    np.testing.assert_array_equal(loaded.matrix["users"], map_.matrix["users"])
    np.testing.assert_array_equal(loaded.mean["items"], map_.mean["items"])
    assert loaded.dim == 8
    (tmp_path / "whitening.safetensors").write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"whitening\.safetensors: sha256 differs"):
        Whitening.load(tmp_path / "whitening.safetensors")
    (tmp_path / "SHA256SUMS").unlink()  # as older programs left it
    with pytest.raises(StoreError, match=r"whitening\.safetensors: not a whitening file"):
        Whitening.load(tmp_path / "whitening.safetensors")
