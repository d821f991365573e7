"""A bundle has the model's vectors, and folds users in as training's own code does."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError, StoreError
from recmind_dist.evaluation.item_shares import share_items
from recmind_dist.evaluation.popularity_penalty import penalised
from recmind_dist.export.write_bundle import histories_of_users, write_bundle
from recmind_dist.propagation.histories import Histories as TorchHistories
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.recommender import Recommender
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor
from tests.training_runs import config_of, make_inputs

KINDS: list[dict[str, Any]] = [
    {"kind": "recmind", "num_layers": 2, "views": "all", "recent_decay": 0.5},
    {"kind": "recmind", "num_layers": 2, "text_layers": 2},
    {
        "kind": "recmind",
        "views": "graph",
        "recent_decay": 0.7,
        "init": "normal",
    },
    {"kind": "recmind", "gate": {"degree_input": False}},
    {"kind": "lightgcn", "num_layers": 3},
    {"kind": "xsimgcl", "num_layers": 2},
    {"kind": "alpharec", "num_layers": 2},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return make_inputs(home, num_tested=50)


def make_model(home: Path, inputs: RunStores, **model: Any) -> ModelShard:
    """With random numbers in every parameter."""
    layers = 0 if model["kind"] == "mf" else model.get("num_layers", 2)
    config = config_of(
        home,
        "run",
        model={"embedding_dim": 8, **model},
        alignment={"weight": 0},
        sampler={"propagation": "full" if layers else "sampled", "num_neighbors": [4] * layers},
    )
    shard = ModelShard(config, inputs, DistContext.alone())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (shard.table.weight, *shard.model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return shard


def bundle_of(shard: ModelShard, to: Path, norm_exponent: float = 0.0) -> Bundle:
    write_bundle(shard, Cursor(norm_exponent=norm_exponent), {}, b"{}", to)
    return Bundle.open(to, verify=True)


@pytest.mark.parametrize("model", KINDS, ids=[f"{m['kind']}{k}" for k, m in enumerate(KINDS)])
def test_folding_in_is_that_of_training(
    home: Path, inputs: RunStores, tmp_path: Path, model: dict[str, Any]
) -> None:
    shard = make_model(home, inputs, **model)
    bundle = bundle_of(shard, tmp_path / "bundle")
    fold_in, users = FoldIn(bundle), np.arange(shard.graph.num_users)
    final = shard.final_embeddings().final.numpy()
    np.testing.assert_allclose(bundle.item_vectors, final[len(users) :], atol=1e-5)

    theirs = TorchHistories.of_graph(shard.rows, users)
    lists = np.split(theirs.items, theirs.indptr[1:-1])
    oldest_first = [
        items[np.argsort(-age, kind="stable")]
        for items, age in zip(lists, np.split(theirs.age, theirs.indptr[1:-1]), strict=True)
    ]
    histories = Histories.of(oldest_first)
    base = bundle.users.base(users)
    text = bundle.users.text(users) if "text" in bundle.users.columns else None
    np.testing.assert_allclose(fold_in(histories, base, text), final[: len(users)], atol=1e-4)

    new = shard.fold_in()(theirs).numpy()
    some = theirs.degree > 0  # torch divides by no item at all
    np.testing.assert_allclose(fold_in(histories)[some], new[some], atol=1e-4)


def test_scores_are_inner_products_under_a_norm_exponent(
    home: Path, inputs: RunStores, tmp_path: Path
) -> None:
    shard = make_model(home, inputs, kind="lightgcn")
    bundle = bundle_of(shard, tmp_path / "bundle", norm_exponent=0.5)
    h = shard.final_embeddings().final.numpy()[shard.graph.num_users :]
    expected = h / np.sqrt(np.linalg.norm(h, axis=1, keepdims=True))
    np.testing.assert_allclose(bundle.item_vectors, expected, atol=1e-5)


def test_a_users_vector_is_of_their_whole_history_and_none_of_it_is_recommended(
    home: Path, inputs: RunStores, tmp_path: Path
) -> None:
    shard = make_model(home, inputs, kind="recmind", views="all", recent_decay=0.5)
    bundle = bundle_of(shard, tmp_path / "bundle")
    items, ends = histories_of_users(shard.rows)
    user = np.array([3])
    history = bundle.users.histories(user)[0]
    assert history.tolist() == items[ends[3] : ends[4]].tolist()
    test = shard.graph.held_out("test")
    newest = test.indices[test.indptr[3]] - shard.graph.num_users
    assert history[-1] == newest, "what test held out comes last"
    again = FoldIn(bundle)(
        Histories.of([history]), bundle.users.base(user), bundle.users.text(user)
    )
    np.testing.assert_allclose(bundle.users.vectors(user), again, atol=1e-5)

    scores = bundle.item_vectors @ again[0]
    scores[history] = -np.inf
    found = Recommender(bundle).recommend("3", 5)
    assert [item.item_id for item in found] == [str(i) for i in np.argsort(-scores)[:5]]
    assert found[0].score == pytest.approx(scores.max(), rel=1e-5)


def test_files_of_a_bundle_have_the_mode_of_other_new_files(
    home: Path, inputs: RunStores, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        bundle_of(make_model(home, inputs, kind="recmind"), tmp_path / "bundle")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "bundle").iterdir()}
    assert modes == dict.fromkeys(modes, 0o640)
    assert "states.safetensors" in modes


def test_models_that_fold_nobody_in_rank_known_users_and_say_so(
    home: Path, inputs: RunStores, tmp_path: Path
) -> None:
    shard = make_model(home, inputs, kind="mf")
    recommender = Recommender(bundle_of(shard, tmp_path / "bundle"))
    assert len(recommender.recommend("0", 3)) == 3
    with pytest.raises(DataError, match="model of kind mf has no states"):
        recommender.recommend_from(["1"])


@pytest.mark.parametrize("name", ["items.parquet", "users.parquet", "states.safetensors"])
def test_a_flipped_byte_is_found_when_the_file_is_read(
    home: Path, inputs: RunStores, tmp_path: Path, name: str
) -> None:
    shard = make_model(home, inputs, kind="recmind")
    path = tmp_path / "bundle"
    bundle_of(shard, path)
    data = bytearray((path / name).read_bytes())
    at = len(data) // 3
    if name.endswith(".parquet"):  # in a column that is read
        group = pq.ParquetFile(path / name).metadata.row_group(0)
        vectors = next(
            group.column(k)
            for k in range(group.num_columns)
            if group.column(k).path_in_schema.startswith("vector")
        )
        at = vectors.data_page_offset + vectors.total_compressed_size // 2
    data[at] ^= 8
    (path / name).write_bytes(data)
    with pytest.raises(StoreError, match=name):
        rank_all(path)
    with pytest.raises(StoreError, match=name):
        Bundle.open(path, verify=True)


def rank_all(path: Path) -> None:
    recommender = Recommender(Bundle.open(path))
    recommender.recommend("3", 5)
    recommender.recommend_from(["1", "2"], user_id="3")


def test_a_popularity_penalty_of_a_bundle_is_that_of_evaluation(
    home: Path, inputs: RunStores, tmp_path: Path
) -> None:
    shard = make_model(home, inputs, kind="recmind")
    bundle = bundle_of(shard, tmp_path / "bundle")
    users = bundle.users.vectors(np.arange(5))
    items = share_items(
        np.arange(bundle.num_items), torch.from_numpy(bundle.item_vectors), shard.context
    )
    degree = np.asarray(shard.graph.degree)[shard.graph.num_users :]
    h, penalised_items = penalised(torch.from_numpy(users), items, degree, 0.0, 0.8)
    scores = (h @ penalised_items.h_iC.T).numpy()
    for user, found in enumerate(Recommender(bundle, None, 0.8).recommend(users=range(5), k=6)):
        expected = scores[user].copy()
        expected[bundle.users.histories(np.array([user]))[0]] = -np.inf
        assert [int(item.item_id) for item in found] == np.argsort(-expected)[:6].tolist()
        assert found[0].score == pytest.approx(expected.max(), rel=1e-4)
    plain, none = (Recommender(bundle, None, x).recommend("3", 6) for x in (0.8, 0.0))
    assert [item.item_id for item in plain] != [item.item_id for item in none]
    with pytest.raises(DataError, match="popularity penalty -1: give a number of 0 or more"):
        Recommender(bundle, None, -1.0)
