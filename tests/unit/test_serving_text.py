"""Texts that a server ranks by: read by the bundle's language model, beside other requests."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.recommender import Recommender
from recmind_dist.recommend.text_query import TextQuery
from recmind_dist.serving.bodies import RecommendBody
from recmind_dist.serving.current import Current, open_served
from recmind_dist.serving.metrics import Metrics
from recmind_dist.serving.rankings import Rankings
from recmind_dist.serving.settings import Limits
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.state import Cursor
from tests.tiny_language_model import WIDTH, make_bert
from tests.training_runs import config_of, make_inputs


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a language model."""
    home = tmp_path_factory.mktemp("texts")
    config = config_of(
        home,
        "run",
        model={"kind": "recmind", "embedding_dim": 8, "views": "all"},
        text={"model": str(make_bert(home / "bert")), "dtype": "fp32"},
        alignment={"weight": 0},
        sampler={"propagation": "full", "num_neighbors": [4, 4]},
    )
    shard = ModelShard(config, make_inputs(home, text_dim=WIDTH), DistContext.alone())
    write_bundle(shard, Cursor(norm_exponent=0.0), {}, b"{}", home / "shop", text_model=True)
    return home / "shop"


def test_texts_are_ranked_beside_users_and_a_blank_one_fails_alone(shop: Path) -> None:
    bundle = Bundle.open(shop)
    query, served = TextQuery(bundle), open_served(shop)
    assert served.about()["reads_text"] is True

    async def run() -> list[Any]:
        rankings = Rankings(Current(shop, served), Limits(), Metrics())
        texts = [RecommendBody(text=text, k=5) for text in ("a lamp", " \x00 ", "some wire")]
        bodies = [*texts, RecommendBody(user="3", k=5)]
        asked = (rankings.ask(body) for body in bodies)
        found = await asyncio.gather(*asked, return_exceptions=True)
        rankings.close()
        return found

    lamp, blank, wire, user = asyncio.run(run())
    assert isinstance(blank, DataError)
    recommender = Recommender(bundle, query)
    for reply, text in ((lamp, "a lamp"), (wire, "some wire")):
        expected = recommender.recommend(text=text, k=5)
        found = reply["results"][0]
        assert [item["item_id"] for item in found["items"]] == [item.item_id for item in expected]
        assert found["items"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
        assert "gates" not in found
    assert user["results"][0]["gates"]
