"""Data that lack something that RecMind's defaults count on: the run trains, says what it left out
and why, and ranks no worse than plain LightGCN under the same defaults.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.ingest import SyntheticSettings, synthesize
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.run_config.load import load_run_config
from tests.bag_of_words import embed_texts
from tests.tiny_language_model import make_bert

Change = Callable[[pl.DataFrame], pl.DataFrame]
NOISE = 0.85
"""Least share of LightGCN's figure, on a few hundred users."""


@dataclass(frozen=True)
class Outcome:
    """What a run said, how it was resolved, and its test metrics."""

    said: str
    kind: str
    recent_decay: float
    metrics: dict[str, float]


PLAIN: dict[tuple[str, ...], Outcome] = {}
"""What `Shop.plain` has trained, by log and ids of items."""


class Shop:
    """A small shop in files, and runs on it by defaults alone.

    Args:
        size: of the synthetic log.
    """

    def __init__(self, home: Path, bert: Path, **size: int) -> None:
        self.home, self.bert = home, bert
        made = synthesize(
            SyntheticSettings(num_communities=size.pop("communities", 6), **size), home / "made"
        )
        self.log = pl.read_parquet(made / "interactions.parquet")
        self.items = pl.read_parquet(made / "items.parquet")

    def plain(self) -> Outcome:
        """LightGCN on this log and these items, trained once for all tests: it reads no texts."""
        key = (self.log.write_csv(), *self.items.get_column("id"))
        if key not in PLAIN:
            PLAIN[key] = self.run("lightgcn")
        return PLAIN[key]

    def run(self, variant: str = "recmind", *more: str) -> Outcome:
        self.log.write_csv(self.home / "log.csv")
        lines = [json.dumps(row) for row in self.items.iter_rows(named=True)]
        (self.home / "items.jsonl").write_text("\n".join(lines) + "\n")
        data = {"name": "shop", "interactions": "log.csv", "items": "items.jsonl"}
        if self.items.is_empty():
            del data["items"]
        config = self.home / "shop.yaml"
        config.write_text(json.dumps({"dataset": data, "text": {"model": str(self.bert)}}))
        words = [f"run_dir=runs/{variant}", "checkpoint.keep_last=1", *more]
        said: list[str] = []
        run = train_in_process(load_run_config(config, words, variant), said.append)
        pipeline = Pipeline.of_run(run.path, said.append)
        model = pipeline.config.model.model_dump()
        metrics = pipeline.evaluate()["metrics"]
        return Outcome("\n".join(said), model["kind"], model.get("recent_decay", 0.0), metrics)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def make_shop(tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recmind_dist.pipeline.embed.embed_texts", embed_texts)
    size = {"num_users": 300, "num_items": 150, "num_edges": 5000}
    return lambda **changes: Shop(tmp_path, bert, **(size | changes))


def assert_no_worse_than_lightgcn(shop: Shop, found: Outcome) -> None:
    plain = shop.plain()
    for metric in ("recall@20", "ndcg@20"):
        assert found.metrics[metric] >= NOISE * plain.metrics[metric], (metric, found, plain)


def without_texts_of(share: float) -> Change:
    """Takes the texts of the last items away."""

    def change(items: pl.DataFrame) -> pl.DataFrame:
        known = pl.int_range(pl.len()) < round((1 - share) * items.height)
        names = ("title", "category")
        return items.with_columns(pl.when(known).then(pl.col(name)) for name in names)

    return change


def test_a_log_without_a_column_of_times(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.log = shop.log.sort("user", "item").drop("time")
    found = shop.run()
    assert (found.kind, found.recent_decay) == ("recmind", 0.0)
    assert "the log has no order (no column of times)" in found.said
    assert_no_worse_than_lightgcn(shop, found)


def test_a_log_whose_times_say_nothing(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.log = shop.log.sort("user", "item").with_columns(time=pl.lit(1_600_000_000))
    found = shop.run()
    assert (found.kind, found.recent_decay) == ("recmind", 0.0)
    assert "the log has no order (100 % of the users have a single time)" in found.said


def test_neither_texts_nor_an_order(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.items, shop.log = shop.items.clear(), shop.log.drop("time")
    found = shop.run()
    assert (found.kind, found.recent_decay) == ("recmind", 0.0)
    assert "graph alone: no item has a text; item vectors learn from the log instead" in found.said
    assert_no_worse_than_lightgcn(shop, found)
    fixed = shop.run("recmind", "model.item_offsets=false", "run_dir=runs/fixed")
    assert fixed.kind == "lightgcn"
    assert "graph alone, LightGCN: no item has a text" in fixed.said
    assert fixed.metrics == shop.plain().metrics


@pytest.mark.parametrize("missing", ["file", "texts"])
def test_no_texts(make_shop: Callable[..., Shop], missing: str) -> None:
    shop = make_shop()
    shop.items = shop.items.clear() if missing == "file" else without_texts_of(1.0)(shop.items)
    found = shop.run()
    assert (found.kind, found.recent_decay) == ("recmind", 0.6)
    assert "graph alone: no item has a text; item vectors learn from the log" in found.said
    assert_no_worse_than_lightgcn(shop, found)


def test_no_texts_where_neighbourhoods_are_sampled(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.items = shop.items.clear()
    found = shop.run("recmind", "sampler.propagation=sampled")
    assert (found.kind, found.recent_decay) == ("recmind", 0.6)
    assert_no_worse_than_lightgcn(shop, found)


def test_all_texts_equal(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.items = shop.items.with_columns(title=pl.lit("a thing"), category=pl.lit("things"))
    found = shop.run()
    assert found.kind == "recmind"
    assert "graph alone: all items have the same text; item vectors learn" in found.said
    assert_no_worse_than_lightgcn(shop, found)


def test_texts_of_a_tenth_of_the_items(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    shop.items = without_texts_of(0.9)(shop.items)
    found = shop.run()
    assert found.kind == "recmind"
    assert "135 of 150 items have no text" in found.said
    assert_no_worse_than_lightgcn(shop, found)


def test_ten_users(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(num_users=10, num_items=40, num_edges=200, communities=2)
    found = shop.run()
    assert found.kind == "recmind"
    assert "batch of 8 users: 10 users" in found.said
    assert found.metrics["recall@20"] > 0


def test_one_item(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(num_users=30, num_items=1, num_edges=100, communities=1)
    found = shop.run()
    assert found.kind == "lightgcn"
    assert "all items have the same text, and 0 users have two interactions" in found.said
    assert all(value == value for value in found.metrics.values() if value is not None)


def test_every_rule_that_was_applied_stands_in_the_runs_config(
    make_shop: Callable[..., Shop],
) -> None:
    shop = make_shop()
    shop.run()
    config: Any = Pipeline.of_run(shop.home / "runs" / "recmind").config
    assert config.train.batch_size == 32
    assert config.sampler.propagation == "full"
    assert config.text.item_template == "{title}. {category}"
    assert config.model.recent_decay == 0.6
