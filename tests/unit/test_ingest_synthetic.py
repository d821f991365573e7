"""The synthetic generator: same seed, same bytes; degrees and communities as configured."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from recmind_dist.ingest import SyntheticSettings, synthesize, synthetic
from recmind_dist.storage import sha256_file

FILES = ("interactions.parquet", "items.parquet", "users.parquet")
SHAPE = SyntheticSettings(num_users=400, num_items=200, num_edges=20_000, num_communities=5, seed=7)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    hashes = [
        [sha256_file(synthesize(shape, tmp_path / name) / file) for file in FILES]
        for name, shape in (("a", SHAPE), ("b", SHAPE), ("c", SHAPE.model_copy(update={"seed": 8})))
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0][:2] != hashes[2][:2]


def test_edges_do_not_depend_on_the_size_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pl.read_parquet(synthesize(SHAPE, tmp_path / "whole") / "interactions.parquet")
    monkeypatch.setattr(synthetic, "CHUNK", 3000)
    assert pl.read_parquet(synthesize(SHAPE, tmp_path / "pieces") / "interactions.parquet").equals(
        whole
    )


def test_a_directory_that_is_there_stays_untouched(tmp_path: Path) -> None:
    made = synthesize(SHAPE, tmp_path / "a") / "items.parquet"
    before = made.stat().st_mtime_ns
    synthesize(SHAPE, tmp_path / "a")
    assert made.stat().st_mtime_ns == before


def test_degrees_follow_a_power_law_and_users_stay_in_their_community(tmp_path: Path) -> None:
    log = pl.read_parquet(synthesize(SHAPE, tmp_path / "a") / "interactions.parquet")
    user, item = (log[side].str.slice(1).cast(pl.Int64).to_numpy() for side in ("user", "item"))
    assert (user.min(), user.max() < 400, item.max() < 200) == (0, True, True)
    degree = np.sort(np.bincount(user, minlength=400))[::-1]
    assert degree[:40].sum() > 0.25 * len(user), "the busiest tenth has far more than a tenth"
    assert np.median(degree) < degree.mean()
    home = (user % 5 == item % 5).mean()
    assert abs(home - (0.85 + 0.15 / 5)) < 0.02
    assert log["time"].is_sorted()


def test_texts_tell_the_community_and_no_two_titles_are_alike(tmp_path: Path) -> None:
    items = pl.read_parquet(synthesize(SHAPE, tmp_path / "a") / "items.parquet")
    assert items["title"].n_unique() == 200
    for title, category in items.select("title", "category").iter_rows():
        assert sum(word in synthetic.TRADES[category] for word in title.split()) >= 3
        others = (trade for trade in synthetic.TRADES if trade != category)
        assert not any(
            word in synthetic.TRADES[trade] for trade in others for word in title.split()
        )


def test_uniform_popularity_is_uniform(tmp_path: Path) -> None:
    flat = SHAPE.model_copy(update={"power": 0.0, "loyalty": 0.0})
    log = pl.read_parquet(synthesize(flat, tmp_path / "a") / "interactions.parquet")
    degree = log["item"].value_counts()["count"].to_numpy()
    assert len(degree) == 200
    assert degree.std() < 2 * np.sqrt(degree.mean())


def test_more_communities_than_items_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_communities is more than"):
        SyntheticSettings(num_items=4, num_communities=5)
