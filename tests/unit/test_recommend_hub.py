"""A bundle goes to a hub and comes back, by the hub's own client, without its users."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.config.yaml import load_yaml
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError, StoreError
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.hub import HubRecommender
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.state import Cursor
from tests.hub_endpoint import Hub, answering_hub
from tests.training_runs import config_of, make_inputs

CONFIG = b"run_dir: /home/somebody/run\nmodel: {kind: recmind}\ntext: {model: /home/somebody/m}\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    home = tmp_path_factory.mktemp("hub")
    config = config_of(home, "run", model={"kind": "recmind", "embedding_dim": 8})
    shard = ModelShard(config, make_inputs(home), DistContext.alone())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (shard.table.weight, *shard.model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    write_bundle(shard, Cursor(norm_exponent=0.0), {}, CONFIG, home / "bundle")
    return Bundle.open(home / "bundle")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with answering_hub(monkeypatch) as found:
        yield found


def test_a_directory_has_the_items_and_no_user(bundle: Bundle, tmp_path: Path) -> None:
    HubRecommender.of(bundle.path).save_pretrained(tmp_path / "saved")
    saved = HubRecommender.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(saved.bundle.item_vectors, bundle.item_vectors)
    assert saved.bundle.users.ids == []
    with pytest.raises(DataError, match="user '3' is not in toy"):
        saved.recommend("3")
    ours = HubRecommender.of(bundle.path).recommend_from(["1", "2"], 5)
    assert [i.item_id for i in saved.recommend_from(["1", "2"], 5)] == [i.item_id for i in ours]
    config = (tmp_path / "saved" / "config.yaml").read_text()
    assert "somebody" not in config
    assert load_yaml(tmp_path / "saved" / "config.yaml").values["model"] == {"kind": "recmind"}


def test_users_go_along_where_one_says_so(bundle: Bundle, tmp_path: Path) -> None:
    HubRecommender.of(bundle.path).save_pretrained(tmp_path / "saved", with_users=True)
    saved = HubRecommender.from_pretrained(tmp_path / "saved")
    assert saved.bundle.users.ids == bundle.users.ids


def test_a_directory_of_other_files_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        HubRecommender.of(bundle.path).save_pretrained(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_it_is_pushed_to_a_hub_and_fetched_from_there(
    bundle: Bundle, tmp_path: Path, hub: Hub
) -> None:
    url = HubRecommender.of(bundle.path).push_to_hub("me/shop", private=True, token="hf_secret")
    assert url
    assert "private" in hub.created[0].values() or hub.created[0].get("private")
    assert "Bearer hf_secret" in hub.tokens
    assert {"manifest.json", "items.parquet", "README.md", "config.json"} <= set(hub.files)
    assert b"somebody" not in b"".join(hub.files.values())

    fetched = HubRecommender.from_pretrained("me/shop", cache_dir=tmp_path, token="hf_secret")
    assert fetched.bundle.item_ids == bundle.item_ids
    assert fetched.bundle.users.ids == []

    hub.files["items.parquet"] = hub.files["items.parquet"][:-1] + b"x"
    with pytest.raises(StoreError, match=r"items\.parquet"):
        HubRecommender.from_pretrained("me/shop", cache_dir=tmp_path / "again", token="hf_secret")


def test_a_repository_that_is_not_there_is_one_sentence(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(StoreError, match="me/nothing: the hub does not give it"):
        HubRecommender.from_pretrained("me/nothing", cache_dir=tmp_path)
