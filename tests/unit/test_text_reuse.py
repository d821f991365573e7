"""Vectors are found again by their text, wherever ids that came later have moved its row."""

from pathlib import Path

import numpy as np
import pytest

from recmind_dist.text import Texts, TextSettings, TextStore, make_store, plan_shards, store_path
from recmind_dist.text.pool import embed_texts
from recmind_dist.text.reuse import EmbeddedTexts, gather_vectors, texts_to_embed
from tests.tiny_language_model import WIDTH, make_bert

OLD = [f"story {n}" for n in range(200)] + [None]
NEW = ["a new one", None, *OLD, "story 3"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TextSettings:
    return TextSettings(model=str(make_bert(tmp_path_factory.mktemp("bert"))), dtype="fp32")


def store_of(texts: Texts, settings: TextSettings, cache: Path, first: float) -> EmbeddedTexts:
    """A whole store in which row r has the number `first` + r."""
    store = make_store(texts, settings, store_path(texts, settings, cache))
    for job in plan_shards(texts, settings, store.path)[0]:
        start, stop = store.shard_range(job.side, job.shard)
        vectors = np.repeat(first + np.arange(start, stop, dtype=np.float16)[:, None], WIDTH, 1)
        vectors[[text is None for text in job.texts]] = np.nan
        store.write_shard(job.side, job.shard, vectors.astype(np.float16), job.content_key)
    return EmbeddedTexts(texts, store)


def test_only_texts_that_are_new_are_left_to_embed(settings: TextSettings, tmp_path: Path) -> None:
    old = store_of(Texts(OLD, ["story 1"]), settings, tmp_path, 0)
    found = texts_to_embed(Texts(NEW, ["story 2", "story 1", "story 2"]), old)
    assert found == Texts(["a new one"], ["story 2"])  # sides have budgets of tokens of their own


def test_a_store_is_made_of_others_row_by_row(settings: TextSettings, tmp_path: Path) -> None:
    texts = Texts(NEW, [])
    old = store_of(Texts(OLD, []), settings, tmp_path, 0)
    lacking = store_of(texts_to_embed(texts, old), settings, tmp_path, 500)
    path = gather_vectors(texts, settings, tmp_path, [old, lacking])
    rows = TextStore.open(path).read_all("items")[:, 0]
    np.testing.assert_array_equal(rows, [500, np.nan, *range(200), np.nan, 3])
    assert embed_texts(texts, settings, tmp_path).embedded == 0, "nothing was to be left to embed"


def test_a_shard_that_lacks_a_vector_is_not_written(settings: TextSettings, tmp_path: Path) -> None:
    texts, old = Texts(NEW, []), store_of(Texts(OLD, []), settings, tmp_path, 0)
    path = gather_vectors(texts, settings, tmp_path, [old])
    left, shards = plan_shards(texts, settings, path)
    assert [job.shard for job in left] == [0]
    assert shards > 1
