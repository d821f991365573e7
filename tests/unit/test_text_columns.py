"""Texts in mapped files are the texts of lists, with the same keys, in the memory of a block."""

import copy
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recmind_dist.errors import StoreError
from recmind_dist.storage import content_key
from recmind_dist.text import Texts, TextSettings, build_texts, columns
from recmind_dist.text.columns import MappedTexts, has_text, num_texts, part_of, spooled, take
from tests.graphs import make_graph, random_pairs

TEXTS = ["a", None, 'quote " and ü', "", None, "line\nbreak", "b"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 3)


def mapped(texts: list[str | None], folder: Path) -> MappedTexts:
    found = spooled((texts[k : k + 3] for k in range(0, len(texts), 3)), folder)
    assert isinstance(found, MappedTexts)
    return found


def test_a_mapped_column_is_the_list(tmp_path: Path) -> None:
    found = mapped(TEXTS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert found == TEXTS
    assert [*found] == TEXTS
    assert [found[k] for k in range(len(TEXTS))] == TEXTS
    assert found[1:6] == TEXTS[1:6]
    assert found[5:3] == []
    assert found != TEXTS[:-1]
    assert found != [*TEXTS[:-1], "c"]
    sent = copy.copy(part_of(found, 2, 6))  # as a pickle on its way to an actor
    assert isinstance(sent, list)
    assert sent == TEXTS[2:6]
    for column in (found, TEXTS):
        assert num_texts(column) == 5
        assert has_text(column).tolist() == [text is not None for text in TEXTS]
        assert take(column, np.array([6, 0, 0, 4])) == ["b", "a", "a", None]


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_a_key_made_block_by_block_is_that_of_the_whole(count: int, tmp_path: Path) -> None:
    items, users = TEXTS[:count], TEXTS[::-1]
    expected = content_key([items, users]), content_key(["encoder", items, users])
    for column in (items, mapped(items, tmp_path)):
        texts = Texts(column, users)
        assert (texts.key, texts.key_with("encoder")) == expected


def test_rendered_texts_are_the_same_in_files(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(20, 10, 80), 20, 10)
    settings = TextSettings(model="none", user_template="{id}: {items}", user_max_tokens=27)
    for users in (True, False):
        held = build_texts(graph, settings, users=users)
        spool = build_texts(graph, settings, users=users, spool=tmp_path / "absent")
        assert isinstance(held.users, list)
        assert isinstance(spool.users, MappedTexts)
        assert (spool.items, spool.users) == (held.items, held.users)
        assert spool.key == held.key


def peak_of(count: int, folder: Path) -> int:
    """Bytes that Python holds at most while texts are written, keyed and read by shards."""

    def blocks() -> Iterator[list[str | None]]:
        for first in range(0, count, columns.BLOCK_ROWS):
            yield [f"text {k} " * 5 for k in range(first, first + columns.BLOCK_ROWS)]

    tracemalloc.start()
    texts = Texts(spooled(blocks(), folder), [])
    assert len(texts.key) == 64
    assert texts.count == count
    parts = [part_of(texts.items, start, start + 500) for start in range(0, count, 500)]
    assert sum(len([*part]) for part in parts) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 500)
    before = pa.total_allocated_bytes()
    few, many = peak_of(2_000, tmp_path), peak_of(20_000, tmp_path)
    assert many < 1.5 * few
    assert pa.total_allocated_bytes() - before < 100_000


def test_a_saved_file_is_mapped_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.arrow"
    for items in (TEXTS, TEXTS[:2]):  # the second time the file is replaced
        Texts(mapped(items, tmp_path), TEXTS[:4]).save(path)
        for verify in (True, False):
            found = Texts.load(path, verify)
            assert isinstance(found.items, MappedTexts)
            assert found == Texts(items, TEXTS[:4])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["SHA256SUMS", "texts.arrow"]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"texts\.arrow: sha256 differs"):
        Texts.load(path)
    path.write_bytes(b"{}")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(StoreError, match=r"texts\.arrow: not a file of texts"):
        Texts.load(path)
